"""Draw a report: as text for a terminal, as SVG for a page."""

from __future__ import annotations

from html import escape
from typing import Final

from reviewmill.bench.measure import Level, Report

_WIDTH: Final = 40
_PARTS: Final = " ▏▎▍▌▋▊▉"


def name_of(level: Level) -> str:
    """How a level is called."""
    return f"auto ({level.concurrency})" if level.auto else f"{level.concurrency}"


def bars(report: Report) -> list[str]:
    """Comments a second as bars, one line a level; a mark stands where the engine's own rate is."""
    most = max(max(level.comments_per_second, level.raw_per_second) for level in report.levels)
    widest = max(len(name_of(level)) for level in report.levels)
    lines = []
    for level in report.levels:
        eighths = round(level.comments_per_second / most * _WIDTH * 8)
        bar = "█" * (eighths // 8) + _PARTS[eighths % 8].strip()
        mark = min(_WIDTH, round(level.raw_per_second / most * _WIDTH))
        padded = bar.ljust(_WIDTH + 1)
        padded = padded if len(bar) > mark else f"{padded[:mark]}|{padded[mark + 1 :]}"
        lines.append(f"{name_of(level):>{widest}}  {padded} {level.comments_per_second:8.2f}/s")
    return lines


def svg(report: Report) -> str:
    """The same as a picture: the run's rate as a filled bar, the engine's own as its outline."""
    left, top, width, row = 110, 64, 420, 34
    height = top + row * len(report.levels) + 40
    most = max(max(level.comments_per_second, level.raw_per_second) for level in report.levels)
    title = escape(f"{report.model}, {report.task}: comments a second")
    what = escape(f"{report.endpoint}; answer format {report.wire}; outline: the engine alone, same prompts")
    pieces = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 130}" height="{height}" '
        f'font-family="sans-serif" font-size="13" role="img" aria-label="{title}">',
        f'<rect width="100%" height="100%" fill="#ffffff"/><text x="16" y="26" font-size="16">{title}</text>',
        f'<text x="16" y="46" fill="#555555" font-size="11">{what}</text>',
    ]
    for number, level in enumerate(report.levels):
        y = top + row * number
        own, raw = (rate / most * width for rate in (level.comments_per_second, level.raw_per_second))
        pieces += [
            f'<text x="{left - 10}" y="{y + 18}" text-anchor="end">{escape(name_of(level))}</text>',
            f'<rect x="{left}" y="{y + 4}" width="{own:.1f}" height="20" fill="#2b6cb0"/>',
            f'<rect x="{left}" y="{y + 4}" width="{raw:.1f}" height="20" fill="none" stroke="#1a202c"/>',
            f'<text x="{left + max(own, raw) + 8:.1f}" y="{y + 18}">{level.comments_per_second:.2f} '
            f'<tspan fill="#555555">({level.ratio:.1%})</tspan></text>',
        ]
    pieces.append(f'<text x="{left}" y="{height - 14}" fill="#555555" font-size="11">requests in flight ↑</text></svg>')
    return "\n".join(pieces) + "\n"
