"""The points of a curve as a table, a judgement and a plot. Nothing here measures, reads a clock or a file.

A curve is what a piece of work takes as something else grows: a trade's time against the number of symbols,
say. It counts as no worse than logarithmic where no point takes more than ``allowed`` times the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import log10
from typing import Final

from bench.table import STYLE

A_TENFOLD: Final = 0.5
"""Each tenfold may add half of what the first point takes, whatever the tenfold: that is a logarithm.

Half, as a logarithm with any factor before it would be called one otherwise. It keeps out the slowest of what
isn't: a cube root adds 1.2 for the first tenfold and nine over three. Less would judge the machine, of which
two runs of the same point were seen a third apart.
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
    """What was measured where there was so much work."""

    work: float
    """Such as the number of symbols."""
    figures: Mapping[str, float | None]
    """By name with its unit; None where it could not be had. Empty where no figure counts."""
    failure: str = ""
    """Why no figure counts."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Points along one axis, the least work first."""

    title: str
    axis: str
    """What grows."""
    judged: str
    """The name of the figure, a time, that must not grow faster than a logarithm."""
    points: Sequence[Point]
    beside: str = ""
    """Of another time that is judged too and isn't drawn, as processor time, which other work on the machine
    changes less."""

    def ratio(self, point: Point, name: str) -> float | None:
        """The figure over the first point's; None where either is missing."""
        own, first = point.figures.get(name), self.points[0].figures.get(name)
        return own / first if own is not None and first else None

    def allowed(self, point: Point) -> float:
        """How many times the first point's time this one may take."""
        return 1 + A_TENFOLD * log10(point.work / self.points[0].work)

    def holds(self, name: str = "") -> bool | None:
        """Whether no point takes more than it may; None where a figure is missing, and none is above.

        ``name`` is that of the time, else the one judged.
        """
        ratios = [(self.ratio(point, name or self.judged), self.allowed(point)) for point in self.points]
        if any(ratio is not None and ratio > allowed for ratio, allowed in ratios):
            return False
        return None if any(ratio is None for ratio, _ in ratios) else True

    def words(self) -> str:
        """The judgement, in a sentence for each time that is judged."""
        return " ".join(self._words(name) for name in (self.judged, self.beside) if name)

    def _words(self, name: str) -> str:
        holds = self.holds(name)
        if holds is None:
            return f"Can't be told of {name}: a point has no figure."
        told = [
            f"{ratio:.2f} at {point.work:,.0f} (at most {self.allowed(point):.2f})"
            for point in self.points[1:]
            if (ratio := self.ratio(point, name)) is not None
        ]
        said = "No worse than logarithmic" if holds else "**Worse than logarithmic**"
        return f"{said}: {name} over the first point's {', '.join(told)}."


def markdown(curve: Curve) -> str:
    """The curve as a table, each figure with its ratio to the first point's, and the judgement below."""
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
    """A panel for each curve: its judged time over the first point's, and dashed what that may be."""
    panels = "\n".join(
        f'<g transform="translate({place % 2 * _PANEL_WIDTH} {_TOP + place // 2 * _PANEL_HEIGHT})">'
        f"{_panel(curve)}</g>"
        for place, curve in enumerate(curves)
    )
    width, height = 2 * _PANEL_WIDTH, _TOP + (len(curves) + 1) // 2 * _PANEL_HEIGHT
    return f"""<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" \
viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" font-size="12" role="img">
<style>{STYLE}{_LINES}</style>
<text class="text" x="0" y="18" font-size="15" font-weight="600">What a unit of work takes as all of it \
grows, over the first point's</text>
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
