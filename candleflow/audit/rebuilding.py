"""Rebuild stored candles that can't be right from the topic, and then the roll-ups over them.

Joined here: what looks wrong (``consistency.py``), the topic's records (``broker.trade_reader``), the fold
(``recomputed.py``), and the one transaction that replaces (``store.rebuilds``). Only records that the processor
has merged count, and only those that it would not refuse. Times are microseconds since the epoch, UTC.
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
"""A trade that the stream brought is in the topic so soon, unless Kafka was away."""

LONGEST: Final = list(ROLL_UPS)[-1]

_ATTEMPTS: Final = 5
_SAY_EVERY_SECONDS: Final = 5.0
_LISTED: Final = 60
"""Characters of a set of ids that are shown."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What became of a suspect: ``candles`` put right; ``left``: why some of it was left, if it was."""

    candles: int
    left: str = ""


class StoppedError(CandleflowError):
    """It was told to stop in the middle: nothing of this stretch was changed."""


class Rebuilder:
    """``say`` gets the progress of a long reading. ``records_limit``: the most that is read for one stretch;
    with ``gives_up`` it raises StoppedError. Methods raise StoreError and BrokerError."""

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
        """Find the candles that open in [since, until) that can't be right, and the roll-ups over them.

        Roll-ups longer than ``longest`` aren't looked at; over whole windows of it all others are.
        """
        stored = self._store.books(symbol, since, until)
        # A wrong candle out of sight would make the longest alone look wrong.
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
        """Rebuild those of the suspects that are due; yield what became of each.

        All of a stretch is replaced or nothing. Stretches that touch are tried together first. ``found`` are
        all there are: those that aren't due are doubtful still.
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
        """Mend one stretch, and take it from the doubtful ones if that went well."""
        others = [(one.since, one.until) for one in doubtful if not _is_within(one, suspect)]
        for _ in range(_ATTEMPTS):
            rebuilt = self._try(symbol, suspect, others)
            if rebuilt is None:
                continue
            if not rebuilt.left:
                doubtful[:] = [one for one in doubtful if not _is_within(one, suspect)]
            return rebuilt
        return Rebuilt(0, "its candles change again and again")

    def _try(self, symbol: str, suspect: SuspectRange, others: Sequence[tuple[int, int]]) -> Rebuilt | None:
        """None where the candles changed meanwhile."""
        since, until = suspect.since, suspect.until
        if since == until:
            answer = self._store.replace(symbol, since, until, {}, [], others)
            return Rebuilt(answer.candles, _kept(answer.kept))
        stored = self._store.books(symbol, since, until)
        # After the candles: whatever is in them is before these offsets.
        merged = self._merged()
        if merged is None:
            return Rebuilt(0, "its candles are of another topic than the one that is there")
        recomputed = RecomputedCandles(symbol, self._settings.windows, since, until, stored)
        is_all = self._read(recomputed, symbol, suspect, merged)
        left = "" if is_all else "the topic has too much to read for that"
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
        """Where trades are lacking nothing is replaced: the roll-ups may be what is right."""
        if lacking := recomputed.missing_ids():
            gone = f"the topic does not have {len(lacking):,} of its trades: {str(lacking)[:_LISTED]}"
            return Rebuilt(0, f"{left}; {gone}" if left else gone)
        answer = self._store.replace(
            symbol, suspect.since, suspect.until, recomputed.seen(), recomputed.candles(), others
        )
        if answer.status is Replaced.CHANGED:
            return None
        if answer.status is Replaced.OVERLAP:
            return Rebuilt(0, f"the trades {answer.overlap[:_LISTED]} are in other candles")
        return Rebuilt(answer.candles, left or _kept(answer.kept))

    def _read(
        self, recomputed: RecomputedCandles, symbol: str, suspect: SuspectRange, merged: Merged
    ) -> bool:
        """Fold what the topic has of the stretch; whether all that may matter was read."""
        told_at, count = time.monotonic(), 0
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
                    if time.monotonic() - told_at >= _SAY_EVERY_SECONDS:
                        told_at = time.monotonic()
                        self._say(f"{symbol}: {count:,} records of the topic read again")
                if recomputed.is_whole():
                    break
        return True

    def _spans(
        self, reader: TradeReader, suspect: SuspectRange, merged: Merged
    ) -> Iterator[tuple[Mapping[int, int], Mapping[int, int]]]:
        """Where the stretch's trades can be: beside its own time, or later, where they were fetched later.

        Earlier there is none: a trade dated further ahead of its record is refused.
        """
        end = merged.offsets

        def at(moment: int) -> dict[int, int]:
            return {number: min(one, end.get(number, 0)) for number, one in reader.offsets_at(moment).items()}

        after = at(suspect.until + SLACK_US)
        yield at(suspect.since - self._max_future_us), after
        yield after, end

    def _trades(self, records: list[TopicRecord], symbol: str) -> Iterator[Trade]:
        """The symbol's trades among the records, judged as the processor judges them."""
        name = symbol.encode()
        for record in records:
            value = record.value
            # A name with an escape in it is none of Binance's, but sound JSON.
            if value is None or (name not in value and b"\\" not in value):
                continue
            trade = decode_payload(value, record.timestamp, self._max_future_us)
            if isinstance(trade, Trade):
                yield trade


def _is_within(one: SuspectRange, other: SuspectRange) -> bool:
    return other.since <= one.since and one.until <= other.until


def _kept(kept: int) -> str:
    return f"{kept:,} have trades that their parts lack" if kept else ""
