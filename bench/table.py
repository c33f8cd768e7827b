"""Show the runs of a race as ratios, a table and a plot. Pure functions: no measurement, clock or file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import median
from typing import Final

from bench.contestants import GOALS, OURS, Contestant
from bench.race import Run

_COLUMNS: Final = (
    "trades/s", "after warm-up", "ours over it", "after warm-up", "goal", "with its start",
    "us of processor time a trade", "peak MB", "fields", "exact",
)  # fmt: skip
_WIDTH: Final = 760
_LABEL_WIDTH: Final = 190
_BAR_WIDTH: Final = 400
_ROW_HEIGHT: Final = 34
_TOP: Final = 56


@dataclass(frozen=True, slots=True)
class Ratio:
    """Our rate divided by a peer's: median, lowest and highest over the rounds."""

    median: float
    least: float
    greatest: float

    def words(self) -> str:
        return f"{self.median:.1f} ({self.least:.1f}-{self.greatest:.1f})"


@dataclass(frozen=True, slots=True)
class Result:
    """A contestant's runs by round, or the reason why it has no valid run."""

    contestant: Contestant
    version: str
    runs: Mapping[int, Run]
    failure: str = ""

    @property
    def counts(self) -> bool:
        """Whether there is a run and every run's candles are correct."""
        return bool(self.runs) and all(run.verdict.is_right for run in self.runs.values())

    @property
    def rate(self) -> float:
        return median(run.rate for run in self.runs.values())

    @property
    def steady_rate(self) -> float | None:
        """The median rate after warm-up; None if a run wrote its rows in too few steps to measure it."""
        rates = [run.steady_rate for run in self.runs.values() if run.steady_rate is not None]
        return median(rates) if rates and len(rates) == len(self.runs) else None


def ratio(ours: Result | None, peer: Result, *, steady: bool = False) -> Ratio | None:
    """Compare the rounds that both finished; None if the result of either is not valid.

    ``steady`` compares the rates after warm-up; a run without one uses its rate over the whole run.
    """
    if ours is None or not ours.counts or not peer.counts:
        return None

    def rate(run: Run) -> float:
        return run.steady_rate if steady and run.steady_rate is not None else run.rate

    rounds = ours.runs.keys() & peer.runs.keys()
    ratios = [rate(ours.runs[number]) / rate(peer.runs[number]) for number in rounds]
    return Ratio(median(ratios), min(ratios), max(ratios)) if ratios else None


def below(results: Sequence[Result], floors: Mapping[str, float], *, steady: bool) -> list[str]:
    """Return a line for each ratio that is below its minimum."""
    ours = _ours(results)
    said = []
    for result in results:
        found = ratio(ours, result, steady=steady)
        floor = floors.get(result.contestant.name)
        if found is not None and floor is not None and found.median < floor:
            said.append(
                f"{result.contestant.title}: ours is {found.words()} times as fast, minimum {floor:g}"
            )
    return said


def markdown(results: Sequence[Result]) -> str:
    """Return the table, fastest contestant first; those without a figure come last."""
    ours = _ours(results)
    lines = [
        f"| {' | '.join(('', *_COLUMNS))} |",
        f"|---{'|---:' * len(_COLUMNS)}|",
    ]
    for result in sorted(results, key=lambda one: -one.rate if one.counts else 0):
        if not result.counts:
            lines.append(
                f"| {result.contestant.title} | no figure: {_why_none(result)} |" + " |" * (len(_COLUMNS) - 1)
            )
            continue
        runs = list(result.runs.values())
        whole, steady = ratio(ours, result), ratio(ours, result, steady=True)
        goal = GOALS.get(result.contestant.name)
        cells = [
            result.contestant.title,
            f"{result.rate:,.0f}",
            f"{result.steady_rate:,.0f}" if result.steady_rate else "",
            whole.words() if whole and result is not ours else "",
            steady.words() if steady and result is not ours else "",
            f"{goal:g}" if goal else "",
            f"{median(run.rate_with_start for run in runs):,.0f}",
            f"{median(run.processor_seconds / run.trades for run in runs) * 1e6:.1f}",
            f"{median(run.memory_mb for run in runs):,.0f}",
            f"{len(result.contestant.fields)}",
            f"{min(len(run.verdict.exact_fields) for run in runs)}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def notes(results: Sequence[Result]) -> str:
    """Describe each contestant: version, licence, method, trades read, and how its candles compared."""
    lines = []
    for result in results:
        one = result.contestant
        said = [f"- **{one.title}** ({result.version}, {one.licence}): {one.how}."]
        if result.runs:
            run = result.runs[min(result.runs)]
            said.append(f"{run.trades:,} trades; {run.verdict.words()}.")
        if result.failure:
            said.append(f"Failed: {result.failure}.")
        lines.append(" ".join(said))
    return "\n".join(lines)


def rounds(results: Sequence[Result]) -> str:
    """Return a table of all runs: start and run time in seconds."""
    lines = ["| round | | start s | run s | trades/s |", "|---:|---|---:|---:|---:|"]
    every = [(number, one.contestant.title, run) for one in results for number, run in one.runs.items()]
    for number, title, run in sorted(every, key=lambda entry: entry[0]):
        cells = str(number), title, f"{run.start_seconds:.1f}", f"{run.seconds:.1f}", f"{run.rate:,.0f}"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


STYLE: Final = (
    ".text{fill:#24292f}.quiet{fill:#57606a}.exact{fill:#1a7f64}.doubles{fill:#9db4ae}"
    "@media(prefers-color-scheme:dark){.text{fill:#e6edf3}.quiet{fill:#9198a1}.exact{fill:#3fb68b}"
    ".doubles{fill:#4d655e}}"
)


def svg(results: Sequence[Result]) -> str:
    """Draw a bar for each contestant with a figure, fastest first; dark if every field is exact."""
    shown = sorted((one for one in results if one.counts), key=lambda one: -one.rate)
    most = max((one.rate for one in shown), default=1.0)
    height = _TOP + _ROW_HEIGHT * len(shown) + 8
    bars = "\n".join(_bar(one, most, _TOP + place * _ROW_HEIGHT) for place, one in enumerate(shown))
    return f"""<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" \
viewBox="0 0 {_WIDTH} {height}" font-family="system-ui, sans-serif" font-size="13" role="img">
<style>{STYLE}</style>
<text class="text" x="0" y="18" font-size="15" font-weight="600">Trades a second, from Kafka to rows in \
PostgreSQL</text>
<text class="quiet" x="0" y="38">Dark: every field it has is exact. Light: doubles.</text>
{bars}
</svg>
"""


def _bar(one: Result, most: float, y: int) -> str:
    width = max(1.0, _BAR_WIDTH * one.rate / most)
    is_exact = all(len(run.verdict.exact_fields) == len(run.verdict.fields) for run in one.runs.values())
    fill, fields = "exact" if is_exact else "doubles", len(one.contestant.fields)
    return f"""<text class="text" x="{_LABEL_WIDTH - 10}" y="{y + 17}" text-anchor="end">\
{escape(one.contestant.title)}</text>
<rect class="{fill}" x="{_LABEL_WIDTH}" y="{y + 2}" width="{width:.1f}" height="22" rx="2"/>
<text class="text" x="{_LABEL_WIDTH + width + 8:.1f}" y="{y + 17}">{one.rate:,.0f}\
<tspan class="quiet"> {fields} fields</tspan></text>"""


def _ours(results: Sequence[Result]) -> Result | None:
    return next((one for one in results if one.contestant.name == OURS.name), None)


def _why_none(result: Result) -> str:
    """Say briefly why there is no figure, without "|", which would end a cell; ``notes`` says more."""
    if not result.runs:
        return result.failure.partition(": ")[0].replace("|", "/") or "it did not run"
    wrong = next(run.verdict for run in result.runs.values() if not run.verdict.is_right)
    return f"its candles are not right: {wrong.words()}"
