"""The auditor's process: looks at the candles as they are in PostgreSQL, however they came to be so.

It finds gaps in the trade ids that are not on record, and has the producer fill them by writing them to the
topic of gaps. It compares the latest candles with the exchange's own klines, field by field. It rebuilds
candles that do not fit together, or differ from the klines, from the topic (``rebuilding.py``).
"""

from __future__ import annotations

import asyncio
import logging
import queue
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from candleflow.audit.consistency import Attempts, SuspectRange, kline_mismatches
from candleflow.audit.continuity import RecordedGaps, unrecorded_gaps
from candleflow.audit.klines import DIFFERING, Basis, Comparison, Verdict, bases, compare
from candleflow.audit.rebuilding import Rebuilder, StoppedError
from candleflow.audit.verify_report import written
from candleflow.broker import gap_log
from candleflow.errors import BrokerError, ExchangeError, RateLimitError, StoreError
from candleflow.exchange.addresses import addresses
from candleflow.exchange.rest import ExchangeRest
from candleflow.history.first_sight import HistoryLoader
from candleflow.market.gap import AUDIT, GapEvent, GapEventKind, events_of
from candleflow.market.window import SECOND_US, floor_time
from candleflow.metrics.serving import served_heartbeat
from candleflow.process_loop import exit_status, until_stopped
from candleflow.settings import Settings
from candleflow.store.reader import CandleReader
from candleflow.store.rebuilds import CandleRebuilds
from candleflow.telemetry import ByLabel

_log = logging.getLogger(__name__)

NAME: Final = "audit"
BEAT_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 10.0
KLINES_SECONDS: Final = 60.0
SETTLE_US: Final = 30 * SECOND_US
"""How long after its end a candle is looked at: by then late trades have come."""
AGAIN_US: Final = 3_600 * SECOND_US
"""Trades that are still missing after this are fetched again: the database may be an earlier one."""
AGREEMENT_US: Final = 600 * SECOND_US
"""How far back candles are compared and checked: 600 klines of a second are one request."""
BEHIND_US: Final = 120 * SECOND_US
"""A processor that has been behind for longer than this is logged: newer candles can't be searched."""
LONGEST_ROLL_UP: Final = "1h"
"""Longer roll-ups are held against their candles by ``repair`` alone: a day's are 17,280."""
RECORDS_LIMIT: Final = 1_000_000
"""The most records read for one stretch, which takes half a minute."""

_NAMED: Final = 10
"""The most symbols named in the heartbeat's message."""
_PATIENCE_SECONDS: Final = 120.0
"""How long a comparison may wait for the rate limit: two turns of the minute that weights are counted by."""
_SYMBOLS_LIMIT: Final = 100
"""The most symbols whose agreement is in the heartbeat."""


def run(settings: Settings) -> int:
    """Audit until told to stop; the exit status. Logs to stderr."""
    return exit_status(NAME, settings, lambda: asyncio.run(Auditor(settings).run()))


@dataclass(frozen=True, slots=True)
class _Agreement:
    """How a symbol's candles agreed with the klines, and when, by ``time.monotonic``."""

    verdicts: Counter[Verdict]
    compared_at: float


class Auditor:
    """One run. ``counts`` tells what was found so far."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._urls = addresses(settings).rest
        self._reader = CandleReader.from_settings(settings)
        self._store = CandleRebuilds.from_settings(settings)
        self._stop = asyncio.Event()
        self._rebuilder = Rebuilder(
            settings, self._store, say=_log.info, gives_up=self._stop.is_set, records_limit=RECORDS_LIMIT
        )
        self._attempts = Attempts()
        self._doubts: queue.SimpleQueue[tuple[str, SuspectRange]] = queue.SimpleQueue()
        self._repaired = 0
        self._heartbeat = served_heartbeat(settings, NAME)
        self._history = HistoryLoader(settings, self._urls, self._reader)
        self._message = ""
        self._gaps = gap_log.GapReader(settings.kafka.bootstrap, settings.gaps_topic)
        self._recorded = RecordedGaps()
        self._behind = ""
        self._unjudged = ""
        self._gaps_found = 0
        self._agreement: dict[str, _Agreement] = {}
        self._told: set[tuple[str, str, int]] = set()

    def stop(self) -> None:
        """``run`` then returns within a second or two."""
        self._stop.set()

    def counts(self) -> Mapping[str, int | float]:
        """Holes found so far, candles ever put right, and how the last ten minutes' agree with the klines."""
        agreement = list(self._agreement.values())
        total: Counter[Verdict] = sum((one.verdicts for one in agreement), Counter())
        return {
            "holes": self._gaps_found,
            "repaired": self._repaired,
            **{str(verdict): total[verdict] for verdict in Verdict},
        }

    def by_symbol(self) -> ByLabel:
        """The same agreement of each symbol, and how long ago it was compared."""
        told: dict[str, dict[str, float]] = defaultdict(dict)
        for symbol, one in list(self._agreement.items())[:_SYMBOLS_LIMIT]:
            for verdict, count in one.verdicts.items():
                if count:
                    told[str(verdict)][symbol] = count
            told["compared_age_s"][symbol] = round(time.monotonic() - one.compared_at, 1)
        return told

    async def run(self) -> None:
        """Audit until SIGTERM, SIGINT or ``stop``."""
        works = (self._look(), self._compare(), self._load_history(), self._beat())
        try:
            await until_stopped(self._stop, *works)
        finally:
            self._heartbeat.remove()
            self._reader.close()
            self._store.close()

    async def _load_history(self) -> None:
        await self._history.run()
        await self._stop.wait()

    async def _look(self) -> None:
        """Mend first: a lost candle would be a hole, though the topic has its trades."""
        while True:
            message = ", ".join(self._settings.symbols[:_NAMED])
            for work in (self.rebuild, self.find_gaps):
                try:
                    await asyncio.to_thread(work, time.time_ns() // 1_000)
                except (StoreError, BrokerError) as error:
                    message = f"waits: {error}"
                except StoppedError:
                    return
            self._message = message
            await asyncio.sleep(LOOK_SECONDS)

    def rebuild(self, now: int) -> None:
        """Rebuild those of the latest candles that can't be right, or were doubted. ``now`` in microseconds.

        Raises StoreError and BrokerError while PostgreSQL or Kafka is away, StoppedError after ``stop``.
        """
        slide = self._settings.windows.slide_us
        until = floor_time(now - SETTLE_US, slide)
        since = max(0, until - AGREEMENT_US)
        found = {
            symbol: self._rebuilder.find_suspect_ranges(symbol, since, until, LONGEST_ROLL_UP)
            for symbol in self._settings.symbols
        }
        while not self._doubts.empty():
            symbol, doubt = self._doubts.get()
            found[symbol].append(doubt)
        for symbol, some in found.items():
            due = [one for one in some if one.until <= until and self._attempts.is_due(symbol, one, now)]
            for stretch, rebuilt in self._rebuilder.rebuild(symbol, some, due.__contains__):
                for one in due:
                    if stretch.since <= one.since and one.until <= stretch.until:
                        self._attempts.note(symbol, one, now, is_settled=not rebuilt.left)
                _log.warning(
                    "%s, %s to %s: %s: folded anew, %d candles put right%s",
                    symbol,
                    written(stretch.since),
                    written(stretch.until),
                    stretch.reason,
                    rebuilt.candles,
                    f"; left as it is: {rebuilt.left}" if rebuilt.left else "",
                )
        self._repaired = self._store.repaired(self._settings.symbols)

    def find_gaps(self, now: int) -> list[GapEvent]:
        """Put on record what is missing and isn't on record; that. ``now`` in microseconds.

        Raises StoreError and BrokerError while PostgreSQL or Kafka is away.
        """
        settings = self._settings
        caught_up_at = self._reader.caught_up_at(settings.topic)
        until = min(now, caught_up_at or 0) - SETTLE_US
        since = now - int(settings.exchange.fill_hours * 3_600 * SECOND_US)
        # First the candles, then what is on record: a hole that came meanwhile is on record before it shows.
        held = {symbol: self._reader.id_ranges(symbol, since, until) for symbol in settings.symbols}
        self._read_recorded(now, min(until, now - AGAIN_US))
        self._tell_unjudged(now, caught_up_at, until)
        found = [event for symbol in held for event in self._unrecorded(symbol, held[symbol], until, now)]
        if found:
            gap_log.write_all(settings.kafka.bootstrap, settings.gaps_topic, found)
        for event in found:
            self._gaps_found += len(event.ranges)
            _log.warning(
                "%s: the candles lack %d trades in %d ranges, %d to %d, that were not on record: they will be"
                " fetched",
                event.symbol,
                event.trade_count,
                len(event.ranges),
                event.first_trade_id,
                event.last_trade_id,
            )
        return found

    def _read_recorded(self, now: int, needed_since: int) -> None:
        events, is_all = self._gaps.read()
        if is_all:
            self._recorded = RecordedGaps()
        self._recorded.add(events, now)
        self._recorded.forget_before(needed_since)

    def _unrecorded(self, symbol: str, held: list[tuple[int, int]], until: int, now: int) -> list[GapEvent]:
        """The events that order what is missing of a symbol between its ids ``held``, and isn't on record."""
        if not held:
            return []
        # What was filled but not yet merged is no hole: the processor must have read all since then.
        known = self._recorded.known(
            symbol, held[0][0], held[-1][1], merged_at=until, again_at=now - AGAIN_US
        )
        return events_of(GapEventKind.SEEN, symbol, unrecorded_gaps(held, known), now, AUDIT)

    def _tell_unjudged(self, now: int, caught_up_at: int | None, until: int) -> None:
        """Say which candles can't be searched for holes now, and why."""
        behind = ""
        if caught_up_at is None:
            behind = "no candle is searched for holes: no processor has read all of the topic yet"
        elif now - caught_up_at >= BEHIND_US:
            behind = f"no candle after {written(until)} is searched for holes: the processor is behind"
        if behind and not self._behind:
            _log.info("%s", behind)
        elif self._behind and not behind:
            _log.info("all candles are searched for holes again")
        self._behind = behind
        counts = {symbol: self._recorded.filled_since(symbol, until) for symbol in self._settings.symbols}
        waiting = [f"{count:,} of {symbol}" for symbol, count in counts.items() if count]
        told = ", ".join(waiting[:_NAMED])
        self._unjudged = behind or (told and f"not searched for yet, as just filled: {told}")

    async def compare(self) -> None:
        """Hold each symbol's latest candles against the exchange's klines."""
        reached = await self._reached()
        async with ExchangeRest(self._urls[0], patience_seconds=_PATIENCE_SECONDS) as rest:
            for symbol in self._settings.symbols:
                if symbol not in reached:
                    self._agreement.pop(symbol, None)
                    continue
                try:
                    await self._compare_one(rest, symbol, reached[symbol])
                except RateLimitError as error:
                    _log.warning("no symbol is compared with the exchange's klines now: %s", error)
                    self._agreement.clear()
                    return
                except (ExchangeError, StoreError) as error:
                    _log.info("%s isn't compared with the exchange's klines now: %s", symbol, error)
                    self._agreement.pop(symbol, None)  # unknown is better than old

    async def _compare(self) -> None:
        while self._urls:
            await self.compare()
            await asyncio.sleep(KLINES_SECONDS)
        await self._stop.wait()

    async def _reached(self) -> Mapping[str, int]:
        """By symbol, the time of its newest trade; empty while PostgreSQL is away."""
        try:
            states = await asyncio.to_thread(self._reader.symbols)
        except StoreError as error:
            _log.info("nothing is compared with the exchange's klines now: %s", error)
            return {}
        return {one.symbol: one.last_trade_time for one in states}

    async def _compare_one(self, rest: ExchangeRest, symbol: str, reached: int) -> None:
        """Compare the windows of the ten minutes before ``reached``, the time of our newest trade.

        Trades come in order; what comes later is late, not wrong: on two busy cores one took 46 s to its row.
        """
        agreement: Counter[Verdict] = Counter()
        now = await rest.server_time()
        until = min(now - SETTLE_US, reached)
        since = until - AGREEMENT_US
        for basis in bases(self._settings.windows):
            begins_at = await asyncio.to_thread(self._reader.first_open_time, symbol, basis.interval)
            if begins_at is None:
                continue
            ours = await asyncio.to_thread(self._reader.within, symbol, basis.interval, since, until)
            theirs = await rest.klines(symbol, basis.kline, start_time=since, end_time=until - 1)
            comparison = compare(ours, theirs, basis, since=since, until=until, now=now, begins_at=begins_at)
            agreement.update(comparison.counts)
            for doubt in kline_mismatches(comparison, basis):
                self._doubts.put((symbol, doubt))
            self._tell(symbol, basis, comparison)
        self._agreement[symbol] = _Agreement(agreement, time.monotonic())

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
            message = "; ".join(filter(None, (self._message, self._unjudged, self._history.state)))
            self._heartbeat.beat(state, message, self.counts(), self.by_symbol())
            await asyncio.sleep(BEAT_SECONDS)
