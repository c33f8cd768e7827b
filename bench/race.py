"""Run one contestant over a topic and measure from outside: its time, CPU and memory."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import psutil
import psycopg2
from psycopg2 import sql

from bench.contestants import Contestant
from bench.oracle import Expected, Key, Number, Verdict, at, compare
from candleflow.stack.process import spawn, stop, tail

PATIENCE_SECONDS: Final = 600.0
"""Timeout of a contestant's start. On a busy machine a JVM takes minutes."""
SLOWEST_RATE: Final = 4_000.0
"""Trades a second. The timeout of a run is PATIENCE_SECONDS plus the time that this rate would take."""
SETTLED: Final = 0.25
"""Share of the trades after which a contestant counts as warmed up; the steady rate starts there."""
_STOP_SECONDS: Final = 15.0
_POLL_SECONDS: Final = 0.2
_ASKING_SHARE: Final = 0.1
"""Maximum share of time spent on counting the trades in the table, which is slow for a large table."""
_READY_POLL_SECONDS: Final = 0.05
_WATCH_SECONDS: Final = 0.5


class RaceError(Exception):
    """The contestant did not finish; the text says why."""


@dataclass(frozen=True, slots=True)
class Run:
    """The figures of one run. Times are wall-clock times unless their name says otherwise."""

    contestant: str
    trades: int
    start_seconds: float
    """Seconds from the program's start until it is ready to read."""
    seconds: float
    """Seconds from then until its table contains the last trade of every symbol."""
    steady_rate: float | None
    """Trades a second over the last three quarters; None if the rows came in too few steps to measure it."""
    processor_seconds: float
    """CPU time of the program and its children during ``seconds``, without Kafka and PostgreSQL."""
    memory_mb: float
    """Peak memory of the program and its children (PSS)."""
    verdict: Verdict
    store_seconds: float | None = None
    """CPU time of PostgreSQL during ``seconds``; None if ``Place.store_pid`` is None."""

    @property
    def rate(self) -> float:
        return self.trades / self.seconds

    @property
    def rate_with_start(self) -> float:
        return self.trades / (self.start_seconds + self.seconds)


@dataclass(frozen=True, slots=True)
class Place:
    """The database, folder and environment of one run."""

    url: str
    """URL of the database, with its secret password."""
    folder: Path
    variables: Mapping[str, str]
    """Environment variables of the program."""
    store_pid: int | None = None
    """Process id of PostgreSQL, if its CPU time is to be measured."""


def race(contestant: Contestant, place: Place, trades: int, expected: Expected) -> Run:
    """Start a contestant, wait until its table contains ``trades`` trades, stop it, and compare its candles.

    Raises RaceError if it ends early, takes too long, or has no usable table.
    """
    log = place.folder / "output.log"
    began = time.monotonic()
    process = spawn(
        [contestant.python, contestant.program, *contestant.arguments],
        log=log,
        environment={**place.variables, **dict(contestant.variables)},
        cwd=place.folder,
    )
    try:
        with _Watch(process.pid) as watch, contextlib.closing(_connect(place)) as connection:
            store = _Watch(place.store_pid) if place.store_pid is not None else None
            ready = _await_ready(process, contestant, log, began)
            processor_before = watch.processor_seconds()
            store_before = store.processor_seconds() if store is not None else 0.0
            candles = _Table(connection, contestant, expected)
            reached = _await_trades(process, candles, log, ready, trades)
            processor_seconds = watch.processor_seconds() - processor_before
            store_seconds = store.processor_seconds() - store_before if store is not None else None
            verdict = compare(expected, candles.rows(), contestant.fields)
    except psycopg2.Error as error:
        raise RaceError(f"has no table that can be read: {' '.join(str(error).split())}") from error
    finally:
        stop(process, signal.SIGTERM, _STOP_SECONDS)
    shutil.rmtree(place.folder / "state", ignore_errors=True)
    return Run(
        contestant=contestant.name,
        trades=trades,
        start_seconds=ready - began,
        seconds=reached[-1][0] - ready,
        steady_rate=steady_rate(reached, trades),
        processor_seconds=processor_seconds,
        memory_mb=watch.most_mb,
        verdict=verdict,
        store_seconds=store_seconds,
    )


def steady_rate(reached: list[tuple[float, int]], trades: int) -> float | None:
    """Return the trades a second from the first moment with ``SETTLED`` of ``trades`` to the end.

    ``reached`` has (moment, number of trades in the table). None if that first moment already has 90 %.
    """
    for moment, number in reached:
        if number >= SETTLED * trades:
            return (trades - number) / (reached[-1][0] - moment) if number < 0.9 * trades else None
    return None


def _await_ready(process: subprocess.Popen[bytes], contestant: Contestant, log: Path, began: float) -> float:
    while contestant.ready.encode() not in log.read_bytes():
        _raise_if_over(process, log, began + PATIENCE_SECONDS, "was not ready")
        time.sleep(_READY_POLL_SECONDS)
    return time.monotonic()


def _await_trades(
    process: subprocess.Popen[bytes], candles: _Table, log: Path, ready: float, trades: int
) -> list[tuple[float, int]]:
    """Wait until the table contains all trades; return (moment, number) for each change on the way."""
    deadline = ready + PATIENCE_SECONDS + trades / SLOWEST_RATE
    reached = [(ready, 0)]
    asking = 0.0
    while reached[-1][1] < trades:
        _raise_if_over(process, log, deadline, f"had {reached[-1][1]:,} of {trades:,} trades in its table")
        time.sleep(max(_POLL_SECONDS, asking / _ASKING_SHARE))
        asked = time.monotonic()
        number = candles.trades()
        asking = time.monotonic() - asked
        if number > reached[-1][1]:
            reached.append((time.monotonic(), number))
    return reached


def _raise_if_over(process: subprocess.Popen[bytes], log: Path, deadline: float, what: str) -> None:
    if process.poll() is not None:
        raise RaceError(f"ended with status {process.returncode}: {tail(log, lines=3)}")
    if time.monotonic() > deadline:
        raise RaceError(f"{what} in time: {tail(log, lines=3)}")


def _connect(place: Place) -> Any:
    connection = psycopg2.connect(place.url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SET timezone TO 'UTC'")
    return connection


class _Table:
    """A contestant's table, without the rows of the closing trades."""

    def __init__(self, connection: Any, contestant: Contestant, expected: Expected) -> None:
        self._connection = connection
        self._contestant = contestant
        latest = max(open_time for _, open_time in expected)
        self._until = milliseconds(latest) if contestant.keeps_milliseconds else latest

    def trades(self) -> int:
        """Return the number of trades in the table: the sum over its rows."""
        try:
            ((number,),) = self._ask(sql.SQL("coalesce(sum(trade_count), 0)"))
        except (psycopg2.errors.UndefinedTable, psycopg2.errors.UndefinedColumn):
            return 0  # the contestant creates its table with the first rows
        return int(number)

    def rows(self) -> Iterator[tuple[Key, dict[str, Number | None]]]:
        fields = self._contestant.fields
        names = map(sql.Identifier, ("symbol", "open_time", *fields))
        for symbol, open_time, *values in self._ask(sql.SQL(", ").join(names)):
            yield (symbol, _moment(open_time)), dict(zip(fields, values, strict=True))

    def _ask(self, what: sql.Composable) -> list[tuple[Any, ...]]:
        question = sql.SQL("SELECT {} FROM candles WHERE {} AND open_time <= %s")
        with self._connection.cursor() as cursor:
            cursor.execute(question.format(what, sql.SQL(self._contestant.condition)), (self._until,))
            found: list[tuple[Any, ...]] = cursor.fetchall()
            return found


def milliseconds(moment: datetime) -> int:
    """Convert to milliseconds since the epoch."""
    return (moment - at(0)) // timedelta(milliseconds=1)


def _moment(value: datetime | int) -> datetime:
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    return at(value * 1_000)


class _Watch:
    """Measures CPU and peak memory of a process and its children, twice a second."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.most_mb = 0.0

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def processor_seconds(self) -> float:
        """Return the CPU time of the running processes and of their ended children."""
        total = 0.0
        for one in self._members():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += sum(one.cpu_times()[:4])
        return total

    def _look(self) -> None:
        while not self._over.wait(_WATCH_SECONDS):
            held = 0.0
            for one in self._members():
                with contextlib.suppress(psutil.NoSuchProcess):
                    held += one.memory_full_info().pss / 1e6
            self.most_mb = max(self.most_mb, held)

    def _members(self) -> list[psutil.Process]:
        try:
            return [self._process, *self._process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
