"""Show a scaling curve as a table, a verdict and a plot. Pure functions: no measurement, no clock, no file.

A curve says how a time grows with something else, such as the time per trade with the number of symbols. It
counts as no worse than logarithmic if no point takes more than ``allowed`` times as long as the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import log10
from typing import Final

from bench.table import STYLE

A_TENFOLD: Final = 0.5
"""Each tenfold of work may add this share of the first point's time. A constant per tenfold is a logarithm.

Without a limit on the factor, any growth would pass as some logarithm. A factor of 0.5 rejects even a cube
root, which adds 1.2 times in the first tenfold and 9 times over three. A smaller factor would measure noise:
two runs of the same point differed by a third.
"""

_PANEL_WIDTH: Final = 370
_PANEL_HEIGHT: Final = 230
_LEFT: Final = 34
_RIGHT: Final = 24
_TOP: Final = 52
_BOTTOM: Final = 44
_LINES: Final = (
    ".line{fill:none;stroke:#1a7f64;stroke-width:2}.bound{fill:none;stroke:#57606a;stroke-dasharray:4 4}"
    ".axis{stroke:#9db4ae}@media(prefers-color-scheme:dark){.line{stroke:#3fb68b}.bound{stroke:#9198a1}"
    ".axis{stroke:#4d655e}}"
)


@dataclass(frozen=True, slots=True)
class Point:
    """The figures measured for one amount of work."""

    work: float
    """The position on the axis, such as the number of symbols."""
    figures: Mapping[str, float | None]
    """Figures by name, which includes the unit. None: not measured. Empty mapping: no figure is valid."""
    failure: str = ""
    """Why no figure is valid."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Points along one axis, the smallest amount of work first."""

    title: str
    axis: str
    """Name of what grows."""
    judged: str
    """Name of the time that must not grow faster than a logarithm; it is plotted."""
    points: Sequence[Point]
    beside: str = ""
    """Name of a second time that is judged but not plotted, such as CPU time, which is less noisy."""

    def ratio(self, point: Point, name: str) -> float | None:
        """Divide the point's figure by the first point's; None if either is missing."""
        own, first = point.figures.get(name), self.points[0].figures.get(name)
        return own / first if own is not None and first else None

    def allowed(self, point: Point) -> float:
        """Return the largest allowed ratio of this point's time to the first point's."""
        return 1 + A_TENFOLD * log10(point.work / self.points[0].work)

    def holds(self, name: str = "") -> bool | None:
        """Whether every point of the time ``name`` (default: ``judged``) is within its limit.

        None if no point is above its limit but a figure is missing.
        """
        ratios = [(self.ratio(point, name or self.judged), self.allowed(point)) for point in self.points]
        if any(ratio is not None and ratio > allowed for ratio, allowed in ratios):
            return False
        return None if any(ratio is None for ratio, _ in ratios) else True

    def words(self) -> str:
        """Return the verdict, one sentence for each time that is judged."""
        return " ".join(self._words(name) for name in (self.judged, self.beside) if name)

    def _words(self, name: str) -> str:
        holds = self.holds(name)
        if holds is None:
            return f"No verdict on {name}: a point has no figure."
        compared = [
            f"{ratio:.2f} at {point.work:,.0f} (at most {self.allowed(point):.2f})"
            for point in self.points[1:]
            if (ratio := self.ratio(point, name)) is not None
        ]
        said = "No worse than logarithmic" if holds else "**Worse than logarithmic**"
        return f"{said}: {name} over the first point's {', '.join(compared)}."


def markdown(curve: Curve) -> str:
    """Return the curve as a table with ratios to the first point, and the verdict below it."""
    names = list(dict.fromkeys(name for point in curve.points for name in point.figures))
    lines = [
        f"| {' | '.join((curve.axis, *names, 'at most'))} |",
        f"|{'---:|' * (len(names) + 2)}",
    ]
    for point in curve.points:
        if point.figures:
            cells = [_cell(point.figures.get(name), curve.ratio(point, name)) for name in names]
            cells.append(f"{curve.allowed(point):.2f}")
        else:
            cells = [f"no figure: {point.failure}", *[""] * len(names)]
        lines.append(f"| {' | '.join((f'{point.work:,.0f}', *cells))} |")
    return "\n".join([f"## {curve.title}", "", *lines, "", curve.words()])


def _cell(figure: float | None, ratio: float | None) -> str:
    if figure is None:
        return ""
    text = f"{figure:,.0f}" if figure >= 1_000 else f"{figure:.1f}"
    return text if ratio is None else f"{text} ({ratio:.2f})"


def svg(curves: Sequence[Curve], subtitle: str) -> str:
    """Draw a panel for each curve: the ratio of its judged time to the first point's; the limit is dashed."""
    panels = "\n".join(
        f'<g transform="translate({place % 2 * _PANEL_WIDTH} {_TOP + place // 2 * _PANEL_HEIGHT})">'
        f"{_panel(curve)}</g>"
        for place, curve in enumerate(curves)
    )
    width, height = 2 * _PANEL_WIDTH, _TOP + (len(curves) + 1) // 2 * _PANEL_HEIGHT
    return f"""<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" \
viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" font-size="12" role="img">
<style>{STYLE}{_LINES}</style>
<text class="text" x="0" y="18" font-size="15" font-weight="600">Time for one unit of work, relative to \
the first point</text>
<text class="quiet" x="0" y="38">{escape(subtitle)}</text>
{panels}
</svg>
"""


def _panel(curve: Curve) -> str:
    first = curve.points[0].work
    shown = [
        (log10(point.work / first), ratio, f"{ratio:.2f}")
        for point in curve.points
        if (ratio := curve.ratio(point, curve.judged)) is not None
    ]
    widest = log10(curve.points[-1].work / first) or 1.0
    most = max([curve.allowed(curve.points[-1]), *(ratio for _, ratio, _ in shown)]) * 1.1
    room = _PANEL_HEIGHT - _BOTTOM - 20

    def at(decades: float, ratio: float) -> tuple[float, float]:
        x = _LEFT + (_PANEL_WIDTH - _LEFT - _RIGHT - 10) * decades / widest
        return round(x, 1), round(20 + room * (1 - ratio / most), 1)

    places = [at(decades, ratio) for decades, ratio, _ in shown]
    (left, floor), (right, _) = at(0, 0), at(widest, 0)
    bound = " ".join(f"{x},{y}" for x, y in (at(0, 1), at(widest, curve.allowed(curve.points[-1]))))
    drawn = [
        f'<text class="text" x="0" y="10" font-weight="600">{escape(curve.title)}</text>',
        f'<line class="axis" x1="{left}" y1="{floor}" x2="{right}" y2="{floor}"/>',
        f'<polyline class="bound" points="{bound}"/>',
        f'<polyline class="line" points="{" ".join(f"{x},{y}" for x, y in places)}"/>',
    ]
    for (x, y), (_, _, text) in zip(places, shown, strict=True):
        drawn.append(f'<circle class="exact" cx="{x}" cy="{y}" r="3"/>')
        drawn.append(f'<text class="text" x="{x}" y="{y - 8}" text-anchor="middle">{text}</text>')
    for point in curve.points:
        x, _ = at(log10(point.work / first), 0)
        drawn.append(
            f'<text class="quiet" x="{x}" y="{floor + 16}" text-anchor="middle">{point.work:,.0f}</text>'
        )
    return "\n".join(drawn)
