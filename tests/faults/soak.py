"""The whole way for an hour at its natural speed: nothing may grow but the data, and every candle is exact.

    python -m tests.faults.soak --minutes 60

The processor is started anew once, in the first quarter. What each process takes is sampled sixty times, what
the second half of the samples grew by is held against a bound, and a table, the samples (CSV) and a picture
(SVG) say how it went. Exit status 1 where something grew, or a candle is not as it must be.
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
"""Of the time: a JVM's heap and its compiled code take so long to come to their size."""
RESTART_AT: Final = 0.2
MEMORY_MB: Final = 64.0
MEMORY_SHARE: Final = 0.1
"""After the warm-up a process may take so many MB more, or a tenth more where that is more."""
COUNT: Final = 10.0
"""Descriptors, threads."""
FILES_MB: Final = 32.0
"""Logs, and Spark's checkpoint, of which each start makes a fresh one."""

Sample = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Course:
    """How one figure went."""

    name: str
    values: Sequence[float]
    hours: float
    """From the first to the last."""

    @property
    def _late(self) -> Sequence[float]:
        return self.values[int(len(self.values) * WARM_UP) :]

    @property
    def slope(self) -> float:
        """By the hour, after the warm-up: the median over all pairs of samples (Theil and Sen), so that one
        which caught, say, PostgreSQL's autovacuum at work says nothing.
        """
        pairs = combinations(enumerate(self._late), 2)
        a_step = median((later - earlier) / (to - since) for (since, earlier), (to, later) in pairs)
        return a_step * (len(self.values) - 1) / self.hours

    @property
    def growth(self) -> float:
        """From the end of the warm-up to the last sample, by the slope."""
        return self.slope * self.hours * (len(self._late) - 1) / (len(self.values) - 1)

    @property
    def bound(self) -> float | None:
        """How much growth is none; None for data, which must grow."""
        if "memory" in self.name:
            return max(MEMORY_MB, MEMORY_SHARE * median(self.values))
        if "data" in self.name or "lag" in self.name:
            return None
        return FILES_MB if "MB" in self.name else COUNT

    @property
    def is_flat(self) -> bool:
        return self.bound is None or self.growth <= self.bound


def soak(pipeline: Pipeline, minutes: float) -> list[Sample]:
    """Let it run for so long, sampling; the processor is stopped and started once."""
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


def told(courses: Sequence[Course]) -> str:
    table = Table("", "first", "median", "last", "slope/h", "may grow", "", title="What each took")
    for one in courses:
        first, middle, last = one.values[0], median(one.values), one.values[-1]
        bound = "" if one.bound is None else f"{one.bound:,.0f}"
        figures = [f"{figure:,.1f}" for figure in (first, middle, last)]
        table.add_row(one.name, *figures, f"{one.slope:+,.1f}", bound, "" if one.is_flat else "GROWS")
    return drawn(table)


WIDTH, HEIGHT, COLUMNS = 300, 110, 3


def pictured(courses: Sequence[Course]) -> str:
    """A small picture of each, as SVG: from nothing at the bottom to the most at the top."""
    rows = -(-len(courses) // COLUMNS)
    panels = [
        f'<g transform="translate({at % COLUMNS * WIDTH},{at // COLUMNS * HEIGHT})">{panel(one)}</g>'
        for at, one in enumerate(courses)
    ]
    size = f'width="{COLUMNS * WIDTH}" height="{rows * HEIGHT}"'
    style = 'font-family="sans-serif" font-size="11" style="background:white"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{"".join(panels)}</svg>\n'


def panel(course: Course) -> str:
    most = max(course.values) or 1.0
    width, height = WIDTH - 20, HEIGHT - 35
    step = width / (len(course.values) - 1)
    points = " ".join(
        f"{10 + at * step:.1f},{25 + height * (1 - value / most):.1f}"
        for at, value in enumerate(course.values)
    )
    colour = "#1f77b4" if course.is_flat else "#d62728"
    return (
        f'<text x="10" y="15">{course.name} (up to {most:,.1f})</text>'
        f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{points}"/>'
        f'<line x1="10" x2="{WIDTH - 10}" y1="{HEIGHT - 10}" y2="{HEIGHT - 10}" stroke="#cccccc"/>'
    )


def written(folder: Path, samples: Sequence[Sample], courses: Sequence[Course]) -> Path:
    """The samples and the picture, in ``folder``; the picture's path."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "soak.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(samples[0]))
        writer.writeheader()
        writer.writerows(samples)
    picture = folder / "soak.svg"
    picture.write_text(pictured(courses))
    return picture


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
        pipeline.folder.chmod(0o755)  # PostgreSQL has a user of its own
        pipeline.add("audit", (sys.executable, "-m", "candleflow", "audit"))
        samples = soak(pipeline, arguments.minutes)
        courses = [
            Course(one, [sample[one] for sample in samples], arguments.minutes / 60) for one in samples[0]
        ]
        print(told(courses))
        print(f"the picture: {written(in_force.stack.data_path / 'soak', samples, courses)}")
        pipeline.judge(whole=True)
    print(tables([report]))
    grown = [one.name for one in courses if not one.is_flat]
    if grown:
        print(f"GROWS: {', '.join(grown)}")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
