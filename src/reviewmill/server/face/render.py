r"""Analyses as an answer that people read: Markdown. Pure.

What stands in a comment is hostile: nothing in it may become a link, a picture, HTML, a table cell or any other thing
than its characters, in whatever renders the answer. So each character that Markdown, GitHub's tables and links, or
the formulas of chat programs could take for their own gets a backslash (CommonMark 0.31.2, section 2.4). Numeric
references (`&#46;`) would do in a renderer that makes HTML, but Open WebUI 0.12.4 shows the text of an answer as it
stands in the source, so that people would read `5&#46;5` (its `TextToken.svelte`).

A backslash alone does not always do:

- `\[` begins a formula in some programs, and a new line in Open WebUI. `\(` does so only where `\)` ends it, which is
  never written here.
- Open WebUI takes `<details` at the beginning of a paragraph for its own, also behind a backslash.
- Some look for addresses only after backslashes are gone (cmark-gfm, remark-gfm).
- A character beyond ASCII cannot be escaped.

There, a word joiner (U+2060) stands between two characters. It cannot be seen, and is neither space nor punctuation.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from reviewmill.schema import Analysis
from reviewmill.server.face.words import CHINESE, ENGLISH, Words
from reviewmill.tasks import Task

MAX_ROWS: Final = 200
"""Rows of a table; the others are in the file that the link names."""

_BAR: Final = 20
_COMMENT_CHARS: Final = 60
_KEYWORD_CHARS: Final = 24
_LABEL_CHARS: Final = 40
_MESSAGE_CHARS: Final = 100
_QUOTE_CHARS: Final = 6_000
_LINE: Final = re.compile(r"[^\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")

_UNSEEN: Final = "\ufffd"
# Marks that turn the direction of what follows them, and so the order of what is read.
_TURNING: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_JOINING: Final = "\u200d\ufe0e\ufe0f"

_ALWAYS: Final = frozenset("\\`*_{}<>&|#~$^=@+(")
# These mean something only beside certain others; where they do not, English stays readable as it is.
_SOMETIMES: Final = re.compile(
    r"\A[!-(*-/:-@\\^-`{-~]|\.(?=\S)|(?<=\d)\.|(?<![^\W_])-|-(?![^\W_])|:(?=\S)|[!?,](?=[!?,])"
)
_JOINER: Final = "\u2060"
_BACKSLASH: Final = "\\"
# What a joiner stands behind: brackets, which make links, footnotes and citations together with what follows them;
# backslashes, which make formulas so; the middle of addresses; the number of a list's item ("1)").
_JOINED: Final = re.compile(r"[\\\[\]<]|(?<=:/)/(?=\S)|[wW](?=\.)|@(?=\S)|\A\d+(?=\))")


def render(analyses: Sequence[Analysis], task: Task, *, link: str | None = None) -> str:
    """The answer to a message: one analysis in full, or several as a table.

    Args:
        analyses: at least one, all of this task.
        task: the task.
        link: where the whole file is, if the table does not show all.
    """
    return render_one(analyses[0]) if len(analyses) == 1 else render_many(analyses, task, link=link)


def render_one(analysis: Analysis, words: Words | None = None) -> str:
    """One analysis: label, confidence as a bar, all probabilities, the comment with its keywords in bold.

    The words around the comment, if not given, are Chinese if the comment is.
    """
    words = words or (CHINESE if _is_chinese(analysis) else ENGLISH)
    marks = [(span["start"], span["end"]) for span in analysis["spans"]]
    parts = [_verdict(analysis, words), _probabilities(analysis, words), quote(analysis["original_text"], marks)]
    if analysis["keywords"]:
        parts.append(f"{words.keywords}{words.colon}{_keywords(analysis, words)}")
    notes = [words.notes[flag] for flag in analysis["flags"] if flag in words.notes]
    if analysis["needs_review"] and analysis["status"] != "error":
        notes.append(words.review)
    return "\n\n".join(filter(None, [*parts, " ".join(notes)])) + "\n"


def _verdict(analysis: Analysis, words: Words) -> str:
    if analysis["status"] == "ok":
        confidence = analysis["confidence"]
        label = f"**{label_of(analysis.label or '', words)}**"
        return f"{label} — {words.no_confidence}" if confidence is None else f"{label} {bar(confidence)}"
    return (
        f"**{words.insufficient if analysis['status'] == 'insufficient' else words.error}**{_reason(analysis, words)}"
    )


def _reason(analysis: Analysis, words: Words) -> str:
    """Why there is no label."""
    error = analysis["error"]
    if error is not None:
        return f"{words.colon}{inline(error['message'], _MESSAGE_CHARS)}"
    reasons = [words.reasons[flag] for flag in analysis["flags"] if flag in words.reasons]
    return "".join(f"{words.colon}{reason}" for reason in reasons)


def bar(share: float) -> str:
    """A share (0 to 1) as a bar of characters, and in per cent."""
    full = round(share * _BAR)
    return f"{'█' * full}{'░' * (_BAR - full)} {percent(share)}"


def percent(share: float) -> str:
    """A share (0 to 1) in per cent."""
    # Rounded down: nothing is shown as 100% that is not.
    return f"{int(share * 1000 + 1e-6) / 10:.1f}%"


def _probabilities(analysis: Analysis, words: Words) -> str:
    ranked = sorted(analysis["probabilities"].items(), key=lambda item: -item[1])
    return " · ".join(f"{label_of(name, words)} {percent(share)}" for name, share in ranked)


def label_of(name: str, words: Words) -> str:
    """A label's name in a language, safe in Markdown."""
    return words.labels.get(name) or inline(name, _LABEL_CHARS)


def _keywords(analysis: Analysis, words: Words) -> str:
    return words.comma.join(inline(keyword, _KEYWORD_CHARS) for keyword in analysis["keywords"])


def _is_chinese(analysis: Analysis) -> bool:
    language: str | None = analysis["language"]
    if language is None:  # emoji alone, or refused before it was read
        return bool(re.search(r"[\u4e00-\u9fff]", analysis["original_text"][:1000]))
    return language == "zh" or language.startswith("zh-")


def render_many(analyses: Sequence[Analysis], task: Task, *, link: str | None = None) -> str:
    """Several analyses: how many of each label, then a table of at most `MAX_ROWS` rows, then where the others are.

    The words are Chinese if at least half of the comments are.
    """
    words = CHINESE if 2 * sum(map(_is_chinese, analyses)) >= len(analyses) else ENGLISH
    lines = [_counts(analyses, task, words), "", *table(enumerate(analyses[:MAX_ROWS], 1), words)]
    if len(analyses) > MAX_ROWS:
        lines += ["", words.more.format(shown=MAX_ROWS, all=len(analyses))]
    if link is not None:
        lines += ["", f"[{words.whole_file}](<{link}>)"]
    return "\n".join(lines) + "\n"


def table(rows: Iterable[tuple[int, Analysis]], words: Words) -> list[str]:
    """The lines of a table of rows with their numbers; at most `MAX_ROWS` should be given."""
    shown = list(rows)
    lines = [cells(words.header), cells(["--:", ":--", ":--", "--:", ":--"])]
    lines += [_table_row(number, analysis, words) for number, analysis in shown]
    if any(analysis["status"] == "ok" and analysis["needs_review"] for _, analysis in shown):
        lines += ["", f"? {words.review}"]
    return lines


def _counts(analyses: Sequence[Analysis], task: Task, words: Words) -> str:
    labels = Counter(analysis.label for analysis in analyses if analysis["status"] == "ok")
    statuses = Counter(analysis["status"] for analysis in analyses)
    counts = [(label_of(name, words), labels[name]) for name in task.label_names]
    counts += [
        (name, count)
        for name, count in ((words.insufficient, statuses["insufficient"]), (words.error, statuses["error"]))
        if count
    ]
    shares = [f"{name} {count:,} ({count / len(analyses):.1%})" for name, count in counts]
    return " · ".join([f"**{len(analyses):,} {words.comments}**", *shares])


def _table_row(number: int, analysis: Analysis, words: Words) -> str:
    if analysis["status"] == "ok":
        confidence = analysis["confidence"]
        label = label_of(analysis.label or "", words) + (" ?" if analysis["needs_review"] else "")
        share = "—" if confidence is None else percent(confidence)
    else:
        other = {"insufficient": words.insufficient, "deleted": words.deleted}
        label = other.get(analysis["status"], words.error)
        label, share = f"{label}{_reason(analysis, words)}", ""
    comment = inline(analysis["original_text"] or "", _COMMENT_CHARS)
    return cells([str(number), comment, label, share, _keywords(analysis, words)])


def cells(contents: Iterable[str]) -> str:
    """One line of a table."""
    return f"| {' | '.join(contents)} |"


# --- hostile text -----------------------------------------------------------------------------------------------------


def visible(text: str) -> str:
    """The characters that an answer shows of a text, on one line.

    White space, line ends among it, is one space each; what would turn the order of reading or has no form (controls,
    lone surrogates) is U+FFFD.
    """
    return " ".join("".join(map(_seen, text)).split())


def _seen(char: str) -> str:
    if char.isspace() or (char.isascii() and char.isprintable()):
        return char
    return _UNSEEN if char in _TURNING or unicodedata.category(char) in {"Cc", "Cs"} else char


def shorten(text: str, most: int) -> str:
    """What is visible of the beginning of a text, with an ellipsis if that is not all of it."""
    seen = visible(text[: 8 * most])
    if len(seen) <= most and len(text) <= 8 * most:
        return seen
    return seen[: most - 1].rstrip().rstrip(_JOINING) + "…"


def inline(text: str, most: int) -> str:
    """Any text as Markdown inside a line or a table's cell, at most so many characters of it."""
    return _escape(shorten(text, most), {})


def quote(text: str, marks: Iterable[tuple[int, int]] = ()) -> str:
    """Any text as a Markdown quote that keeps its lines; "" if nothing of it is visible.

    Args:
        text: the text; of a very long one, the beginning.
        marks: what to set in bold, as half-open ranges of its characters.
    """
    bold = {at for start, end in marks for at in range(start, min(end, _QUOTE_CHARS))}
    lines = [_quoted_line(match, bold) for match in _LINE.finditer(text[:_QUOTE_CHARS])]
    lines += ["…"] if len(text) > _QUOTE_CHARS else []
    return "  \n".join(f"> {line}" for line in lines if line)


def _quoted_line(line: re.Match[str], bold: set[int]) -> str:
    """One line, in which white space is single spaces, as `visible` has it."""
    chars: list[str] = []
    marked: list[bool] = []
    for at, char in enumerate(line[0], line.start()):
        if not char.isspace():
            chars.append(_seen(char))
            marked.append(at in bold)
        elif chars and chars[-1] != " ":
            chars.append(" ")
            marked.append(at in bold)
    text = "".join(chars).rstrip()
    return _escape(text, dict(_runs(text, marked)))


def _runs(text: str, marked: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """Where marked characters begin and end, without spaces at the edges."""
    end = 0
    for start in range(len(text)):
        if start < end or not marked[start] or text[start] == " ":
            continue
        end = next((at for at in range(start, len(text)) if not marked[at]), len(text))
        while text[end - 1] == " ":
            end -= 1
        yield start, end


def _escape(text: str, bold: Mapping[int, int]) -> str:
    """Visible text as Markdown that shows exactly it, with these ranges in bold.

    Emphasis needs care where it begins or ends with punctuation, as in `很**（差）**啊`: such asterisks mean something
    only if what is outside is punctuation too (CommonMark 0.31.2, section 6.2). A joiner inside of them is none.
    """
    coded = {match.start() for match in _SOMETIMES.finditer(text)}
    coded |= {at for at, char in enumerate(text) if char in _ALWAYS}
    before = dict.fromkeys((match.end() for match in _JOINED.finditer(text)), _JOINER)
    for start, end in bold.items():
        before[start] = "**" + _joiner_at(text[start], before.get(start, ""))
        before[end] = _joiner_at(text[end - 1], before.get(end, "")) + "**"
    pieces = [f"{before.get(at, '')}{_BACKSLASH if at in coded else ''}{char}" for at, char in enumerate(text)]
    return "".join(pieces) + before.get(len(text), "")


def _joiner_at(edge: str, known: str) -> str:
    """What stands between asterisks and the character at the edge of what they set in bold."""
    return known if edge.isalnum() else _JOINER
