"""The auditor process: checks the candles in PostgreSQL, and has wrong or incomplete ones repaired.

- It finds gaps in the trade ids that the topic of gaps doesn't report yet. It writes them to that topic, and
  the producer fills them.
- It compares the latest candles with the exchange's own klines, field by field.
- It rebuilds candles that contradict each other or the klines, from the topic (``rebuilding.py``).
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
"""How long after its end to check a candle: late trades have arrived by then."""
AGAIN_US: Final = 3_600 * SECOND_US
"""When to fetch missing trades again: an older copy of the database may have been restored meanwhile."""
AGREEMENT_US: Final = 600 * SECOND_US
"""How far back to check and compare candles: 600 klines of 1 s fit in one request."""
BEHIND_US: Final = 120 * SECOND_US
"""Log it when the processor is behind by this much: newer candles can't be checked for gaps."""
LONGEST_ROLL_UP: Final = "1h"
"""The longest roll-up to check here. ``repair`` checks longer ones: a day has 17,280 candles of 5 s."""
RECORDS_LIMIT: Final = 1_000_000
"""Maximum records read for one time range, which takes half a minute."""

_NAMED: Final = 10
"""Maximum symbols named in the heartbeat's message."""
_PATIENCE_SECONDS: Final = 120.0
"""How long a comparison may wait for the rate limit: two of the minutes after which it resets."""
_SYMBOLS_LIMIT: Final = 100
"""Maximum symbols whose comparison is in the heartbeat."""


def run(settings: Settings) -> int:
    """Run the auditor until stopped; return the exit status. Logs to stderr."""
    return exit_status(NAME, settings, lambda: asyncio.run(Auditor(settings).run()))


@dataclass(frozen=True, slots=True)
class _Agreement:
    """The result of a symbol's last comparison with the klines, and its time by ``time.monotonic``."""

    verdicts: Counter[Verdict]
    compared_at: float


class Auditor:
    """One run of the auditor. ``counts`` returns what it has found so far."""

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
        self._mismatches: queue.SimpleQueue[tuple[str, SuspectRange]] = queue.SimpleQueue()
        self._repaired = 0
        self._heartbeat = served_heartbeat(settings, NAME)
        self._history = HistoryLoader(settings, self._urls, self._reader)
        self._message = ""
        self._gaps = gap_log.GapReader(settings.kafka.bootstrap, settings.gaps_topic)
        self._recorded = RecordedGaps()
        self._behind = ""
        self._unchecked = ""
        self._gaps_found = 0
        self._agreement: dict[str, _Agreement] = {}
        self._logged: set[tuple[str, str, int]] = set()

    def stop(self) -> None:
        """Make ``run`` return within a second or two."""
        self._stop.set()

    def counts(self) -> Mapping[str, int | float]:
        """Return the heartbeat's counters: gaps found, candles ever rebuilt, compared windows by verdict."""
        agreement = list(self._agreement.values())
        total: Counter[Verdict] = sum((one.verdicts for one in agreement), Counter())
        return {
            "holes": self._gaps_found,
            "repaired": self._repaired,
            **{str(verdict): total[verdict] for verdict in Verdict},
        }

    def by_symbol(self) -> ByLabel:
        """Return the compared windows by verdict and symbol, and how long ago each symbol was compared."""
        found: dict[str, dict[str, float]] = defaultdict(dict)
        for symbol, one in list(self._agreement.items())[:_SYMBOLS_LIMIT]:
            for verdict, count in one.verdicts.items():
                if count:
                    found[str(verdict)][symbol] = count
            found["compared_age_s"][symbol] = round(time.monotonic() - one.compared_at, 1)
        return found

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
        """Rebuild first: else a lost candle looks like a gap, although the topic has its trades."""
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
        """Rebuild recent candles that are inconsistent or differ from the klines. ``now`` in microseconds.

        Raises StoreError and BrokerError while PostgreSQL or Kafka is away, StoppedError after ``stop``.
        """
        slide = self._settings.windows.slide_us
        until = floor_time(now - SETTLE_US, slide)
        since = max(0, until - AGREEMENT_US)
        found = {
            symbol: self._rebuilder.find_suspect_ranges(symbol, since, until, LONGEST_ROLL_UP)
            for symbol in self._settings.symbols
        }
        while not self._mismatches.empty():
            symbol, mismatch = self._mismatches.get()
            found[symbol].append(mismatch)
        for symbol, some in found.items():
            due = [one for one in some if one.until <= until and self._attempts.is_due(symbol, one, now)]
            for stretch, rebuilt in self._rebuilder.rebuild(symbol, some, due.__contains__):
                for one in due:
                    if stretch.since <= one.since and one.until <= stretch.until:
                        self._attempts.note(symbol, one, now, is_settled=not rebuilt.left)
                _log.warning(
                    "%s from %s to %s was checked because %s: %d candles rebuilt%s",
                    symbol,
                    written(stretch.since),
                    written(stretch.until),
                    stretch.reason,
                    rebuilt.candles,
                    f"; not all rebuilt: {rebuilt.left}" if rebuilt.left else "",
                )
        self._repaired = self._store.repaired(self._settings.symbols)

    def find_gaps(self, now: int) -> list[GapEvent]:
        """Find gaps that the topic of gaps doesn't report, write them there, and return them.

        ``now`` in microseconds. Raises StoreError and BrokerError while PostgreSQL or Kafka is unavailable.
        """
        settings = self._settings
        caught_up_at = self._reader.caught_up_at(settings.topic)
        until = min(now, caught_up_at or 0) - SETTLE_US
        since = now - int(settings.exchange.fill_hours * 3_600 * SECOND_US)
        # Read the candles first: the producer reports a gap before the candles can show it.
        held = {symbol: self._reader.id_ranges(symbol, since, until) for symbol in settings.symbols}
        self._read_recorded(now, min(until, now - AGAIN_US))
        self._report_unchecked(now, caught_up_at, until)
        found = [event for symbol in held for event in self._unrecorded(symbol, held[symbol], until, now)]
        if found:
            gap_log.write_all(settings.kafka.bootstrap, settings.gaps_topic, found)
        for event in found:
            self._gaps_found += len(event.ranges)
            _log.warning(
                "%s: found unreported gaps, %d trades in %d ranges, %d to %d; the producer will fetch them",
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
        """Return events for the missing ids between a symbol's ids ``held`` that no gap reports yet."""
        if not held:
            return []
        # Filled trades that the processor may not have merged yet are not a gap.
        known = self._recorded.known(
            symbol, held[0][0], held[-1][1], merged_at=until, again_at=now - AGAIN_US
        )
        return events_of(GapEventKind.SEEN, symbol, unrecorded_gaps(held, known), now, AUDIT)

    def _report_unchecked(self, now: int, caught_up_at: int | None, until: int) -> None:
        """Log and note which candles can't be checked for gaps now, and why."""
        behind = ""
        if caught_up_at is None:
            behind = "no candle is checked for gaps: no processor has read the whole topic yet"
        elif now - caught_up_at >= BEHIND_US:
            behind = f"no candle after {written(until)} is checked for gaps: the processor is behind"
        if behind and not self._behind:
            _log.info("%s", behind)
        elif self._behind and not behind:
            _log.info("all candles are checked for gaps again")
        self._behind = behind
        counts = {symbol: self._recorded.filled_since(symbol, until) for symbol in self._settings.symbols}
        waiting = [f"{count:,} of {symbol}" for symbol, count in counts.items() if count]
        named = ", ".join(waiting[:_NAMED])
        self._unchecked = behind or (named and f"not checked yet, just filled: {named}")

    async def compare(self) -> None:
        """Compare each symbol's latest candles with the exchange's klines."""
        reached = await self._reached()
        async with ExchangeRest(self._urls[0], patience_seconds=_PATIENCE_SECONDS) as rest:
            for symbol in self._settings.symbols:
                if symbol not in reached:
                    self._agreement.pop(symbol, None)
                    continue
                try:
                    await self._compare_one(rest, symbol, reached[symbol])
                except RateLimitError as error:
                    _log.warning(
                        "no symbol is compared with the exchange's klines now, next try in a minute: %s",
                        error,
                    )
                    self._agreement.clear()
                    return
                except (ExchangeError, StoreError) as error:
                    _log.info("%s is not compared with the exchange's klines now: %s", symbol, error)
                    self._agreement.pop(symbol, None)  # no result is better than a stale one

    async def _compare(self) -> None:
        while self._urls:
            await self.compare()
            await asyncio.sleep(KLINES_SECONDS)
        await self._stop.wait()

    async def _reached(self) -> Mapping[str, int]:
        """Return the time of each symbol's newest trade; empty while PostgreSQL is unavailable."""
        try:
            states = await asyncio.to_thread(self._reader.symbols)
        except StoreError as error:
            _log.info("nothing is compared with the exchange's klines now: %s", error)
            return {}
        return {one.symbol: one.last_trade_time for one in states}

    async def _compare_one(self, rest: ExchangeRest, symbol: str, reached: int) -> None:
        """Compare the windows of the ten minutes before ``reached``, the time of the newest stored trade.

        Trades arrive in order, so windows after it are late, not wrong. On two busy cores a trade took up to
        46 s to its row.
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
            for mismatch in kline_mismatches(comparison, basis):
                self._mismatches.put((symbol, mismatch))
            self._log_differences(symbol, basis, comparison)
        self._agreement[symbol] = _Agreement(agreement, time.monotonic())

    def _log_differences(self, symbol: str, basis: Basis, comparison: Comparison) -> None:
        """Log each window that differs, once."""
        for finding in comparison.findings:
            window = (symbol, basis.interval, finding.open_time)
            if finding.verdict in DIFFERING and window not in self._logged:
                self._logged.add(window)
                fields = ", ".join(f"{one.name} {one.ours} / {one.theirs}" for one in finding.fields)
                _log.error(
                    "%s %s candle at %s is %s, stored / exchange: %s; checking it against the topic's trades",
                    symbol,
                    basis.interval,
                    written(finding.open_time),
                    finding.verdict,
                    fields,
                )

    async def _beat(self) -> None:
        while True:
            state = "waiting" if self._message.startswith("waits") else "running"
            message = "; ".join(filter(None, (self._message, self._unchecked, self._history.state)))
            self._heartbeat.beat(state, message, self.counts(), self.by_symbol())
            await asyncio.sleep(BEAT_SECONDS)
