"""Measure how long PostgreSQL takes to merge a micro-batch, with few and with many candles stored.

    python -m bench.merge                        an empty table, then a million candles
    python -m bench.merge --stored 10000 0       10,000 candles, then an empty table
    python -m bench.merge --snapshot             while another session holds a snapshot
    python -m bench.merge --gaps 3000            on a day with 3,000 missing trades, one in each window

It uses its own PostgreSQL server (from the wheel, with its default durability), the real schema, and batches
like the processor's. Each time is one call with its commit, seen from the client. The server's CPU time is
shown too, because other work on the machine hardly changes it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import psutil
from psycopg2.extensions import connection

from bench import machine, servers, stored
from bench.oracle import at
from bench.topic import WINDOWS
from candleflow.errors import StoreError
from candleflow.market.partial import Partial, array_text, encode, encode_windows
from candleflow.market.window import DAY_US, SECOND_US, floor_time
from candleflow.settings import Settings, load
from candleflow.store import credentials, schema
from candleflow.store.credentials import Role

BEGINS_AT: Final = 1_700_000_100 * SECOND_US
FILLED_UNTIL: Final = at(floor_time(BEGINS_AT, DAY_US))
BATCHES_PER_WINDOW: Final = 20
LIVE_BATCHES: Final = 100
SNAPSHOT_BATCHES: Final = 3_000
SNAPSHOT_PART: Final = 500
OLD_SYMBOLS: Final = tuple(f"OLD{number}" for number in range(200))


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a batch, and how many such batches are merged."""

    symbols: int
    windows: int
    """Windows of each symbol in a batch."""
    batches: int


SHAPES: Final = (
    Shape(1, 1, 600), Shape(1, 2, 300), Shape(200, 1, 100), Shape(200, 2, 100), Shape(1, 2_000, 10),
    Shape(1_000, 40, 5),
)  # fmt: skip
"""The last two are typical of a backlog, the others of live trading."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds to merge one batch of a shape: wall-clock quantiles and the server's CPU time."""

    shape: Shape
    p50: float
    p99: float
    processor: float
    """Mean CPU time of the server."""

    def words(self) -> str:
        shape = self.shape
        return (
            f"{shape.symbols:>5,} symbols x {shape.windows:>5,} windows: p50 {self.p50:7.1f} ms"
            f"   p99 {self.p99:7.1f} ms   server's CPU {self.processor:7.1f} ms"
        )


_MERGE: Final = "SELECT merge_batch(%s, 'bench', %s, %s, %s::partial_candle[], %s, %s) ->> 'status'"


def batches(shape: Shape) -> Iterator[list[Partial]]:
    """Yield batches like a live market's, with consecutive ids.

    Each batch begins in the last window of the batch before.

    Batches with a single window stay in the same window for BATCHES_PER_WINDOW batches.
    """
    windows = shape.windows
    next_id = dict.fromkeys((f"S{shape.symbols}X{windows}N{n}" for n in range(shape.symbols)), 1)
    for batch in range(shape.batches):
        passed = batch // BATCHES_PER_WINDOW if windows == 1 else batch * (windows - 1)
        oldest = BEGINS_AT + passed * WINDOWS.size_us
        partials = []
        for symbol, first_id in next_id.items():
            partials += [
                live_partial(symbol, oldest + window * WINDOWS.size_us, first_id + 10 * window)
                for window in range(windows)
            ]
            next_id[symbol] += 10 * windows
        yield partials


def day_with_gaps(gaps: int) -> Iterator[list[Partial]]:
    """Yield a batch of ``gaps`` windows with one missing trade after each, then live batches of that day."""
    day = floor_time(BEGINS_AT, DAY_US)
    yield [live_partial("GAPS", day + at * WINDOWS.size_us, 1 + 11 * at) for at in range(gaps)]
    for batch in range(LIVE_BATCHES):
        window = day + (gaps + batch // BATCHES_PER_WINDOW) * WINDOWS.size_us
        yield [live_partial("GAPS", window, 1 + 11 * gaps + 10 * batch)]


def live_partial(symbol: str, open_time: int, first_id: int) -> Partial:
    """Return a partial aggregate of ten consecutive trades."""
    return Partial(
        symbol, open_time, open_time + SECOND_US, 10, first_id, first_id + 9, None,
        open="61000.01000000", high="61002.50000000", low="60999.00000000", close="61001.12",
        volume="1.23456789", quote_volume="75309.8765432112345678", taker_buy_volume="0.5",
        taker_buy_quote_volume="30500.0050000000000000",
    )  # fmt: skip


class Merging:
    """A database session like the processor's, which merges batches and measures them."""

    def __init__(self, connection: connection) -> None:
        connection.autocommit = True
        self._cursor = connection.cursor()
        self._cursor.execute("SELECT claim_topic('bench', 'id', 'bench')")
        claimed = (self._cursor.fetchone() or ({},))[0]
        self._run_id, self._reached = claimed["run_id"], claimed["offsets"]
        self._server = psutil.Process(connection.info.backend_pid)

    def merge(self, partials: Sequence[Partial]) -> float:
        """Merge one batch and return its wall-clock milliseconds. Raises StoreError if it isn't merged."""
        expected, self._reached = self._reached, {"0": self._reached.get("0", 0) + len(partials)}
        offsets = [json.dumps(one) for one in (expected, self._reached)]
        arguments = [*offsets, array_text(map(encode, partials)), json.dumps({"received": 1})]
        began = time.perf_counter()
        self._cursor.execute(_MERGE, (self._run_id, *arguments, encode_windows(WINDOWS)))
        milliseconds = (time.perf_counter() - began) * 1_000
        if self._cursor.fetchone() != ("merged",):
            raise StoreError("a batch was not merged")
        return milliseconds

    def cost(self, shape: Shape, batches: Iterable[Sequence[Partial]], warm_up: int) -> Cost:
        """Merge the batches and return their cost; the first ``warm_up`` don't count in the quantiles."""
        cpu_before = sum(self._server.cpu_times()[:2])
        times = [self.merge(partials) for partials in batches]
        cpu = (sum(self._server.cpu_times()[:2]) - cpu_before) / len(times) * 1_000
        times = sorted(times[warm_up:])
        return Cost(shape, times[len(times) // 2], times[int(len(times) * 0.99)], cpu)


def measure(settings: Settings, shapes: Sequence[Shape] = SHAPES) -> Iterator[Cost]:
    """Merge batches of each shape in turn into the database of the settings."""
    with closing(credentials.dsn(settings, Role.WRITER).connect()) as connection:
        merging = Merging(connection)
        for shape in shapes:
            yield merging.cost(shape, batches(shape), shape.batches // 10)


def measure_gaps(settings: Settings, gaps: int) -> Iterator[Cost]:
    """Merge live batches on a day with ``gaps`` missing trades."""
    with closing(credentials.dsn(settings, Role.WRITER).connect()) as connection:
        merging = Merging(connection)
        days = day_with_gaps(gaps)
        merging.merge(next(days))
        yield merging.cost(Shape(1, 1, LIVE_BATCHES), days, LIVE_BATCHES // 10)


def measure_under_snapshot(settings: Settings) -> Iterator[Cost]:
    """Merge live batches while another session holds a snapshot; yield the cost of each SNAPSHOT_PART."""
    with (
        closing(credentials.dsn(settings, Role.WRITER).connect()) as connection,
        closing(credentials.dsn(settings, Role.READER).connect()) as holder,
    ):
        holder.set_session(isolation_level="REPEATABLE READ")
        holder.cursor().execute("SELECT count(*) FROM candles")
        merging = Merging(connection)
        live = batches(Shape(1, 1, SNAPSHOT_BATCHES))
        while part := list(islice(live, SNAPSHOT_PART)):
            yield merging.cost(Shape(1, 1, len(part)), part, 0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stored", type=int, nargs="+", default=[0, 1_000_000], metavar="CANDLES")
    parser.add_argument("--snapshot", action="store_true", help="with a snapshot held open")
    parser.add_argument("--gaps", type=int, default=0, metavar="TRADES", help="on a day with this many gaps")
    arguments = parser.parse_args()
    print(machine.describe())
    with tempfile.TemporaryDirectory() as name, servers.postgres(Path(name)) as server:
        for number, rows in enumerate(arguments.stored):
            settings = load(
                postgres_url=f"postgresql://candleflow@127.0.0.1:{server.port}/merge_{number}",
                data_dir=Path(name),
            )
            server.provide(settings.database.owner, settings.database.name)
            schema.apply(settings)
            url = server.url(database=settings.database.name)
            print(f"stored candles: {stored.fill(url, rows, OLD_SYMBOLS, FILLED_UNTIL) if rows else 0:,}")
            if arguments.gaps:
                costs = measure_gaps(settings, arguments.gaps)
            else:
                costs = measure_under_snapshot(settings) if arguments.snapshot else measure(settings)
            for cost in costs:
                print(f"  {cost.words()}", flush=True)


if __name__ == "__main__":
    main()
