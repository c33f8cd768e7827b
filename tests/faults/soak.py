"""Soak test: run the whole pipeline for an hour. Only data may grow, and every candle must be exact.

    python -m tests.faults.soak --minutes 60

The processor is restarted once, in the first quarter. Each process's resources are sampled sixty times, and
the growth over the second half is compared with a limit. The result is a table, the samples (CSV) and a plot
(SVG). The exit status is 1 if something grew or a candle is wrong.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Final

from rich.table import Table

from candleflow import settings
from candleflow.stack.jars import ensure_jars
from candleflow.stack.java import find_java
from candleflow.stack.process import wait_for
from tests.faults.feeds import seeded
from tests.faults.pipeline import STOP_SECONDS, Pipeline
from tests.faults.usage import size_mb, usage_of
from tests.faults.verdicts import Report, drawn, tables

SAMPLES: Final = 60
WARM_UP: Final = 0.5
"""Share of the time in which a JVM's heap and compiled code still grow; not counted."""
RESTART_AT: Final = 0.2
MEMORY_MB: Final = 64.0
MEMORY_SHARE: Final = 0.1
"""A process may grow by MEMORY_MB after the warm-up, or by MEMORY_SHARE of its size if that is more."""
COUNT: Final = 10.0
"""Allowed growth of the number of file descriptors and of threads."""
FILES_MB: Final = 32.0
"""Allowed growth of logs and of Spark's checkpoints; each start makes a new one."""

Sample = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Series:
    """The values of one figure over time."""

    name: str
    values: Sequence[float]
    hours: float
    """Time from the first value to the last."""

    @property
    def _late(self) -> Sequence[float]:
        return self.values[int(len(self.values) * WARM_UP) :]

    @property
    def slope(self) -> float:
        """The slope per hour after the warm-up, by the Theil-Sen estimator.

        It is the median over all pairs of samples, so a single outlier, such as a running autovacuum, has no
        effect.
        """
        pairs = combinations(enumerate(self._late), 2)
        a_step = median((later - earlier) / (to - since) for (since, earlier), (to, later) in pairs)
        return a_step * (len(self.values) - 1) / self.hours

    @property
    def growth(self) -> float:
        """The growth from the end of the warm-up to the last sample, according to the slope."""
        return self.slope * self.hours * (len(self._late) - 1) / (len(self.values) - 1)

    @property
    def bound(self) -> float | None:
        """The allowed growth; None for data, which must grow."""
        if "memory" in self.name:
            return max(MEMORY_MB, MEMORY_SHARE * median(self.values))
        if "data" in self.name or "lag" in self.name:
            return None
        return FILES_MB if "MB" in self.name else COUNT

    @property
    def is_flat(self) -> bool:
        return self.bound is None or self.growth <= self.bound


def soak(pipeline: Pipeline, minutes: float) -> list[Sample]:
    """Run the pipeline for ``minutes`` and sample it; the processor is restarted once."""
    pipeline.start()
    began_at = time.monotonic()
    samples = []
    for number in range(SAMPLES):
        if number == int(SAMPLES * RESTART_AT):
            assert pipeline.processor.terminate(STOP_SECONDS) == 0, pipeline.said()
            pipeline.processor.start()
            pipeline.wait_for_trades(1)
        samples.append(sampled(pipeline))
        due = began_at + (number + 1) * 60 * minutes / SAMPLES
        assert wait_for(lambda due=due: time.monotonic() >= due, 60 * minutes)  # type: ignore[misc]
    return samples


def sampled(pipeline: Pipeline) -> Sample:
    found: dict[str, float] = {}
    for name, pid in pipeline.pids().items():
        usage = usage_of(pid)
        found |= {
            f"{name}: memory MB": usage.memory_mb,
            f"{name}: descriptors": usage.descriptors,
            f"{name}: threads": usage.threads,
        }
    folder = pipeline.folder
    found["checkpoint MB"] = size_mb(*pipeline.places["Spark"].glob("candleflow-processor-*"))
    found["logs MB"] = size_mb(*folder.glob("*.log"), folder / "kafka" / "logs")
    found["Kafka's data MB"] = size_mb(folder / "kafka" / "data")
    found["PostgreSQL's data MB"] = size_mb(folder / "postgres")
    found["lag, records"] = pipeline.lag()
    return found


def growth_table(every: Sequence[Series]) -> str:
    table = Table("", "first", "median", "last", "slope/h", "may grow", "", title="Resources")
    for one in every:
        first, middle, last = one.values[0], median(one.values), one.values[-1]
        bound = "" if one.bound is None else f"{one.bound:,.0f}"
        figures = [f"{figure:,.1f}" for figure in (first, middle, last)]
        table.add_row(one.name, *figures, f"{one.slope:+,.1f}", bound, "" if one.is_flat else "GROWS")
    return drawn(table)


WIDTH, HEIGHT, COLUMNS = 300, 110, 3


def plotted(every: Sequence[Series]) -> str:
    """Return an SVG with a small plot of each series, from zero to its maximum."""
    rows = -(-len(every) // COLUMNS)
    panels = [
        f'<g transform="translate({at % COLUMNS * WIDTH},{at // COLUMNS * HEIGHT})">{panel(one)}</g>'
        for at, one in enumerate(every)
    ]
    size = f'width="{COLUMNS * WIDTH}" height="{rows * HEIGHT}"'
    style = 'font-family="sans-serif" font-size="11" style="background:white"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{"".join(panels)}</svg>\n'


def panel(series: Series) -> str:
    most = max(series.values) or 1.0
    width, height = WIDTH - 20, HEIGHT - 35
    step = width / (len(series.values) - 1)
    points = " ".join(
        f"{10 + at * step:.1f},{25 + height * (1 - value / most):.1f}"
        for at, value in enumerate(series.values)
    )
    colour = "#1f77b4" if series.is_flat else "#d62728"
    return (
        f'<text x="10" y="15">{series.name} (up to {most:,.1f})</text>'
        f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{points}"/>'
        f'<line x1="10" x2="{WIDTH - 10}" y1="{HEIGHT - 10}" y2="{HEIGHT - 10}" stroke="#cccccc"/>'
    )


def write(folder: Path, samples: Sequence[Sample], every: Sequence[Series]) -> Path:
    """Write the samples and the plot to ``folder``; return the plot's path."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "soak.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(samples[0]))
        writer.writeheader()
        writer.writerows(samples)
    plot = folder / "soak.svg"
    plot.write_text(plotted(every))
    return plot


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=40, help="trades a second, over two symbols")
    arguments = parser.parse_args()
    in_force = settings.load()
    cache = in_force.stack.cache_path
    java_home, kafka_jars = find_java(cache), ensure_jars("kafka", cache)
    ensure_jars("spark", cache)
    feed = seeded(arguments.rate)
    report = Report("soak", feed.words)
    with (
        tempfile.TemporaryDirectory(prefix="candleflow-soak-") as name,
        Pipeline(report, Path(name), java_home, kafka_jars, feed) as pipeline,
    ):
        pipeline.folder.chmod(0o755)  # PostgreSQL may run as another user
        pipeline.add("audit", (sys.executable, "-m", "candleflow", "audit"))
        samples = soak(pipeline, arguments.minutes)
        every = [
            Series(one, [sample[one] for sample in samples], arguments.minutes / 60) for one in samples[0]
        ]
        print(growth_table(every))
        print(f"plot: {write(in_force.stack.data_path / 'soak', samples, every)}")
        pipeline.judge(whole=True)
    print(tables([report]))
    grown = [one.name for one in every if not one.is_flat]
    if grown:
        print(f"GROWS: {', '.join(grown)}")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
