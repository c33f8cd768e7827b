"""The producer's process: the exchange's live trades into Kafka, until SIGTERM or Ctrl-C.

``run`` joins the stream, the intake, the trade log and the filler of gaps, keeps the heartbeat, and at the
end flushes what is in flight. It begins where the topic ends: what the exchange traded since then is a gap.
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
from typing import Any, Final, TypeVar

from candleflow.broker import gap_log
from candleflow.broker.gap_log import GapLog
from candleflow.broker.topic_tail import last_trade_ids
from candleflow.broker.topics import ensure_topics
from candleflow.broker.trade_log import TradeLog
from candleflow.errors import CandleflowError, ExchangeError, SettingError
from candleflow.exchange.addresses import addresses
from candleflow.exchange.clock import ExchangeClock
from candleflow.exchange.history import TradeHistory
from candleflow.exchange.messages import decode_payload
from candleflow.exchange.rate_limit import Share
from candleflow.exchange.reconnect import Rotation
from candleflow.exchange.rest import TRADING, ExchangeRest
from candleflow.exchange.stream import Received, TradeStream
from candleflow.market.gap import GapEvent, GapEventKind
from candleflow.market.shard import ALL, PRODUCER
from candleflow.market.trade import Trade
from candleflow.market.window import SECOND_US
from candleflow.metrics.serving import served_heartbeat
from candleflow.producer.gap_filler import GapFiller
from candleflow.producer.intake import Intake
from candleflow.producer.tail import TailWatch
from candleflow.settings import Settings
from candleflow.telemetry import set_up_logging

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

NAME: Final = PRODUCER
FLUSH_SECONDS: Final = 5.0
"""Of the 10 s a stop may take, so many are for Kafka's last acknowledgements."""
HOLDER_SECONDS: Final = 20.0
"""So long a rival is waited for: one that was killed is gone for Kafka after ``gap_log.SESSION_MS``."""
GIVE_BACK_SECONDS: Final = 2.0
REST_SECONDS: Final = 10.0
GARBAGE_OBJECTS: Final = 50_000
"""So many new objects before Python looks for cycles among them. Records in flight are no cycles: at its own
700 the search took 2.2 us a trade of a busy producer, more than all that is done with one on its way."""
BEAT_SECONDS: Final = 1.0
RIGHT_SECONDS: Final = 0.2
TOPICS_SECONDS: Final = 5.0
"""So often it is looked after the topics while Kafka takes nothing."""
CLOCK_SECONDS: Final = 600.0
"""So often the exchange is asked for the time: a machine's clock drifts some ms in that time."""

_AGES_LIMIT: Final = 100
"""The heartbeat tells the last trade's age of so many symbols at most."""


def run(settings: Settings) -> int:
    """Run the producer until it is told to stop; its exit status. Logs to stderr."""
    set_up_logging(settings.producer_name, settings.log.level, settings.log.format)
    gc.set_threshold(GARBAGE_OBJECTS)
    if settings.log.level != "DEBUG":
        # Each delivery's outcome is looked at and told of by the trade log; kafka-python would add a line
        # for every attempt to connect while Kafka is away, and tracebacks from its threads.
        logging.getLogger("kafka").setLevel(logging.CRITICAL)
    try:
        asyncio.run(_run(settings))
    except CandleflowError as error:
        _log.error("%s", error, exc_info=settings.log.level == "DEBUG")
        return error.exit_status
    except Exception:  # noqa: BLE001 - the process ends here, and says why
        _log.exception("a defect ended the producer")
        return 1
    return 0


async def _run(settings: Settings) -> None:
    await Producer(settings).run()


class Producer:
    """One run: ``starting``, ``running`` with ``waiting`` in between, ``stopping``."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._addresses = addresses(settings, Share.FILLING)
        retention_us = int(settings.kafka.retention_hours * 3_600 * SECOND_US)
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
            self._history, self._intake, self._symbols, may_note=lambda: self._gap_log.is_held
        )
        self._gap_log = GapLog(
            settings.kafka.bootstrap,
            settings.gaps_topic,
            holder=f"{socket.gethostname()} process {os.getpid()}",
            shard=settings.shard,
            on_all=self._on_loop(self._filler.begin),
            on_more=self._on_loop(self._filler.go_on),
        )
        self._stream = TradeStream(
            self._addresses.websocket,
            self._symbols,
            self._take,
            rotation=Rotation(settings.exchange.lifetime_minutes * 60, settings.exchange.silence_seconds),
            max_streams=settings.exchange.max_streams,
            max_future_us=int(settings.max_future_seconds * SECOND_US),
            now_us=self._clock.now_us,
            on_connected=self._on_connected,
            advice=self._addresses.advice,
        )
        self._lag_ms = 0

    def stop(self) -> None:
        """Stop reading; ``run`` then returns within 10 s."""
        self._stop.set()

    def counts(self) -> dict[str, int]:
        """received, published, duplicate, rejected, in_flight."""
        return self._intake.counts()

    async def run(self) -> None:
        """Run until SIGTERM, SIGINT or ``stop``.

        Raises SettingError, ExchangeError, BrokerError, and HeldError where another producer publishes.
        """
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self.stop)
        beating = asyncio.create_task(self._beat())
        try:
            await self._unless_stopped(self._check_with_exchange())
            await self._unless_stopped(self._wait_for_kafka())
            await self._unless_stopped(self._become_the_one())
            if not self._stop.is_set():
                await self._follow()
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            await asyncio.to_thread(self._gap_log.close, GIVE_BACK_SECONDS)
            self._heartbeat.remove()

    async def _unless_stopped(self, work: Awaitable[_T]) -> _T | None:
        """The work's result; None where the stop came first. Raises what the work raises."""
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
                "no symbol falls to shard %s of %s: there is nothing to do until the symbols are others",
                self._settings.shard,
                ", ".join(self._settings.symbols[:_AGES_LIMIT]),
            )
        self._trade_log.start()
        works = [self._stream.run(), self._watch_right(), self._keep_topics(), self._keep_time()]
        if self._can_fill:
            works.append(self._filler.run())
        if self._addresses.rest:
            works.append(self._tail.run())
        else:
            _log.warning(
                "no REST address (CANDLEFLOW_EXCHANGE_REST_URL): lost trades are noticed only by the "
                "symbol's next trade, and not fetched"
            )
        tasks = [asyncio.create_task(work) for work in works]
        self._state = ("running", "")
        try:
            async with self._history:
                await self._unless_stopped(_first_failure(tasks))
        finally:
            self._stop.set()  # for what waits in threads
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._state = ("stopping", "waiting for Kafka's last acknowledgements")
            left = await self._trade_log.flush(FLUSH_SECONDS)
            await self._trade_log.close()
            if left:
                _log.error("%d records were not acknowledged by Kafka within %.0f s", left, FLUSH_SECONDS)
            _log.info("stopped: %s", _sentence(self._intake.counts()))

    def _on_connected(self, symbols: Sequence[str]) -> None:
        self._intake.on_connected(symbols)
        self._tail.on_connected(symbols)

    async def _take(self, message: Received) -> None:
        while (
            not self._gap_log.is_held
        ):  # as after a time of standing still: who is the one is found out anew
            await asyncio.sleep(RIGHT_SECONDS)
        await self._intake.take((message,))

    async def _watch_right(self) -> None:
        """Raise what took the right to publish from us."""
        while self._gap_log.failure is None:
            await asyncio.sleep(RIGHT_SECONDS)
        raise self._gap_log.failure

    def _on_loop(self, take: Callable[[list[GapEvent]], None]) -> Callable[[list[GapEvent]], None]:
        """``take``, to be called from another thread; other shards' gaps are none of ours."""
        owns = self._settings.shard.owns

        def hand_over(events: list[GapEvent]) -> None:
            self._loop.call_soon_threadsafe(take, [event for event in events if owns(event.symbol)])

        return hand_over

    async def _note_gap(self, symbol: str, first: int, last: int, why: str) -> None:
        _log.warning("%s: %d trades are missing, %d to %d (%s)", symbol, last - first + 1, first, last, why)
        await self._write(GapEvent(GapEventKind.SEEN, symbol, first, last, self._clock.now_us(), why))

    async def _write(self, event: GapEvent) -> None:
        await self._trade_log.note(self._settings.gaps_topic, event.symbol, gap_log.encode(event))

    async def _become_the_one(self) -> None:
        """Take the right to publish, and learn where the topic ends."""
        settings = self._settings
        self._state = ("waiting", "for the right to publish")
        await asyncio.to_thread(self._gap_log.acquire, HOLDER_SECONDS, self._stop.is_set)
        last = await asyncio.to_thread(
            last_trade_ids, settings.kafka.bootstrap, settings.topic, self._symbols, self._read_trade
        )
        self._intake.begin_after(last)

    def _read_trade(self, record: bytes, written_us: int) -> Trade | None:
        """As the processor reads it."""
        verdict = decode_payload(record, written_us, int(self._settings.max_future_seconds * SECOND_US))
        return verdict if isinstance(verdict, Trade) else None

    async def _wait_for_kafka(self) -> None:
        self._state = ("waiting", f"for Kafka at {self._settings.kafka.bootstrap}")
        await self._ensure_topics()

    async def _keep_topics(self) -> None:
        """Make the topics anew where they went while we run: by whom and why, the processor asks."""
        while True:
            await asyncio.sleep(TOPICS_SECONDS)
            if self._trade_log.is_stalled or not self._gap_log.is_held:
                await self._ensure_topics()

    async def _ensure_topics(self) -> None:
        settings = self._settings
        await asyncio.to_thread(
            ensure_topics,
            settings.kafka.bootstrap,
            (settings.topic, settings.rejected_topic),
            settings.kafka.partitions,
            settings.kafka.replication,
            settings.kafka.retention_hours,
            gives_up=self._stop.is_set,
        )
        await asyncio.to_thread(
            gap_log.ensure_topic,
            settings.kafka.bootstrap,
            settings.gaps_topic,
            settings.kafka.replication,
            gives_up=self._stop.is_set,
        )

    async def _check_with_exchange(self) -> None:
        """Set the clock and check the symbols by REST, at the first address that answers."""
        problems = []
        for url in self._addresses.rest:
            try:
                async with asyncio.timeout(REST_SECONDS):
                    await self._set_clock(url)
                    listed = await self._listed_symbols(url)
            except (ExchangeError, TimeoutError) as error:
                problems.append(f"{url}: {error or 'no answer in time'}")
            else:
                check_symbols(self._settings.symbols, listed)
                if resting := halted(self._symbols, listed):
                    _log.warning("not traded now, and waited for: %s", ", ".join(resting))
                return
        if problems:
            _log.warning(
                "symbols are not checked and this machine's clock is used, as REST can't be asked: %s",
                "; ".join(problems),
            )

    async def _set_clock(self, url: str) -> None:
        async with ExchangeRest(url) as rest:
            asked_at = self._clock.steady()
            exchange_us = await rest.server_time()
            self._clock.correct(exchange_us, asked_at, self._clock.steady())

    async def _listed_symbols(self, url: str) -> Mapping[str, str]:
        async with ExchangeRest(url) as rest:
            return await rest.symbols()

    async def _keep_time(self) -> None:
        while self._addresses.rest:
            await asyncio.sleep(CLOCK_SECONDS)
            for url in self._addresses.rest:
                try:
                    async with asyncio.timeout(REST_SECONDS):
                        await self._set_clock(url)
                    break
                except (ExchangeError, TimeoutError) as error:
                    _log.info("%s does not tell the time: %s", url, error)

    async def _beat(self) -> None:
        due = time.monotonic()
        while True:
            self._lag_ms = round(max(0.0, time.monotonic() - due) * 1_000)
            self._heartbeat.beat(*self._words(), self._counts())
            due = time.monotonic() + BEAT_SECONDS
            await asyncio.sleep(BEAT_SECONDS)

    def _words(self) -> tuple[str, str]:
        """The heartbeat's state and message."""
        if self._state[0] != "running":
            return self._state
        if self._trade_log.holds_back or self._trade_log.is_stalled:
            waits = "; reading waits too" if self._trade_log.holds_back else ""
            return "waiting", f"for Kafka: {self._trade_log.in_flight:,} records in flight{waits}"
        if self._stream.connected < self._stream.wanted:
            place = " or ".join(self._addresses.websocket)
            return "waiting", f"for {place}: {self._stream.connected} of {self._stream.wanted} connected"
        return "running", self._share()

    def _share(self) -> str:
        """Which symbols are followed, and as which shard if there are several."""
        names = ", ".join(self._symbols[:_AGES_LIMIT])
        if self._settings.shard == ALL:
            return names
        return f"shard {self._settings.shard}: {names or 'no symbol falls to it'}"

    def _counts(self) -> dict[str, int | float]:
        now = self._clock.now_us()
        ages = list(self._intake.last_trade_times.items())[:_AGES_LIMIT]
        return {
            **self._intake.counts(),
            "missing": self._filler.open_trades,
            "open_gaps": self._filler.open_gaps,
            "filled": self._intake.filled,
            "let_go": self._intake.let_go,
            "retried": self._trade_log.retried,
            "reconnects": self._stream.reconnects,
            "connected": self._stream.connected,
            "loop_lag_ms": self._lag_ms,
            **self._tail.counts(_AGES_LIMIT),
            **{f"age_s:{symbol}": round((now - last) / SECOND_US, 3) for symbol, last in ages},
        }


async def _first_failure(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Return when all are done; raise what the first that failed raised."""
    for task in (await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION))[0]:
        task.result()


def check_symbols(symbols: Sequence[str], listed: Collection[str]) -> None:
    """Raise SettingError for the symbols that the exchange does not list, with the nearest that it does.

    ``listed``: also those not traded now; none at all says nothing of ours.
    """
    unknown = [symbol for symbol in symbols if symbol not in listed]
    if not unknown or not listed:
        return
    hints = []
    for symbol in unknown:
        near = difflib.get_close_matches(symbol, listed, n=3)
        hints.append(symbol + (f" (did you mean {' or '.join(near)}?)" if near else ""))
    raise SettingError(
        f"CANDLEFLOW_SYMBOLS={','.join(symbols)[:200]!r}: the exchange does not list {', '.join(hints)}"
    )


def halted(symbols: Sequence[str], listed: Mapping[str, str]) -> list[str]:
    """Those of the symbols that the exchange lists, by ``listed``'s status, but does not trade now."""
    return [symbol for symbol in symbols if listed.get(symbol, TRADING) != TRADING]


def _sentence(counts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:,}" for name, value in counts.items())
