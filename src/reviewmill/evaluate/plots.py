"""Plots as inline SVG that follow the page's colors, light and dark, and need neither inline styles nor fonts.

matplotlib draws with stand-in colors; `_themed` turns its style attributes into presentation attributes and the
stand-ins into classes, so that a page with a strict content security policy can show them, and its style sheet decides.
"""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal
from xml.etree import ElementTree as ET

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from reviewmill.evaluate.measures import Estimate, Reliability, Selection

_SVG: Final = "http://www.w3.org/2000/svg"
_XLINK: Final = "http://www.w3.org/1999/xlink"

# Stand-ins: matplotlib writes them into the SVG, the style sheet gives them their colors.
INK, MUTED, GRID = "#010101", "#020202", "#030303"
SERIES: Final = ("#0a0a01", "#0a0a02", "#0a0a03", "#0a0a04", "#0a0a05", "#0a0a06", "#0a0a07", "#0a0a08")
_CLASSES: Final = {INK: "ink", MUTED: "muted", GRID: "grid"} | {color: f"c{n}" for n, color in enumerate(SERIES)}

_ROOM: Final = 0.15
"""Around everything, in inches."""

_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "reviewmill",
    "text.parse_math": False,
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
}


@dataclass(frozen=True, slots=True)
class Line:
    """One system in a plot: its name and what is drawn of it."""

    name: str
    reliability: Reliability | None
    selection: Selection | None


def reliability_plot(lines: Sequence[Line]) -> Markup:
    """Accuracy over confidence, with 95% intervals; on the diagonal, confidence means what it says.

    Args:
        lines: the systems; those without confidences are left out.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(4.6, 4.2)
        drawn = [line for line in lines if line.reliability]
        lowest = min([one.confidence for line in drawn for one in _bins(line)], default=0.5)
        least = min([one.accuracy.low for line in drawn for one in _bins(line)], default=0.5)
        start = max(0.0, min(lowest, least) - 0.03)
        axes.plot([start, 1], [start, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for color, line in zip(SERIES, drawn, strict=False):
            bins = _bins(line)
            x = [one.confidence for one in bins]
            y = [one.accuracy.value for one in bins]
            below = [one.accuracy.value - one.accuracy.low for one in bins]
            above = [one.accuracy.high - one.accuracy.value for one in bins]
            axes.errorbar(
                x,
                y,
                yerr=[below, above],
                color=color,
                linewidth=1.5,
                elinewidth=1,
                marker="o",
                markersize=4,
                label=line.name,
            )
        axes.set(xlim=(start, 1.01), ylim=(start, 1.01), xlabel="confidence · 置信度", ylabel="right · 正确率")
        axes.set_aspect("equal")
        _percent(axes, "xy")
        _legend(axes, drawn, "upper left")
        return _themed(figure, "Reliability diagram")


def _bins(line: Line) -> Sequence[Any]:
    return line.reliability.bins if line.reliability else []


def selection_plot(lines: Sequence[Line]) -> Markup:
    """Accuracy of what is accepted over the share that is accepted, most confident first.

    Args:
        lines: the systems; those without confidences are left out.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(5.4, 4.2)
        drawn = [line for line in lines if line.selection]
        lowest = 1.0
        for color, line in zip(SERIES, drawn, strict=False):
            # The first few rows jump between 0 and 1 and say nothing.
            points = [point for point in _curve(line) if point[0] >= 0.02] or _curve(line)
            axes.plot([x for x, _ in points], [y for _, y in points], color=color, linewidth=1.8, label=line.name)
            lowest = min(lowest, *(y for _, y in points))
        axes.set(
            xlim=(0, 1.01),
            ylim=(max(0.0, lowest - 0.02), 1.002),
            xlabel="accepted without a look · 自动采纳的比例",
            ylabel="right among them · 其中正确",
        )
        _percent(axes, "xy")
        _legend(axes, drawn, "lower left")
        return _themed(figure, "Accuracy over coverage")


def _curve(line: Line) -> Sequence[tuple[float, float]]:
    return line.selection.curve if line.selection else []


def interval_plot(names: Sequence[str], estimates: Sequence[Estimate], title: str) -> Markup:
    """One point with its 95% interval for each name, first at the top.

    Args:
        names: of the rows.
        estimates: shares.
        title: what is shown, for those who cannot see it.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(6.4, 0.7 + 0.42 * len(names))
        for place, (color, estimate) in enumerate(zip(SERIES * len(names), estimates, strict=False)):
            axes.plot([estimate.low, estimate.high], [place, place], color=color, linewidth=2.5, solid_capstyle="round")
            axes.plot([estimate.value], [place], color=color, marker="o", markersize=6)
        axes.set_yticks(range(len(names)), labels=list(names))
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        _percent(axes, "x")
        return _themed(figure, title)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    # Texts are measured in matplotlib's font, which lacks Chinese, and drawn in the browser's, which may be wider.
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=_ROOM, h_pad=_ROOM))
    return figure, figure.add_subplot()


def _percent(axes: Axes, which: str) -> None:
    for name in which:
        getattr(axes, f"{name}axis").set_major_formatter(lambda share, _: f"{100 * share:.6g}%")


def _legend(axes: Axes, drawn: Sequence[Line], place: Literal["upper left", "lower left"]) -> None:
    if len(drawn) > 1:
        axes.legend(loc=place)


# -- from matplotlib's SVG to the page's ----------------------------------------------------------------------------


def _themed(figure: Figure, title: str) -> Markup:
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # names may be Chinese; the browser has the glyphs, and draws the text
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK)
    root = ET.fromstring(buffer.getvalue())  # noqa: S314 -- what matplotlib just wrote
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in {f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"}:
                parent.remove(child)
    used = set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", buffer.getvalue().decode()))
    for element in root.iter():
        _plain(element)
        if element.get("id") not in used:
            element.attrib.pop("id", None)
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    root.set("class", "plot")
    root.set("role", "img")
    root.set("aria-label", title)
    return Markup(ET.tostring(root, encoding="unicode"))  # noqa: S704 -- ElementTree escaped every text


def _plain(element: ET.Element) -> None:
    """Style declarations become attributes; stand-in colors become classes."""
    classes = []
    for declaration in element.attrib.pop("style", "").split(";"):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name == "font":
            size = re.search(r"([\d.]+)px", value)
            element.set("font-size", size[1] if size else "10")
        elif name:
            element.set(name, value)
    for name in ("fill", "stroke"):
        if (color := element.get(name, "")) in _CLASSES:
            element.attrib.pop(name)
            classes.append(f"{name}-{_CLASSES[color]}")
    if element.tag == f"{{{_SVG}}}text" and not any(one.startswith("fill-") for one in classes):
        classes.append("fill-ink")
    if classes:
        element.set("class", " ".join(classes))
