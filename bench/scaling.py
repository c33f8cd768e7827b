"""Measure how the cost of a trade grows with symbols, partitions, cores and rows already stored.

    python -m bench.scaling             2 million trades a run, 10 million rows, and latency: some 20 minutes
    python -m bench.scaling --quick     400,000 trades a run, a million rows, no latency: some 10 minutes
    python -m bench.scaling --axes symbols cores --trades 100000 --rounds 3

Each point is one run in which the processor catches up with a topic, timed by ``bench.race``. Every candle is
compared with the one from ``bench.oracle``; a run with a wrong candle gets no figure. Along an axis only one
value changes; the number of trades stays the same. For each axis the result says whether the time per trade
grows no faster than a logarithm (``bench.curve``).

The exit status is 1 only if a candle was wrong, because times depend on what else the machine does. A full
run writes ``bench/SCALING.md`` and ``docs/images/scaling.svg``. Don't run other heavy work at the same time.
``bench.catch_up`` compares Candleflow with other projects.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Final

import psycopg2
from psycopg2 import sql

from bench import course, curve, live, machine, merge, servers, stored, topic
from bench.contestants import OURS, Contestant
from bench.course import FilledTopic, Stack
from bench.curve import Curve, Point
from bench.oracle import at
from bench.race import RaceError, Run, race
from candleflow import settings as settings_module
from candleflow.errors import StackError
from candleflow.processor import latency
from candleflow.settings import FIELDS
from candleflow.stack.postgres import PostgresServer
from candleflow.store import schema

_log = logging.getLogger("bench")

TRADES: Final = 2_000_000
QUICK_TRADES: Final = 400_000
QUICK_STORED: Final = 1_000_000
"""Most rows stored beforehand in a quick run: inserting ten million takes minutes."""
BATCHES: Final = 4
"""Minimum number of batches a run. Spark's first batch is slow, so a rate needs later ones."""
MERGED: Final = merge.Shape(symbols=200, windows=1, batches=60)
"""Shape of the batches whose merge is timed after the catch-up, in the same table."""
LATENCY_RATE: Final = 1_000.0
LATENCY_SYMBOLS: Final = (1, 10, 100)
LATENCY_WARM_UP_SECONDS: Final = 40.0
LATENCY_SECONDS: Final = 30.0

_RESULTS: Final = Path(__file__).with_name("SCALING.md")
_PLOT: Final = Path(__file__).parents[1] / "docs" / "images" / "scaling.svg"
_WHOLE, _STEADY = "us a trade", "us a trade after warm-up"
_PROCESSOR: Final = "us of processor time a trade"
_MERGE: Final = f"ms to merge {MERGED.symbols} candles, p50"
_MERGE_PROCESSOR: Final = "PostgreSQL's processor time, ms, mean"
_LOOP: Final = "the machine: ms for a loop"


@dataclass(frozen=True, slots=True)
class Spot:
    """The parameters of a run. Along an axis one of them changes; the others keep these defaults."""

    symbols: int = 10
    partitions: int = 1
    cores: int = 2
    """Cores of Spark's executor: 2 gives ``local[2]``."""
    stored: int = 0
    """Rows in the table of candles before the run: earlier days of the same symbols."""

    @property
    def master(self) -> str:
        return f"local[{self.cores}]"


@dataclass(frozen=True, slots=True)
class Axis:
    """The field of Spot that changes, and its values."""

    name: str
    title: str
    values: tuple[int, ...]

    def spots(self) -> list[Spot]:
        return [dataclasses.replace(Spot(), **{self.name: value}) for value in self.values]


AXES: Final = (
    Axis("symbols", "Symbols", (1, 10, 100, 1_000)),
    Axis("partitions", "Partitions of the topic", (1, 2, 4, 8)),
    Axis("cores", "Executor cores", (1, 2)),
    Axis("stored", "Rows already stored", (10_000, 100_000, 1_000_000, 10_000_000)),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one run, or the reason why it failed."""

    machine_ms: float
    """Duration of a fixed calculation just before the run: see ``bench.machine``."""
    run: Run | None = None
    merged: merge.Cost | None = None
    failure: str = ""

    @property
    def is_wrong(self) -> bool:
        """Whether the run has a wrong candle."""
        return self.run is not None and not self.run.verdict.is_right


def main() -> int:
    arguments = _arguments()
    course.prepare()
    described, began = machine.describe(), time.monotonic()
    sys.stdout.write(f"{described}\n")
    sys.stdout.flush()
    axes = [_shortened(axis, arguments.most_stored) for axis in AXES if axis.name in arguments.axes]
    with tempfile.TemporaryDirectory(prefix="candleflow-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as another user where we are root
        outcomes = _run_all(axes, arguments.trades, arguments.rounds, folder)
        curves = [found for axis in axes for found in curves_of(axis, outcomes)]
        if arguments.latency:
            curves.append(_latency_curve(folder))
    text = _report(curves, outcomes, arguments, described, time.monotonic() - began)
    sys.stdout.write(f"\n{text}")
    if arguments.write:
        _RESULTS.write_text(text)
        _PLOT.write_text(curve.svg(curves, f"{arguments.trades:,} trades a run. Dashed: logarithmic limit."))
    return 1 if wrong(outcomes) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer trades and rows, no latency")
    parser.add_argument("--trades", type=int, help=f"trades in each run ({TRADES:_})")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each point (1)")
    names = [axis.name for axis in AXES]
    parser.add_argument("--axes", nargs="+", default=names, choices=names, metavar="AXIS")
    parser.add_argument("--most-stored", type=int, help="maximum number of stored rows (10_000_000)")
    parser.add_argument(
        "--latency", action=argparse.BooleanOptionalAction, help="measure latency too (a full run does)"
    )
    parser.add_argument(
        "--write",
        action=argparse.BooleanOptionalAction,
        help="write SCALING.md and the plot (a full run does)",
    )
    arguments = parser.parse_args()
    is_whole = not (arguments.quick or arguments.trades or arguments.axes != names)
    arguments.latency = is_whole if arguments.latency is None else arguments.latency
    arguments.write = is_whole if arguments.write is None else arguments.write
    arguments.trades = arguments.trades or (QUICK_TRADES if arguments.quick else TRADES)
    most = QUICK_STORED if arguments.quick else max(AXES[-1].values)
    arguments.most_stored = arguments.most_stored or most
    return arguments


def _shortened(axis: Axis, most_stored: int) -> Axis:
    """Leave out the points with more than ``most_stored`` rows."""
    if axis.name != "stored":
        return axis
    return dataclasses.replace(axis, values=tuple(one for one in axis.values if one <= most_stored))


# Running ---------------------------------------------------------------------------------------------------


def by_topic(axes: Iterable[Axis]) -> dict[tuple[int, int], list[Spot]]:
    """Group the spots of all axes, each once, by their topic: (symbols, partitions)."""
    found: dict[tuple[int, int], list[Spot]] = {}
    for spot in dict.fromkeys(spot for axis in axes for spot in axis.spots()):
        found.setdefault((spot.symbols, spot.partitions), []).append(spot)
    return found


def _run_all(axes: Sequence[Axis], trades: int, rounds: int, folder: Path) -> dict[Spot, list[Outcome]]:
    """Run every spot. Each topic gets its own broker, because the processor always reads the same name."""
    outcomes: dict[Spot, list[Outcome]] = {}
    with servers.postgres(folder) as postgres:
        for (symbols, partitions), spots in by_topic(axes).items():
            own = folder / f"topic_{symbols}_{partitions}"
            own.mkdir()
            with servers.kafka(own) as kafka:
                names = topic.symbols(symbols)
                filled = course.fill_topic(
                    kafka.bootstrap, course.TOPIC, trades, partitions=partitions, symbols=names
                )
                stack = Stack(kafka, postgres, folder)
                if not outcomes:  # the very first run reads programs from disk, so it isn't counted
                    warm_up = _outcome(spots[0], filled, stack, "warm_up")
                    outcomes[spots[0]] = [warm_up] if warm_up.is_wrong else []
                for number in range(rounds):
                    for spot in spots:
                        name = f"run_{symbols}_{partitions}_{spot.cores}_{spot.stored}_{number}"
                        outcomes.setdefault(spot, []).append(_outcome(spot, filled, stack, name))
            shutil.rmtree(own)
    return outcomes


def _outcome(spot: Spot, filled: FilledTopic, stack: Stack, name: str) -> Outcome:
    """Do one run in its own database, then drop it: autovacuum would disturb the next run."""
    machine_ms = machine.fixed_work_ms()
    names = topic.symbols(spot.symbols)
    course.provide(stack, name)
    settings = settings_module.load(postgres_url=course.address(stack, name), data_dir=stack.folder)
    if spot.stored:
        schema.apply(settings)
        began = time.monotonic()
        rows = stored.fill(stack.postgres.url(database=name), spot.stored, names, at(topic.BEGINS_AT_US))
        _log.info("inserted %s rows in %.0f s", f"{rows:,}", time.monotonic() - began)
    try:
        run = _race(spot, filled, stack, name)
        _log.info("%s: %s trades/s; %s", spot, f"{run.rate:,.0f}", run.verdict.words())
        merged = [*merge.measure(settings, [MERGED])] if spot.stored else []
        return Outcome(machine_ms, run, merged[0] if merged else None)
    except RaceError as error:
        _log.warning("%s: it %s", spot, error)
        return Outcome(machine_ms, failure=f"it {error}")
    finally:
        _drop(stack.postgres, name)


def _race(spot: Spot, filled: FilledTopic, stack: Stack, name: str) -> Run:
    names = topic.symbols(spot.symbols)
    default: int = FIELDS["max_offsets_per_trigger"].default
    place = course.our_place(
        stack,
        name,
        symbols=names,
        spark_master=spot.master,
        max_offsets_per_trigger=max(1_000, min(default, filled.trades // BATCHES)),
    )
    store = stack.postgres.process
    place = dataclasses.replace(place, store_pid=store.pid if store is not None else None)
    return race(_without_stored(names) if spot.stored else OURS, place, filled.trades, filled.expected)


def _without_stored(names: Sequence[str]) -> Contestant:
    """Return OURS with a condition that excludes the rows stored before; the condition can use the index."""
    listed = ", ".join(f"'{name}'" for name in names)
    condition = f"{OURS.condition} AND symbol IN ({listed}) AND open_time >= '{at(topic.BEGINS_AT_US)}'"
    return dataclasses.replace(OURS, condition=condition)


def _drop(postgres: PostgresServer, name: str) -> None:
    with closing(psycopg2.connect(postgres.url())) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _latency_curve(folder: Path) -> Curve:
    """Measure the time from a trade to its row, with the whole pipeline running on the simulator."""
    points = [_latency_point(symbols, folder / f"latency_{symbols}") for symbols in LATENCY_SYMBOLS]
    title = f"Latency at {LATENCY_RATE:,.0f} trades a second"
    return Curve(title, "symbols", "p95, ms from trade to row", points)


def _latency_point(symbols: int, folder: Path) -> Point:
    folder.mkdir()
    folder.chmod(0o755)
    env = live.environment(folder, ",".join(topic.symbols(symbols)))
    os.environ.update(env)  # latency.measure loads its settings from here
    machine_ms = machine.fixed_work_ms()
    try:
        with live.loaded(env, LATENCY_RATE, LATENCY_WARM_UP_SECONDS, folder / "load.log"):
            seen = latency.measure(settings_module.load(), LATENCY_SECONDS)
    except (StackError, TimeoutError) as error:
        _log.warning("latency with %d symbols has no figure: %s", symbols, error)
        return Point(symbols, {}, f"{error}".splitlines()[0])
    figures = {f"p{share * 100:g}, ms from trade to row": seen.quantile(share) for share in (0.5, 0.95, 0.99)}
    return Point(symbols, {**figures, "trades/s": seen.rate, _LOOP: machine_ms})


# Reporting -------------------------------------------------------------------------------------------------


def wrong(outcomes: Mapping[Spot, Sequence[Outcome]]) -> list[Spot]:
    """Return the spots that have a run with a wrong candle."""
    return [spot for spot, found in outcomes.items() if any(one.is_wrong for one in found)]


def curves_of(axis: Axis, outcomes: Mapping[Spot, Sequence[Outcome]]) -> list[Curve]:
    """Return the curve of the axis; for stored rows also the curve of a single merge."""
    spots = axis.spots()
    points = [_point(getattr(spot, axis.name), outcomes[spot]) for spot in spots]
    counted = [point for point in points if point.figures]
    has_steady = all(point.figures[_STEADY] is not None for point in counted)
    curves = [Curve(axis.title, axis.name, _STEADY if has_steady else _WHOLE, points, _PROCESSOR)]
    if axis.name == "stored":
        merges = [_merge_point(spot.stored, outcomes[spot]) for spot in spots]
        curves.append(Curve(f"{axis.title}: one merge", axis.name, _MERGE, merges, _MERGE_PROCESSOR))
    return curves


def _why_none(outcomes: Sequence[Outcome]) -> str:
    """Say why these outcomes give no figure; empty if they do."""
    for one in outcomes:
        if one.run is None:
            return one.failure
        if not one.run.verdict.is_right:
            return f"its candles are not right: {one.run.verdict.words()}"
    return ""


def _point(work: int, outcomes: Sequence[Outcome]) -> Point:
    """Return the medians over the runs of one spot."""
    if failure := _why_none(outcomes):
        return Point(work, {}, failure)
    runs = [one.run for one in outcomes if one.run is not None]
    steady = _median(run.steady_rate for run in runs)
    rate = median(run.rate for run in runs)
    trades = runs[0].trades
    ours = 1e6 / trades * median(run.processor_seconds for run in runs)
    store = 1e6 / trades * median(run.store_seconds or 0 for run in runs)
    figures = {
        "trades/s": rate,
        "after warm-up": steady,
        _WHOLE: 1e6 / rate,
        _STEADY: 1e6 / steady if steady else None,
        _PROCESSOR: ours + store,
        "of it PostgreSQL's": store,
        "candles of 5 s": float(runs[0].verdict.expected),
        _LOOP: median(one.machine_ms for one in outcomes),
    }
    return Point(work, figures)


def _merge_point(work: int, outcomes: Sequence[Outcome]) -> Point:
    if failure := _why_none(outcomes):
        return Point(work, {}, failure)
    costs = [one.merged for one in outcomes if one.merged is not None]
    figures = {
        _MERGE: median(cost.p50 for cost in costs),
        "p99": median(cost.p99 for cost in costs),
        _MERGE_PROCESSOR: median(cost.processor for cost in costs),
    }
    return Point(work, figures)


def _median(values: Iterable[float | None]) -> float | None:
    """Return the median, or None if there is no value or one of them is None."""
    found = list(values)
    known = [value for value in found if value is not None]
    return median(known) if found and len(known) == len(found) else None


_HEAD: Final = """# Scaling

`python -m bench.scaling{arguments}` at {commit}, {day}, {minutes:.0f} min. {machine}.

The processor catches up with {trades:,} trades: from Kafka to rows in PostgreSQL, all on one machine.
Defaults: {symbols} symbols, {partitions} partition, `{master}`, an empty table. Each section changes one.

- In brackets: the ratio to the first row.
- *After warm-up* leaves out the first quarter of the trades.
- *Processor time* is CPU time of the processor and PostgreSQL over the whole run. Other work on the machine
  changes it less than wall-clock time.
- *The machine* is the time of a fixed Python loop just before the run. If it differs between two rows, other
  figures may differ for the same reason.
- Every candle of every run was compared with an independent calculation. A run with a wrong candle gets no
  figure.
- *At most* is the limit for "no worse than logarithmic": each tenfold may add {tenfold:g} times the time of
  the first row. `bench/curve.py` gives the reason for that number.

![Times over the first point's](../docs/images/scaling.svg)
"""


def _report(
    curves: Sequence[Curve],
    outcomes: Mapping[Spot, Sequence[Outcome]],
    arguments: argparse.Namespace,
    described: str,
    seconds: float,
) -> str:
    usual = Spot()
    head = _HEAD.format(
        arguments="".join(f" {one}" for one in sys.argv[1:]),
        commit=machine.commit(),
        day=f"{datetime.now(UTC):%Y-%m-%d}",
        minutes=seconds / 60,
        machine=described,
        trades=arguments.trades,
        symbols=usual.symbols,
        partitions=usual.partitions,
        master=usual.master,
        tenfold=curve.A_TENFOLD,
    )
    return "\n\n".join([head, *map(curve.markdown, curves), "## Every run", every_run(outcomes)]) + "\n"


def every_run(outcomes: Mapping[Spot, Sequence[Outcome]]) -> str:
    """Return a Markdown table with a line for each run and the comparison of its candles."""
    head = ("symbols", "partitions", "cores", "stored", "start s", "run s", "peak MB", "candles")
    lines = [f"| {' | '.join(head)} |", f"|{'---:|' * (len(head) - 1)}---|"]
    for spot, found in outcomes.items():
        for one in found:
            cells = [f"{value:,}" for value in dataclasses.astuple(spot)]
            if one.run is None:
                cells += ["", "", "", one.failure]
            else:
                run = one.run
                cells += [f"{run.start_seconds:.1f}", f"{run.seconds:.1f}", f"{run.memory_mb:,.0f}"]
                cells.append(run.verdict.words())
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
