"""Reports as one HTML file each: no other file, no network, no inline style, no script but our own (by its hash).

Whatever stands in a comment, a label, a column or a file's name reaches the page as text: Jinja escapes all of it, and
the page's content security policy runs no other script than the one whose hash it names.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from reviewmill._version import __version__
from reviewmill.evaluate.labelled import SHOWN
from reviewmill.evaluate.plots import Line, interval_plot, reliability_plot, selection_plot
from reviewmill.evaluate.tags import TAGS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reviewmill.evaluate.compare import ComparedRow, Comparison, Pair
    from reviewmill.evaluate.measures import Measures, Slice, Threshold
    from reviewmill.evaluate.report import Data, Report, RowRecord

MOST_ERRORS: Final = 2000
LONGEST_TEXT: Final = 2000

_ACCEPT_AT: Final = 0.9


@dataclass(frozen=True, slots=True)
class Wrong:
    """One error as the page shows it: `parts` are pieces of the comment, marked where they are keywords."""

    row: RowRecord
    pair: str
    said: str
    gold_probability: float | None
    parts: list[tuple[bool, str]]


def report_page(report: Report) -> str:
    """An evaluation's report as HTML.

    Args:
        report: the evaluation.
    """
    wrong = sorted((row for row in report.rows if not row.right), key=lambda row: -(row.confidence or 0))
    errors = [_wrong(row) for row in wrong[:MOST_ERRORS]]
    best = report.best
    lines = [Line("", best.reliability, best.selection)]
    page = _environment().get_template("report.html.j2")
    return page.render(
        _frame(),
        r=report,
        gate=report.gate,
        present=[name for name in report.labels if report.data.labels.get(name)],
        accept=_accept(best),
        warnings_zh=_warnings_zh(report),
        shade=_shade,
        words=_words,
        reliability_plot=reliability_plot(lines) if best.reliability else "",
        selection_plot=selection_plot(lines) if best.selection else "",
        slices=_ordered(report.slices),
        errors=errors,
        left_off=len(wrong) - len(errors),
        pairs=Counter(error.pair for error in errors).most_common(),
        tags=[(tag, count) for tag in TAGS if (count := sum(tag in error.row.tags for error in errors))],
        facts=_facts(report),
    )


def comparison_page(comparison: Comparison) -> str:
    """A comparison as HTML.

    Args:
        comparison: what was compared.
    """
    systems = comparison.systems
    shown = [comparison.shown(one) for one in systems]
    lines = [Line(one.name, m.reliability, m.selection) for one, m in zip(systems, shown, strict=True)]
    differing = comparison.differing
    rows = [_differing(row, [one.name for one in systems]) for row in differing[:MOST_ERRORS]]
    return (
        _environment()
        .get_template("compare.html.j2")
        .render(
            _frame(),
            c=comparison,
            restricted=any(one.restricted for one in systems),
            spoken=any(one.system.confidence == "spoken" for one in systems),
            warnings_zh=_data_warnings_zh(comparison.data, comparison.labels),
            accept=_accept,
            minmax=_size,
            shade=_shade,
            words=_words,
            accuracy_plot=interval_plot(
                [one.name for one in systems], [one.measures.scores.accuracy for one in systems], "Accuracy"
            ),
            reliability_plot=reliability_plot(lines) if any(line.reliability for line in lines) else "",
            selection_plot=selection_plot(lines) if any(line.selection for line in lines) else "",
            agreement=_agreement(comparison),
            rows=rows,
            differing=len(differing),
            pairs=Counter(row.who for row in rows).most_common(),
        )
    )


@dataclass(frozen=True, slots=True)
class Differing:
    """One comment on which systems differ, and who is right about it."""

    row: ComparedRow
    who: str
    text: str


def _differing(row: ComparedRow, names: Sequence[str]) -> Differing:
    right = [name for name, label in zip(names, row.labels, strict=True) if label == row.gold]
    return Differing(row, " + ".join(right) or "nobody · 都不对", _cut(row.text))


def _size(pair: Pair) -> tuple[float, float]:
    """The interval of a difference as that of its size, in the direction in which it points."""
    low, high = pair.difference.low, pair.difference.high
    return (low, high) if pair.difference.value > 0 else (-high, -low)


def _agreement(comparison: Comparison) -> list[list[float]]:
    columns = [[row.labels[place] for row in comparison.rows] for place in range(len(comparison.systems))]
    return [[sum(a == b for a, b in zip(one, other, strict=True)) / len(one) for other in columns] for one in columns]


def _words(name: str) -> str:
    return name.replace("_", " ")


def _cut(text: str) -> str:
    return text[:LONGEST_TEXT] + ("…" if len(text) > LONGEST_TEXT else "")


def _frame() -> dict[str, Any]:
    style, script = _asset("page.css"), _asset("page.js")
    return {
        "style": Markup(style),  # noqa: S704 -- our own files
        "script": Markup(script),  # noqa: S704
        "style_hash": _hash(style),
        "script_hash": _hash(script),
        "version": __version__,
    }


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("reviewmill.evaluate", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _asset(name: str) -> str:
    return (resources.files("reviewmill.evaluate") / "page" / name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def _wrong(row: RowRecord) -> Wrong:
    said = row.label or row.status
    gold = row.probabilities.get(row.gold) if row.probabilities else None
    return Wrong(row, f"{row.gold} → {said}", said, gold, _parts(row))


def _parts(row: RowRecord) -> list[tuple[bool, str]]:
    """The comment in pieces, keywords apart; a very long one is cut."""
    text = _cut(row.text)
    parts: list[tuple[bool, str]] = []
    at = 0
    for start, end in sorted(row.spans):
        if start < at or end > len(text):
            continue
        parts += [(False, text[at:start]), (True, text[start:end])]
        at = end
    return [*((marked, part) for marked, part in parts if part), (False, text[at:])]


def _accept(best: Measures) -> Threshold | None:
    thresholds = best.selection.thresholds if best.selection else []
    return next((one for one in thresholds if one.confidence == _ACCEPT_AT and one.accuracy), None)


def _shade(count: int, of: int) -> int:
    share = count / of if of else 0
    return sum(share > edge for edge in (0.005, 0.05, 0.15, 0.35, 0.6))


def _ordered(slices: Sequence[Slice]) -> list[Slice]:
    """By dimension in the order of the report, the worst part first."""
    order = {by: place for place, by in enumerate(dict.fromkeys(one.by for one in slices))}
    return sorted(slices, key=lambda one: (order[one.by], one.accuracy.value))


_LEFT_OUT_ZH: Final = {
    "unreadable": "{} 行无法读取",
    "no_label": "{} 行没有标签",
    "no_text": "{} 行没有文本",
    "mapped_away": "{} 行按 --map 排除",
    "duplicate": "{} 行与前面的评论和标签重复",
    "contradiction": "{} 行的文本带有两种不同标签",
}


def _warnings_zh(report: Report) -> list[str]:
    """What the warnings say, from the same facts."""
    said = _data_warnings_zh(report.data, report.labels)
    if failed := report.unanswered.get("error"):
        said.append(f"{failed} 条评论失败；再次运行同一命令会重试。")
    if silent := report.unanswered.get("insufficient"):
        said.append(f"{silent} 条评论没有可判断的内容，未给标签；除“未作答计为错误”外不计入成绩。")
    if unsure := sum(row.status == "ok" and row.confidence is None for row in report.rows):
        said.append(f"{unsure} 个回答没有概率，校准与采纳不计入它们。")
    return said


def _data_warnings_zh(data: Data, labels: Sequence[str]) -> list[str]:
    said = []
    left_out = [words.format(n) for why, words in _LEFT_OUT_ZH.items() if (n := data.left_out.get(why))]
    if left_out:
        said.append(f"未计入：{'；'.join(left_out)}。")
    if data.unused:
        said.append(f"--map 中有文件里没有的标签：{'、'.join(data.unused[:SHOWN])}。")
    present = [name for name in labels if data.labels.get(name)]
    if len(present) == 1:
        said.append(f"所有行的标签都是 {present[0]}：准确率只是该标签的召回率，其余标签是否误用无从得知。")
    elif len(present) < len(labels):
        missing = "、".join(name for name in labels if name not in present)
        said.append(f"没有标签为 {missing} 的行：回答这些标签的单独计数，并另列只在出现的标签中选择的成绩。")
    if data.rows < 100:
        said.append(f"只有 {data.rows} 行：区间很宽，小的差异没有意义。")
    if data.calibrated_on:
        said.append(
            "所用校准正是在本文件上拟合的：这里的置信度显得过好。"
            "请看 reviewmill calibrate 打印的结果（未参与拟合的行），或换一个文件评估。"
        )
    return said


def _facts(report: Report) -> list[tuple[str, str, str]]:
    data, system = report.data, report.system
    mapping = ", ".join(f"{given} → {wanted or '∅'}" for given, wanted in data.mapping.items())
    labels = ", ".join(f"{name} {count:,}" for name, count in data.labels.items())
    facts = [
        ("file", "文件", f"{data.file} (SHA-256 {data.sha256})"),
        ("label column", "标签列", data.label_column),
        ("mapping", "标签映射", mapping),
        ("right labels", "正确标签", labels),
        ("model", "模型", f"{system.model} ({system.fingerprint})"),
        ("endpoint", "端点", system.endpoint),
        ("task", "任务", f"{system.task} (SHA-256 {system.task_hash})"),
        ("prompt", "提示词", f"{system.prompt} · {system.wire}{'' if system.keywords else ' · no keywords'}"),
        ("calibration", "校准", system.calibration or ""),
        ("reviewmill", "reviewmill", report.reviewmill),
    ]
    return [fact for fact in facts if fact[2]]
