"""What is said about many analysed comments at once: counts, shares, bars, keywords, chosen rows, links. Pure.

All numbers are counted by the caller and only set here; all text that people or models wrote is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from reviewmill.schema import Analysis
from reviewmill.server.face.followups import FollowUp
from reviewmill.server.face.render import bar, cells, inline, label_of, percent, render_one, table
from reviewmill.server.face.words import Words

UNCERTAIN_ROWS: Final = 10

_NAME_CHARS: Final = 80
_KEYWORD_CHARS: Final = 24
_KEYWORDS_SHOWN: Final = 8
_THEMES: Final = 6

Numbered = tuple[int, Analysis]
"""A row's number, from 1, and its analysis."""


@dataclass(frozen=True, slots=True)
class Link:
    """Where a result lies: its address for each format, and for how many days."""

    formats: Mapping[str, str]
    days: float

    def shown(self, words: Words, *, only: str | None = None) -> str:
        """The links, in a language; all of them, if the only one that is wanted is not there."""
        kinds = [kind for kind in self.formats if kind == only] or list(self.formats)
        links = " · ".join(f"[{kind.upper()}](<{self.formats[kind]}>)" for kind in kinds)
        return links + words.say["link_days"].format(days=f"{self.days:g}")


def file_line(name: str, rows: int, column: str | None, words: Words) -> str:
    """What file it is about."""
    shown = {"name": inline(name, _NAME_CHARS), "column": inline(column or "", _NAME_CHARS)}
    return words.say["file"].format(rows=rows, **shown)


def time_left(seconds: float, words: Words) -> str:
    """How long it will take, roughly."""
    if seconds < 90:
        return words.say["seconds"].format(count=max(5, round(seconds / 5) * 5))
    if seconds < 90 * 60:
        return words.say["minutes"].format(count=round(seconds / 60))
    return words.say["hours"].format(count=f"{seconds / 3600:.1f}")


def counts_table(counts: Mapping[str, Any], labels: Sequence[str], words: Words) -> list[str]:
    """Each label with its count, its share of all rows, and a bar; then what has no label."""
    total = counts["rows"]
    lines = [(label_of(name, words), counts["labels"].get(name, 0)) for name in labels]
    others = {"insufficient": words.insufficient, "error": words.error, "deleted": words.deleted}
    lines += [(said, counts["statuses"][status]) for status, said in others.items() if counts["statuses"].get(status)]
    rows = [cells([name, f"{count:,}", *_share(count / total if total else 0.0)]) for name, count in lines]
    header = cells([words.say["label"], words.say["count"], words.say["share"], ""])
    return [header, cells([":--", "--:", "--:", ":--"]), *rows]


def _share(share: float) -> tuple[str, str]:
    shown, value = bar(share).rsplit(" ", 1)
    return value, shown


def facts_line(counts: Mapping[str, Any], words: Words) -> str:
    """Mean confidence, and how many a person should look at."""
    facts = []
    if counts.get("mean_confidence") is not None:
        facts.append(words.say["mean"].format(mean=percent(counts["mean_confidence"])))
    if counts.get("needs_review"):
        facts.append(words.say["to_review"].format(count=counts["needs_review"]))
    return " · ".join(facts)


def keyword_lines(counts: Mapping[str, Any], labels: Sequence[str], words: Words) -> list[str]:
    """The most frequent keywords of each label, with their counts."""
    lines = []
    for name in labels:
        top = counts["top_keywords"].get(name, [])[:_KEYWORDS_SHOWN]
        if top:
            said = words.comma.join(f"{inline(keyword, _KEYWORD_CHARS)} ({count:,})" for keyword, count in top)
            lines.append(f"- {label_of(name, words)}{words.colon}{said}")
    return [f"**{words.keywords}**", "", *lines] if lines else []


def summary(
    counts: Mapping[str, Any],
    labels: Sequence[str],
    uncertain: Sequence[Numbered],
    words: Words,
    *,
    link: Link | None,
) -> str:
    """All that matters about a set: counts, keywords, what is least certain, where the whole result is, what to ask."""
    parts = ["\n".join(counts_table(counts, labels, words)), facts_line(counts, words)]
    parts.append("\n".join(keyword_lines(counts, labels, words)))
    if uncertain:
        parts.append(f"**{words.say['uncertain']}**\n\n" + "\n".join(table(uncertain, words)))
    if link is not None:
        parts.append(words.say["result"] + link.shown(words))
    parts.append(words.say["ask_more"].format(examples=examples(uncertain, labels, words)))
    return "\n\n".join(filter(None, parts)) + "\n"


def examples(rows: Sequence[Numbered], labels: Sequence[str], words: Words) -> str:
    """Questions that can be asked next."""
    number, label = next(((n, a.label) for n, a in rows if a["status"] == "ok"), (1, labels[-1] if labels else ""))
    return words.say["examples"].format(row=number, label=label_of(label or "", words))


def chosen(
    wanted: FollowUp, found: int, rows: Sequence[Numbered], total: int, words: Words, *, link: Link | None
) -> str:
    """Some rows of a set, as they were asked for.

    Args:
        wanted: what was asked.
        found: how many there are.
        rows: those that are shown.
        total: all rows of the set.
        words: the language.
        link: where all of this kind are, if not all are shown.
    """
    what = what_of(wanted, words)
    if not found:
        return words.say["none"].format(all=total, what=what) + "\n"
    head = words.say["of"].format(shown=found, all=total, what=what)
    parts = [head if what else words.say["all_of_them"].format(all=total), "\n".join(table(rows, words))]
    if found > len(rows):
        parts.append(words.say["first"].format(shown=len(rows)))
    if link is not None:
        parts.append(words.say["result_of"] + link.shown(words))
    return "\n\n".join(parts) + "\n"


def what_of(wanted: FollowUp, words: Words) -> str:
    """What kind of rows was asked for."""
    only = {"review": words.say["needs_review"], "error": words.error, "insufficient": words.insufficient}
    parts = [words.comma.join(label_of(name, words) for name in wanted.labels)] if wanted.labels else []
    parts += [only[wanted.only]] if wanted.only else []
    parts += [words.say["about"].format(text=inline(wanted.about, _KEYWORD_CHARS))] if wanted.about else []
    return " · ".join(parts)


def one_row(number: int, analysis: Analysis, claimed: Sequence[str], words: Words) -> str:
    """One row in full, and whether it has the label that whoever asked thinks it has."""
    if analysis["status"] == "deleted":
        return words.say["row_deleted"].format(row=number) + "\n"
    parts = [words.say["row"].format(row=number)]
    if claimed and analysis["status"] == "ok" and analysis.label not in claimed:
        named = words.comma.join(label_of(name, words) for name in claimed)
        parts.append(words.say["not_so"].format(claimed=named, label=label_of(analysis.label or "", words)))
    return "\n\n".join([*parts, render_one(analysis, words)])


def themes(keywords: Sequence[tuple[str, int, int]], words: Words) -> str:
    """What comments are about: keywords with how many comments have them, and one row as an example."""
    if not keywords:
        return ""
    lines = [
        "- " + words.say["theme"].format(keyword=inline(keyword, _KEYWORD_CHARS), count=count, row=row)
        for keyword, count, row in keywords[:_THEMES]
    ]
    return "\n".join([words.say["themes"], "", *lines])
