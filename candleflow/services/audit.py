"""The auditor's process: looks at the candles as they are in PostgreSQL, however they came to be so.

It finds holes in the trade ids that nobody has on record, and has the producer fill them by writing them to
the topic of gaps; and it holds the latest candles against the exchange's own klines, field by field. It
changes no candle. ``repair`` looks for holes once, in any stretch of time, those that were given up included.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from candleflow.broker import gap_log
from candleflow.errors import BrokerError, CandleflowError, ExchangeError, StoreError
from candleflow.exchange.rest import ExchangeRest
from candleflow.market.gap import AUDIT, REPAIR, GapEvent, GapEventKind, book_of
from candleflow.market.window import SECOND_US
from candleflow.services.exchange_addresses import addresses
from candleflow.services.verify import asked_for
from candleflow.settings import Settings
from candleflow.store.reader import CandleReader
from candleflow.telemetry import HeartbeatFile, set_up_logging
from candleflow.watch.continuity import Ranges, unknown_holes
from candleflow.watch.klines import DIFFERING, Basis, Comparison, Verdict, bases, compare

_log = logging.getLogger(__name__)

NAME: Final = "audit"
BEAT_SECONDS: Final = 1.0
HOLES_SECONDS: Final = 10.0
KLINES_SECONDS: Final = 60.0
SETTLE_US: Final = 30 * SECOND_US
"""Candles are looked at so long after their end: by then what was late by itself has come."""
AGAIN_US: Final = 3_600 * SECOND_US
"""What was fetched and is missing so long after is fetched again: an earlier database may be there now."""
AGREEMENT_US: Final = 600 * SECOND_US
"""Klines are compared over so long a time: 600 of a second are one request."""

_REST_SECONDS: Final = 10.0


def run(settings: Settings) -> int:
    """Audit until told to stop; the exit status. Logs to stderr."""
    set_up_logging(NAME, settings.log_level)
    try:
        asyncio.run(Auditor(settings).run())
    except CandleflowError as error:
        _log.error("%s", error, exc_info=settings.log_level == "DEBUG")
        return error.exit_status
    return 0


def repair(settings: Settings, arguments: argparse.Namespace) -> int:
    """Have every hole of a symbol's candles within the times filled; 0. Raises as what it asks does."""
    now = time.time_ns() // 1_000
    asked = asked_for(settings, arguments, now)
    reader = CandleReader.from_settings(settings)
    try:
        held = reader.id_ranges(asked.symbol, asked.since, min(asked.until, now - SETTLE_US))
    finally:
        reader.close()
    holes = unknown_holes(held, ())
    events = _seen(asked.symbol, holes, now, REPAIR)
    if events:
        gap_log.write_all(settings.kafka_bootstrap, settings.gaps_topic, events)
    for event in events:
        print(f"{event.symbol}: trades {event.first_trade_id} to {event.last_trade_id} are to be fetched")
    print(
        f"{sum(event.trade_count for event in events):,} trades missing in {len(events):,} holes"
        + ("; the producer fills them, `gaps` tells how far it is" if events else "")
    )
    return 0


class Auditor:
    """One run. ``counts`` tells what was found so far."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._urls = addresses(settings).rest
        self._reader = CandleReader.from_settings(settings)
        self._heartbeat = HeartbeatFile(settings.run_dir, NAME)
        self._stop = asyncio.Event()
        self._message = ""
        self._holes_found = 0
        self._agreement: dict[str, Counter[Verdict]] = {}
        self._told: set[tuple[str, str, int]] = set()

    def stop(self) -> None:
        """``run`` then returns within a second or two."""
        self._stop.set()

    def counts(self) -> Mapping[str, int]:
        """Holes found so far, and how the last ten minutes' candles agree with the exchange's klines."""
        total: Counter[Verdict] = sum(self._agreement.values(), Counter())
        return {"holes": self._holes_found, **{str(verdict): total[verdict] for verdict in Verdict}}

    async def run(self) -> None:
        """Audit until SIGTERM, SIGINT or ``stop``."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        tasks = [asyncio.create_task(work) for work in (self._find_holes(), self._compare(), self._beat())]
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*tasks, stopped):
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            self._heartbeat.remove()
            self._reader.close()
        for one in ended:
            if isinstance(one, Exception):
                raise one

    async def _find_holes(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.find_holes, time.time_ns() // 1_000)
                self._message = ", ".join(self._settings.symbols[:10])
            except (StoreError, BrokerError) as error:
                self._message = f"waits: {error}"
            await asyncio.sleep(HOLES_SECONDS)

    def find_holes(self, now: int) -> list[GapEvent]:
        """Put on record what is missing and isn't on record; that. ``now`` in microseconds.

        Raises StoreError and BrokerError while PostgreSQL or Kafka is away.
        """
        settings = self._settings
        events = gap_log.read_all(settings.kafka_bootstrap, settings.gaps_topic)
        caught_up_at = self._reader.caught_up_at(settings.topic)
        # What was filled but not yet merged is no hole: the processor must have read all since then.
        settled = max((event.at for event in events), default=0) + SETTLE_US
        if caught_up_at is None or caught_up_at < settled:
            return []
        missing = book_of(events).open_ranges()
        since = now - int(settings.fill_hours * 3_600 * SECOND_US)
        until = min(now, caught_up_at) - SETTLE_US
        found = []
        for symbol in settings.symbols:
            held = self._reader.id_ranges(symbol, since, until)
            audited = _audited(symbol, events, now - AGAIN_US)
            holes = unknown_holes(held, [*missing.get(symbol, ()), *audited])
            found += _seen(symbol, holes, now, AUDIT)
        if found:
            gap_log.write_all(settings.kafka_bootstrap, settings.gaps_topic, found)
            self._holes_found += len(found)
            for event in found:
                _log.warning(
                    "%s: the candles lack trades %d to %d, and nobody had noted it: they are to be fetched",
                    event.symbol,
                    event.first_trade_id,
                    event.last_trade_id,
                )
        return found

    async def _compare(self) -> None:
        while self._urls:
            for symbol in self._settings.symbols:
                try:
                    async with asyncio.timeout(_REST_SECONDS):
                        await self._compare_one(symbol)
                except (ExchangeError, StoreError, TimeoutError) as error:
                    _log.info("%s isn't compared with the exchange's klines now: %s", symbol, error)
                    self._agreement.pop(symbol, None)  # unknown is better than old
            await asyncio.sleep(KLINES_SECONDS)
        await self._stop.wait()

    async def _compare_one(self, symbol: str) -> None:
        agreement: Counter[Verdict] = Counter()
        async with ExchangeRest(self._urls[0]) as rest:
            now = await rest.server_time()
            until = now - SETTLE_US
            since = until - AGREEMENT_US
            for basis in bases(self._settings.windows):
                begins_at = await asyncio.to_thread(self._reader.first_open_time, symbol, basis.interval)
                if begins_at is None:
                    continue
                ours = await asyncio.to_thread(self._reader.within, symbol, basis.interval, since, until)
                theirs = await rest.klines(symbol, basis.kline, start_time=since, end_time=until - 1)
                comparison = compare(
                    ours, theirs, basis, since=since, until=until, now=now, begins_at=begins_at
                )
                agreement.update(comparison.counts)
                self._tell(symbol, basis, comparison)
        self._agreement[symbol] = agreement

    def _tell(self, symbol: str, basis: Basis, comparison: Comparison) -> None:
        """Log each window that differs, once."""
        for finding in comparison.findings:
            window = (symbol, basis.interval, finding.open_time)
            if finding.verdict in DIFFERING and window not in self._told:
                self._told.add(window)
                fields = ", ".join(f"{one.name} {one.ours} / {one.theirs}" for one in finding.fields)
                _log.error("%s %s at %d is %s: ours / the exchange's: %s", *window, finding.verdict, fields)

    async def _beat(self) -> None:
        while True:
            state = "waiting" if self._message.startswith("waits") else "running"
            self._heartbeat.beat(state, self._message, self.counts())
            await asyncio.sleep(BEAT_SECONDS)


def _audited(symbol: str, events: Sequence[GapEvent], since: int) -> list[tuple[int, int]]:
    """What an audit has had fetched since then: where it is missing still, doing so again would not help."""
    return [
        (event.first_trade_id, event.last_trade_id + 1)
        for event in events
        if event.symbol == symbol
        and event.kind is GapEventKind.SEEN
        and event.why == AUDIT
        and event.at >= since
    ]


def _seen(symbol: str, holes: Ranges, now: int, why: str) -> list[GapEvent]:
    return [GapEvent(GapEventKind.SEEN, symbol, lower, upper - 1, now, why) for lower, upper in holes]
