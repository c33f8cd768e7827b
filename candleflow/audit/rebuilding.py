"""Rebuild wrong candles from the trades in the topic, and then the roll-ups over them.

The steps: find suspect ranges (``consistency.py``), read their trades (``broker.trade_reader``), recompute
the candles (``recomputed.py``), and replace them in one transaction (``store.rebuilds``). Only records that
the processor has merged and not rejected are used. Times are microseconds since the epoch, UTC.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from candleflow.audit.consistency import SuspectRange, find_suspect_ranges, group_adjacent, spanning
from candleflow.audit.recomputed import RecomputedCandles
from candleflow.broker.topics import topic_id
from candleflow.broker.trade_reader import TopicRecord, TradeReader
from candleflow.errors import CandleflowError
from candleflow.market.payload import decode_payload
from candleflow.market.trade import Trade
from candleflow.market.window import ROLL_UPS, SECOND_US, floor_time, roll_up_windows
from candleflow.settings import Settings
from candleflow.store.rebuilds import CandleRebuilds, Merged, Replaced

SLACK_US: Final = 120 * SECOND_US
"""Within this time a trade from the stream is in the topic, unless Kafka was unavailable."""

LONGEST: Final = list(ROLL_UPS)[-1]

_ATTEMPTS: Final = 5
_SAY_EVERY_SECONDS: Final = 5.0
_LISTED: Final = 60
"""Maximum characters of an id list in messages."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The outcome of a rebuild: the number of corrected candles; ``left``: why some were not rebuilt."""

    candles: int
    left: str = ""


class StoppedError(CandleflowError):
    """The rebuild was stopped before the end; nothing in its range was changed."""


class Rebuilder:
    """Finds and rebuilds wrong candles. Methods raise StoreError and BrokerError.

    ``say`` is called with progress messages. ``records_limit``: the maximum number of records read for one
    range. If ``gives_up`` returns True, a rebuild raises StoppedError.
    """

    def __init__(
        self,
        settings: Settings,
        store: CandleRebuilds,
        *,
        say: Callable[[str], None],
        gives_up: Callable[[], bool] = lambda: False,
        records_limit: int | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._say = say
        self._gives_up = gives_up
        self._records_limit = records_limit
        self._max_future_us = int(settings.max_future_seconds * SECOND_US)

    def find_suspect_ranges(
        self, symbol: str, since: int, until: int, longest: str = LONGEST
    ) -> list[SuspectRange]:
        """Find inconsistent candles that open in [since, until), and inconsistent roll-ups over them.

        Checks roll-ups up to ``longest``, over whole ``longest`` windows.
        """
        stored = self._store.candle_ids(symbol, since, until)
        # Else a wrong candle outside the range would make only the longest roll-up look wrong.
        size = roll_up_windows(longest).size_us
        begin, end = floor_time(since, size), floor_time(until - 1, size) + size
        strays = self._store.stray_roll_ups(symbol, begin, end, size)
        return find_suspect_ranges(stored, strays, self._settings.windows)

    def rebuild(
        self,
        symbol: str,
        found: Sequence[SuspectRange],
        is_due: Callable[[SuspectRange], bool] = lambda _: True,
    ) -> Iterator[tuple[SuspectRange, Rebuilt]]:
        """Rebuild the ranges that are due; yield the outcome of each.

        Either all of a range is replaced or nothing. Adjacent ranges are tried together first. ``found`` must
        be all suspect ranges: those that aren't due are still treated as possibly wrong.
        """
        doubtful = [one for one in found if one.since < one.until]
        for run in group_adjacent(one for one in found if is_due(one)):
            together = spanning(run)
            rebuilt = self._rebuild(symbol, together, doubtful)
            if len(run) == 1 or not rebuilt.left:
                yield together, rebuilt
                continue
            for one in run:
                yield one, self._rebuild(symbol, one, doubtful)

    def _rebuild(self, symbol: str, suspect: SuspectRange, doubtful: list[SuspectRange]) -> Rebuilt:
        """Rebuild one range, and remove it from ``doubtful`` if that succeeded."""
        others = [(one.since, one.until) for one in doubtful if not _is_within(one, suspect)]
        for _ in range(_ATTEMPTS):
            rebuilt = self._try(symbol, suspect, others)
            if rebuilt is None:
                continue
            if not rebuilt.left:
                doubtful[:] = [one for one in doubtful if not _is_within(one, suspect)]
            return rebuilt
        return Rebuilt(0, f"its candles changed during each of {_ATTEMPTS} attempts")

    def _try(self, symbol: str, suspect: SuspectRange, others: Sequence[tuple[int, int]]) -> Rebuilt | None:
        """Try one rebuild; None if the candles changed meanwhile."""
        since, until = suspect.since, suspect.until
        if since == until:
            answer = self._store.replace(symbol, since, until, {}, [], others)
            return Rebuilt(answer.candles, _kept(answer.kept))
        stored = self._store.candle_ids(symbol, since, until)
        # Read the offsets after the candles, so that they cover every trade in the candles.
        merged = self._merged()
        if merged is None:
            return Rebuilt(0, "its candles were made from another topic than the current one")
        recomputed = RecomputedCandles(symbol, self._settings.windows, since, until, stored)
        is_all = self._read(recomputed, symbol, suspect, merged)
        left = "" if is_all else f"more than {self._records_limit:,} records would have to be read"
        return self._replace(symbol, suspect, recomputed, others, left)

    def _merged(self) -> Merged | None:
        settings = self._settings
        merged = self._store.merged(settings.topic)
        if merged is None or merged.topic_id != topic_id(settings.kafka.bootstrap, settings.topic):
            return None
        return merged

    def _replace(
        self,
        symbol: str,
        suspect: SuspectRange,
        recomputed: RecomputedCandles,
        others: Sequence[tuple[int, int]],
        left: str,
    ) -> Rebuilt | None:
        """Replace the candles, unless the topic lacks some of their trades: the stored ones may be right."""
        if lacking := recomputed.missing_ids():
            gone = f"the topic no longer has {len(lacking):,} of its trades: {str(lacking)[:_LISTED]}"
            return Rebuilt(0, f"{left}; {gone}" if left else gone)
        answer = self._store.replace(
            symbol, suspect.since, suspect.until, recomputed.seen(), recomputed.candles(), others
        )
        if answer.status is Replaced.CHANGED:
            return None
        if answer.status is Replaced.OVERLAP:
            return Rebuilt(0, f"trades {answer.overlap[:_LISTED]} are in other candles too")
        return Rebuilt(answer.candles, left or _kept(answer.kept))

    def _read(
        self, recomputed: RecomputedCandles, symbol: str, suspect: SuspectRange, merged: Merged
    ) -> bool:
        """Add the range's trades from the topic; return False if the record limit ended that early."""
        reported_at, count = time.monotonic(), 0
        with TradeReader(self._settings.kafka.bootstrap, self._settings.topic) as reader:
            for begin, end in self._spans(reader, suspect, merged):
                for records in reader.records(begin, end):
                    if self._gives_up():
                        raise StoppedError("stopping")
                    for trade in self._trades(records, symbol):
                        recomputed.add(trade)
                    count += len(records)
                    if self._records_limit is not None and count >= self._records_limit:
                        return False
                    if time.monotonic() - reported_at >= _SAY_EVERY_SECONDS:
                        reported_at = time.monotonic()
                        self._say(f"{symbol}: {count:,} records read from the topic")
                if recomputed.is_whole():
                    break
        return True

    def _spans(
        self, reader: TradeReader, suspect: SuspectRange, merged: Merged
    ) -> Iterator[tuple[Mapping[int, int], Mapping[int, int]]]:
        """Yield the offset ranges that can have the range's trades: first around its time, then later ones.

        Later records have trades that were fetched to fill a gap. Earlier records have none: the processor
        rejects a trade dated too far ahead of its record.
        """
        end = merged.offsets

        def at(moment: int) -> dict[int, int]:
            return {number: min(one, end.get(number, 0)) for number, one in reader.offsets_at(moment).items()}

        after = at(suspect.until + SLACK_US)
        yield at(suspect.since - self._max_future_us), after
        yield after, end

    def _trades(self, records: list[TopicRecord], symbol: str) -> Iterator[Trade]:
        """Yield the symbol's trades among the records, with the processor's rules for rejecting records."""
        name = symbol.encode()
        for record in records:
            value = record.value
            # JSON may escape characters of the name. Binance doesn't, but such a record is valid.
            if value is None or (name not in value and b"\\" not in value):
                continue
            trade = decode_payload(value, record.timestamp, self._max_future_us)
            if isinstance(trade, Trade):
                yield trade


def _is_within(one: SuspectRange, other: SuspectRange) -> bool:
    return other.since <= one.since and one.until <= other.until


def _kept(kept: int) -> str:
    return f"{kept:,} roll-ups have trades that their candles lack" if kept else ""
