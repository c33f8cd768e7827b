"""One contestant's run over a topic, watched from outside: from when to when it took, and what it cost."""

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
"""A contestant may take so long to start: on a machine that is busy otherwise, a JVM does take minutes."""
SLOWEST_RATE: Final = 4_000.0
"""Trades a second: to read them it may take as long again, and the time that this rate takes."""
SETTLED: Final = 0.25
"""The steady rate is taken from when so much of the topic was in the table: what warms up has by then."""
_STOP_SECONDS: Final = 15.0
_POLL_SECONDS: Final = 0.2
_ASKING_SHARE: Final = 0.1
"""The sum over a great table takes long: it is asked for so seldom that it takes no more of the time."""
_READY_POLL_SECONDS: Final = 0.05
_WATCH_SECONDS: Final = 0.5


class RaceError(Exception):
    """The contestant did not come to the end, and why."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one run took. Seconds are the wall's, but for ``processor_seconds``."""

    contestant: str
    trades: int
    start_seconds: float
    """From the program's start to when it was about to read."""
    seconds: float
    """From then on, until its table held the last trade of every symbol."""
    steady_rate: float | None
    """Trades a second over the last three quarters; None where the rows came too few times to tell."""
    processor_seconds: float
    """Of the program and what it started, between the same moments as ``seconds``; Kafka's and PostgreSQL's
    are their own."""
    memory_mb: float
    """The most it held at once, proportional (PSS)."""
    verdict: Verdict
    store_seconds: float | None = None
    """Processor time of PostgreSQL between the same moments; None where the place names none."""

    @property
    def rate(self) -> float:
        return self.trades / self.seconds

    @property
    def rate_with_start(self) -> float:
        return self.trades / (self.start_seconds + self.seconds)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run takes place: a database and a folder that no other run has."""

    url: str
    """The database's, with its password: a secret."""
    folder: Path
    variables: Mapping[str, str]
    """The environment of its program."""
    store_pid: int | None = None
    """PostgreSQL's process, where what it takes is to be told."""


def race(contestant: Contestant, place: Place, trades: int, expected: Expected) -> Run:
    """Start it, wait until its table holds ``trades`` trades, stop it, and compare its candles.

    Raises RaceError where it ends or takes too long.
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
        raise RaceError(f"has no such table as it should: {' '.join(str(error).split())}") from error
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
    """Trades a second from the first moment with ``SETTLED`` of ``trades`` to the last.

    ``reached`` is how many were in the table when. None where that first moment has nine tenths already.
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
    """How many trades the table held, each time that changed, until it held them all."""
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
        """How many are in it: a sum over its rows."""
        try:
            ((number,),) = self._ask(sql.SQL("coalesce(sum(trade_count), 0)"))
        except (psycopg2.errors.UndefinedTable, psycopg2.errors.UndefinedColumn):
            return 0  # it makes its table with its first rows
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
    """Since the epoch."""
    return (moment - at(0)) // timedelta(milliseconds=1)


def _moment(value: datetime | int) -> datetime:
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    return at(value * 1_000)


class _Watch:
    """What a process and all that it started take, looked at twice a second."""

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
        """Of all that live, and of the children they had."""
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
