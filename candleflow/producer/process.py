"""The producer process: publishes the exchange's live trades to Kafka until SIGTERM or Ctrl-C.

``run`` connects the stream, the intake, the trade log and the gap filler, writes the heartbeat, and flushes
the records in flight at the end. It starts after the last trade in the topic: trades that the exchange made
since then are a gap.
"""

from __future__ import annotations

import asyncio
import difflib
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from itertools import islice
from typing import Any, Final, TypeVar

from candleflow.broker import gap_log
from candleflow.broker.lease import Lease
from candleflow.broker.topic_tail import last_trade_ids
from candleflow.broker.topics import ensure_trade_topics
from candleflow.broker.trade_log import TradeLog
from candleflow.errors import ExchangeError, SettingError
from candleflow.exchange.addresses import addresses
from candleflow.exchange.clock import ExchangeClock
from candleflow.exchange.history import TradeHistory
from candleflow.exchange.rate_limit import Share
from candleflow.exchange.reconnect import Rotation
from candleflow.exchange.rest import TRADING, ExchangeRest
from candleflow.exchange.stream import Received, TradeStream
from candleflow.market.gap import GapEvent, GapEventKind
from candleflow.market.shard import ALL, PRODUCER
from candleflow.market.window import SECOND_US
from candleflow.metrics.serving import served_heartbeat
from candleflow.process_loop import exit_status
from candleflow.producer.gap_filler import GapFiller
from candleflow.producer.intake import Intake
from candleflow.producer.tail import TailWatch
from candleflow.settings import Settings
from candleflow.telemetry import ByLabel

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

NAME: Final = PRODUCER
FLUSH_SECONDS: Final = 5.0
"""How long a shutdown waits for Kafka's last acknowledgements; the whole shutdown takes at most 10 s."""
LEASE_SECONDS: Final = 20.0
"""How long to wait for another producer's lease to expire; Kafka drops a killed one after
``lease.SESSION_MS``."""
RELEASE_SECONDS: Final = 2.0
REST_SECONDS: Final = 10.0
GARBAGE_OBJECTS: Final = 50_000
"""How many new objects trigger Python's garbage collector. Records in flight form no reference cycles. At the
default of 700 the collector took 2.2 us per trade, more than the rest of a trade's processing."""
BEAT_SECONDS: Final = 1.0
LEASE_POLL_SECONDS: Final = 0.2
TOPICS_SECONDS: Final = 5.0
"""How often to re-check that the topics exist while Kafka accepts no writes."""
CLOCK_SECONDS: Final = 600.0
"""How often to ask the exchange for the time. A machine's clock drifts by a few ms in between."""

_AGES_LIMIT: Final = 100
"""Maximum number of symbols whose last trade's age is in the heartbeat."""


def run(settings: Settings) -> int:
    """Run the producer until it is stopped, and return its exit status. Logs to stderr."""
    gc.set_threshold(GARBAGE_OBJECTS)
    return exit_status(settings.producer_name, settings, lambda: asyncio.run(Producer(settings).run()))


class Producer:
    """One run of the producer. Its states: ``starting``, ``running`` or ``waiting``, ``stopping``."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._addresses = addresses(settings, Share.FILLING)
        retention_us = int(settings.kafka.retention_hours * 3_600 * SECOND_US)
        self._max_future_us = int(settings.max_future_seconds * SECOND_US)
        self._clock = ExchangeClock(trusted_lag_us=retention_us // 2)
        self._stop = asyncio.Event()
        self._state = ("starting", "")
        self._symbols = settings.own_symbols
        self._heartbeat = served_heartbeat(settings, NAME)
        self._trade_log = TradeLog(
            settings.kafka.bootstrap,
            settings.topic,
            settings.rejected_topic,
            max_in_flight=settings.kafka.max_in_flight,
            now_ms=self._clock.record_ms,
        )
        self._history = TradeHistory(self._addresses.rest)
        self._can_fill = bool(self._addresses.rest) and settings.exchange.fill_hours > 0
        self._intake = Intake(self._trade_log, self._note_gap, can_refill=self._can_fill)
        self._filler = GapFiller(
            self._history,
            self._trade_log,
            self._intake,
            self._symbols,
            write=self._write,
            now_us=self._clock.now_us,
            fill_us=int(settings.exchange.fill_hours * 3_600 * SECOND_US),
        )
        self._tail = TailWatch(
            self._history, self._intake, self._symbols, may_note=lambda: self._lease.is_held
        )
        self._lease = Lease(
            settings.kafka.bootstrap,
            settings.gaps_topic,
            holder=f"{socket.gethostname()} process {os.getpid()}",
            shard=settings.shard,
            on_all=self._on_loop(self._filler.replace),
            on_more=self._on_loop(self._filler.add),
        )
        self._stream = TradeStream(
            self._addresses.websocket,
            self._symbols,
            self._take,
            rotation=Rotation(settings.exchange.lifetime_minutes * 60, settings.exchange.silence_seconds),
            max_streams=settings.exchange.max_streams,
            max_future_us=self._max_future_us,
            now_us=self._clock.now_us,
            on_connected=self._on_connected,
            advice=self._addresses.advice,
        )
        self._lag_ms = 0

    def stop(self) -> None:
        """Stop reading; ``run`` then returns within 10 s."""
        self._stop.set()

    def counts(self) -> dict[str, int]:
        """Return the counts ``received``, ``published``, ``duplicate``, ``rejected`` and ``in_flight``."""
        return self._intake.counts()

    async def run(self) -> None:
        """Run until SIGTERM, SIGINT or ``stop``.

        Raises SettingError, ExchangeError or BrokerError; HeldError if another producer holds the lease.
        """
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self.stop)
        beating = asyncio.create_task(self._beat())
        try:
            await self._unless_stopped(self._check_with_exchange())
            self._state = ("waiting", f"for Kafka at {self._settings.kafka.bootstrap}")
            await self._unless_stopped(self._ensure_topics())
            self._state = ("waiting", "for the lease to publish")
            await self._unless_stopped(self._take_lease())
            if not self._stop.is_set():
                await self._follow()
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            await asyncio.to_thread(self._lease.close, RELEASE_SECONDS)
            self._heartbeat.remove()

    async def _unless_stopped(self, work: Awaitable[_T]) -> _T | None:
        """Await ``work`` and return its result, or None if the producer is stopped first.

        Raises what ``work`` raises.
        """
        task = asyncio.ensure_future(work)
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            for one in (task, stopped):
                one.cancel()
            await asyncio.gather(task, stopped, return_exceptions=True)

    async def _follow(self) -> None:
        if not self._symbols:
            _log.warning(
                "shard %s gets none of the symbols %s: it does nothing until CANDLEFLOW_SYMBOLS changes",
                self._settings.shard,
                ", ".join(self._settings.symbols[:_AGES_LIMIT]),
            )
        self._trade_log.start()
        works = [self._stream.run(), self._watch_lease(), self._keep_topics()]
        if self._can_fill:
            works.append(self._filler.run())
        if self._addresses.rest:
            works += [self._tail.run(), self._keep_time()]
        else:
            _log.warning(
                "no REST address is set (CANDLEFLOW_EXCHANGE_REST_URL): missing trades are detected only "
                "when the symbol's next trade arrives, and they are not fetched"
            )
        tasks = [asyncio.create_task(work) for work in works]
        self._state = ("running", "")
        try:
            async with self._history:
                await self._unless_stopped(_first_failure(tasks))
        finally:
            self._stop.set()  # ends the waits in other threads
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._state = ("stopping", "waiting for Kafka's last acknowledgements")
            left = await self._trade_log.flush(FLUSH_SECONDS)
            await self._trade_log.close()
            if left:
                _log.error(
                    "%d records were not acknowledged by Kafka within %.0f s; if trades among them are lost, "
                    "the next start records them as a gap",
                    left,
                    FLUSH_SECONDS,
                )
            _log.info("stopped: %s", _sentence(self._intake.counts()))

    def _on_connected(self, symbols: Sequence[str]) -> None:
        self._intake.on_connected(symbols)
        self._tail.on_connected(symbols)

    async def _take(self, message: Received) -> None:
        while not self._lease.is_held:  # for example after SIGSTOP: another process may hold the lease by now
            await asyncio.sleep(LEASE_POLL_SECONDS)
        await self._intake.take(message)

    async def _watch_lease(self) -> None:
        """Wait until the lease is lost, and raise the error that ended it."""
        while self._lease.failure is None:
            await asyncio.sleep(LEASE_POLL_SECONDS)
        raise self._lease.failure

    def _on_loop(self, take: Callable[[list[GapEvent]], None]) -> Callable[[list[GapEvent]], None]:
        """Wrap ``take`` for calls from another thread; it gets only the events of this shard's symbols."""
        owns = self._settings.shard.owns

        def call_on_loop(events: list[GapEvent]) -> None:
            self._loop.call_soon_threadsafe(take, [event for event in events if owns(event.symbol)])

        return call_on_loop

    async def _note_gap(self, symbol: str, first: int, last: int, why: str) -> None:
        _log.warning(
            "%s: %d trades are missing, %d to %d (%s); recorded as a gap",
            symbol,
            last - first + 1,
            first,
            last,
            why,
        )
        await self._write(GapEvent(GapEventKind.SEEN, symbol, first, last, self._clock.now_us(), why))

    async def _write(self, event: GapEvent) -> None:
        await self._trade_log.note(self._settings.gaps_topic, event.symbol, gap_log.encode(event))

    async def _take_lease(self) -> None:
        """Acquire the lease, then read each symbol's last published trade id from the topic."""
        settings = self._settings
        await asyncio.to_thread(self._lease.acquire, LEASE_SECONDS, self._stop.is_set)
        last = await asyncio.to_thread(
            last_trade_ids, settings.kafka.bootstrap, settings.topic, self._symbols, self._max_future_us
        )
        self._intake.begin_after(last)

    async def _keep_topics(self) -> None:
        """Recreate topics that are deleted while the producer runs.

        The processor checks whether a recreated topic still matches the stored candles.
        """
        while True:
            await asyncio.sleep(TOPICS_SECONDS)
            if self._trade_log.is_stalled or not self._lease.is_held:
                await self._ensure_topics()

    async def _ensure_topics(self) -> None:
        settings = self._settings
        await asyncio.to_thread(ensure_trade_topics, settings, gives_up=self._stop.is_set)
        await asyncio.to_thread(
            gap_log.ensure_topic,
            settings.kafka.bootstrap,
            settings.gaps_topic,
            settings.kafka.replication,
            gives_up=self._stop.is_set,
        )

    async def _check_with_exchange(self) -> None:
        """Set the clock and check the symbols over REST."""
        if not self._addresses.rest:
            return
        try:
            listed = await self._ask(self._time_and_symbols)
        except ExchangeError as error:
            _log.warning(
                "the exchange's REST API can't be reached: the symbols are not checked, and this machine's "
                "clock is used: %s",
                error,
            )
            return
        check_symbols(self._settings.symbols, listed)
        if suspended := halted(self._symbols, listed):
            _log.warning(
                "the exchange has suspended trading in %s: their trades are published once it resumes",
                ", ".join(suspended),
            )

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(CLOCK_SECONDS)
            try:
                await self._ask(self._set_clock)
            except ExchangeError as error:
                _log.info(
                    "the exchange's time can't be fetched, next attempt in %.0f s: %s", CLOCK_SECONDS, error
                )

    async def _ask(self, question: Callable[[ExchangeRest], Awaitable[_T]]) -> _T:
        """Return the answer of the first REST address that answers in time.

        Raises ExchangeError if none does.
        """
        problems = []
        for url in self._addresses.rest:
            try:
                async with asyncio.timeout(REST_SECONDS), ExchangeRest(url) as rest:
                    return await question(rest)
            except (ExchangeError, TimeoutError) as error:
                problems.append(f"{url}: {error or 'no answer in time'}")
        raise ExchangeError("; ".join(problems))

    async def _time_and_symbols(self, rest: ExchangeRest) -> Mapping[str, str]:
        await self._set_clock(rest)
        return await rest.symbols()

    async def _set_clock(self, rest: ExchangeRest) -> None:
        asked_at = self._clock.steady()
        exchange_us = await rest.server_time()
        self._clock.correct(exchange_us, asked_at, self._clock.steady())

    async def _beat(self) -> None:
        due = time.monotonic()
        while True:
            self._lag_ms = round(max(0.0, time.monotonic() - due) * 1_000)
            self._heartbeat.beat(*self._words(), self._counts(), self._by_symbol())
            due = time.monotonic() + BEAT_SECONDS
            await asyncio.sleep(BEAT_SECONDS)

    def _words(self) -> tuple[str, str]:
        """Return the heartbeat's state and message."""
        if self._state[0] != "running":
            return self._state
        if self._trade_log.has_back_pressure or self._trade_log.is_stalled:
            waits = "; reading from the exchange is paused" if self._trade_log.has_back_pressure else ""
            return "waiting", f"for Kafka: {self._trade_log.in_flight:,} records in flight{waits}"
        if self._stream.connected < self._stream.wanted:
            place = " or ".join(self._addresses.websocket)
            return "waiting", f"for {place}: {self._stream.connected} of {self._stream.wanted} connected"
        return "running", self._share()

    def _share(self) -> str:
        """Return the symbols that are followed and, if there are several shards, the shard."""
        names = ", ".join(self._symbols[:_AGES_LIMIT])
        if self._settings.shard == ALL:
            return names
        return f"shard {self._settings.shard}: {names or 'it gets no symbol'}"

    def _counts(self) -> dict[str, int | float]:
        return {
            **self._intake.counts(),
            "missing": self._filler.open_trades,
            "open_gaps": self._filler.open_gaps,
            "filled": self._intake.filled,
            "let_go": self._intake.dropped,
            "retried": self._trade_log.retried,
            "reconnects": self._stream.reconnects,
            "connected": self._stream.connected,
            "loop_lag_ms": self._lag_ms,
            **self._tail.counts(),
        }

    def _by_symbol(self) -> ByLabel:
        now = self._clock.now_us()
        ages = islice(self._intake.last_trade_times.items(), _AGES_LIMIT)
        age_s = {symbol: round((now - last) / SECOND_US, 3) for symbol, last in ages}
        return {"age_s": age_s, **self._tail.by_symbol(_AGES_LIMIT)}


async def _first_failure(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait until all tasks are done or one fails; raise the error of the one that failed."""
    for task in (await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION))[0]:
        task.result()


def check_symbols(symbols: Sequence[str], listed: Collection[str]) -> None:
    """Raise SettingError if the exchange does not list all ``symbols``; the error suggests similar names.

    ``listed`` includes symbols whose trading is suspended. If it is empty, nothing is checked.
    """
    unknown = [symbol for symbol in symbols if symbol not in listed]
    if not unknown or not listed:
        return
    hints = []
    for symbol in unknown:
        near = difflib.get_close_matches(symbol, listed, n=3)
        hints.append(symbol + (f" (did you mean {' or '.join(near)}?)" if near else ""))
    raise SettingError(
        f"CANDLEFLOW_SYMBOLS={','.join(symbols)[:200]!r}: the exchange does not list "
        f"{', '.join(hints)}; correct or remove it"
    )


def halted(symbols: Sequence[str], listed: Mapping[str, str]) -> list[str]:
    """Return those of ``symbols`` whose trading is suspended; ``listed`` maps symbols to their status."""
    return [symbol for symbol in symbols if listed.get(symbol, TRADING) != TRADING]


def _sentence(counts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:,}" for name, value in counts.items())
