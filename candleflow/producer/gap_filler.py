"""Fills gaps: fetches missing trades from the exchange's history and publishes them like all others.

A trade is missing where the topic of gaps says so, and nowhere else: the filler writes the outcome there, and
relies only on what it reads back. So after a kill it resumes where it stopped, and another process that finds
a gap only has to write it down.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from candleflow.backoff import Backoff
from candleflow.broker.publisher import Receipt
from candleflow.broker.trade_log import TradeLog
from candleflow.errors import ExchangeError
from candleflow.exchange.history import TradeHistory
from candleflow.exchange.past_trades import Origin
from candleflow.exchange.rest import MAX_LIMIT
from candleflow.market.gap import (
    JUMP,
    OVERLOAD,
    RECONNECT,
    RESTART,
    GapEvent,
    GapEventKind,
    GapState,
    events_of,
)
from candleflow.market.trade import Trade
from candleflow.market.trade_ids import Ranges, TradeIds
from candleflow.producer.intake import Intake

_log = logging.getLogger(__name__)

GRACE_SECONDS: Final = 2.0
"""How long to leave a new gap alone: during a reconnect, the old connection often still delivers it."""
STREAM: Final = "stream"
"""The source of ids that the stream delivered after all."""
NO_SUCH_TRADES: Final = "the exchange has no such trades"
ONLY_SUMMED: Final = "the exchange tells only their sum"

_OWN_REASONS: Final = frozenset((RESTART, RECONNECT, JUMP, OVERLOAD))
_LOOK_EVERY_SECONDS: Final = 1.0
_SHORTEST_PAUSE_SECONDS: Final = 2.0
_LONGEST_PAUSE_SECONDS: Final = 60.0
_READ_BACK_SECONDS: Final = 30.0
_COMPARED: Final = 64
"""How many of a symbol's newest ranges to search for the smallest one. The event loop also has live trades to
take, so the search must not take longer with 100,000 ranges."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """One request: some of a symbol's missing ids, no further apart than a page is long.

    All of them are forced, or none. Trades older than ``oldest``, microseconds since the epoch, are given up
    unless forced.
    """

    symbol: str
    ids: TradeIds
    is_forced: bool
    oldest: int

    @property
    def lower(self) -> int:
        return self.ids.ranges[0][0]

    @property
    def upper(self) -> int:
        return self.ids.ranges[-1][1]


class GapFiller:
    """Fills the gaps of the events given to ``begin`` and ``go_on``, while ``run`` runs; on one event loop.

    ``write`` returns once the event is on record. ``fill_us``: how far back it fills; ``now_us``: the present
    by the exchange's clock, both in microseconds.
    """

    def __init__(
        self,
        history: TradeHistory,
        trade_log: TradeLog,
        intake: Intake,
        symbols: Collection[str],
        *,
        write: Callable[[GapEvent], Awaitable[None]],
        now_us: Callable[[], int],
        fill_us: int,
    ) -> None:
        self._history = history
        self._trade_log = trade_log
        self._intake = intake
        self._symbols = frozenset(symbols)
        self._write_event = write
        self._now_us = now_us
        self._fill_us = fill_us
        self._book = GapState()
        self._forced: dict[str, TradeIds] = {}
        self._rests_until: dict[str, float] = {}
        self._backoffs: dict[str, Backoff] = {}
        self._oldest: dict[str, int] = {}
        self._read_back: dict[GapEvent, asyncio.Event] = {}

    @property
    def open_trades(self) -> int:
        """How many trades are missing, those that were given up included."""
        return self._book.open_trades

    @property
    def open_gaps(self) -> int:
        """How many ranges of ids, each without one between that is there, those trades are."""
        return self._book.open_gaps

    def begin(self, events: Sequence[GapEvent]) -> None:
        """Take every event there is, in place of those taken before."""
        self._book = GapState()
        self._forced.clear()
        self._oldest.clear()
        self.go_on(events)
        self._rests_until.clear()

    async def run(self) -> None:
        """Fill until cancelled."""
        while True:
            asked = self._next_due()
            if asked is None:
                await asyncio.sleep(_LOOK_EVERY_SECONDS)
                continue
            symbol = asked.symbol
            try:
                await self._fill_some(asked)
            except ExchangeError as error:
                # The symbol rests, not the filler: another symbol's gap may be filled meanwhile.
                backoff = self._backoffs.setdefault(
                    symbol, Backoff(_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
                )
                pause = backoff.next_delay()
                self._rests_until[symbol] = time.monotonic() + pause
                _log.warning("a gap can't be filled now, next attempt in %.0f s: %s", pause, error)
            else:
                self._backoffs.pop(symbol, None)

    def go_on(self, events: Sequence[GapEvent]) -> None:
        """Take later events."""
        for event in events:
            self._book.apply(event)
            # Both counted from a symbol's first gap: else one gap after another would put off the filling for
            # ever, and it would have to race the limit.
            if event.kind is GapEventKind.SEEN and event.symbol not in self._oldest:
                self._rests_until[event.symbol] = time.monotonic() + GRACE_SECONDS
                self._oldest[event.symbol] = self._now_us() - self._fill_us
            self._force(event)
            if self._read_back and (waiting := self._read_back.get(event)) is not None:
                waiting.set()

    def _force(self, event: GapEvent) -> None:
        """Keep the set of ids that another process misses and that are still to be fetched."""
        ids = self._forced.get(event.symbol)
        for lower, upper in event.ranges:
            if event.kind is not GapEventKind.SEEN:
                if ids:
                    ids.remove_range(lower, upper)
            elif event.why not in _OWN_REASONS:
                ids = self._forced.setdefault(event.symbol, TradeIds())
                ids.add_range(lower, upper)

    def _next_due(self) -> _Asked | None:
        """Return the smallest gap that may be filled now, and those within a page after it.

        The smallest first, so that none waits for a large one; of each symbol's newest ones, as some hosts
        tell only the latest trades one by one.
        """
        wanted = self._book.wanted()
        self._oldest = {symbol: oldest for symbol, oldest in self._oldest.items() if symbol in wanted}
        now = time.monotonic()
        due = [
            (upper - lower, symbol, lower, upper)
            for symbol, ids in wanted.items()
            if symbol in self._symbols and now >= self._rests_until.get(symbol, 0)
            for lower, upper in ids.last_ranges(_COMPARED)
        ]
        return self._asked(wanted, *min(due)[1:]) if due else None

    def _asked(self, wanted: Mapping[str, TradeIds], symbol: str, lower: int, upper: int) -> _Asked:
        """Return the gap ``[lower, upper)`` and those within a page after it, if they are forced as it is."""
        forced = self._forced.get(symbol, TradeIds())
        ids = TradeIds.of_ranges(wanted[symbol].within(lower, max(upper, lower + MAX_LIMIT)))
        is_forced = lower in forced
        among = forced.within(lower, ids.ranges[-1][1])
        if is_forced:
            ids = TradeIds.of_ranges(part for begin, end in among for part in ids.within(begin, end))
        else:
            _remove(ids, among)
        return _Asked(symbol, ids, is_forced, self._oldest[symbol])

    async def _fill_some(self, asked: _Asked) -> None:
        """Fill a page, or note that the stream has brought some of it after all."""
        here = () if asked.is_forced else self._published(asked)
        if not here:
            await self._fill_page(asked)
            return
        await self._intake.out_of_order.wait()
        await self._note(GapEventKind.FILLED, asked.symbol, here, STREAM)

    def _published(self, asked: _Asked) -> Ranges:
        among = self._intake.published.among(asked.symbol, asked.lower, asked.upper)
        return tuple(part for begin, end in among for part in asked.ids.within(begin, end))

    async def _fill_page(self, asked: _Asked) -> None:
        symbol, lower = asked.symbol, asked.lower
        page = await self._history.page(symbol, lower, asked.upper - lower)
        if page.end <= lower:
            raise ExchangeError(f"no history of {symbol} from trade {lower} on yet")
        if page.begins_at < asked.oldest and not asked.is_forced:
            since = await self._history.first_id_since(symbol, asked.oldest)
            end = asked.upper if since is None else max(since, lower + 1)
            why = f"older than {self._fill_us / 3_600_000_000:g} h"
            await self._note(GapEventKind.GIVEN_UP, symbol, asked.ids.within(lower, end), why)
            return
        absent = TradeIds.of_ranges(asked.ids.within(lower, page.end))
        trades = [trade for trade in page.trades if trade.trade_id in absent]
        found = TradeIds(trade.trade_id for trade in trades)
        await self._publish(trades, page.origin)
        await self._note(GapEventKind.FILLED, symbol, found.ranges, page.origin)
        _remove(absent, found.ranges)
        why = ONLY_SUMMED if page.origin is Origin.AGGREGATE else NO_SUCH_TRADES
        await self._note(GapEventKind.GIVEN_UP, symbol, absent.ranges, why)

    async def _publish(self, trades: Sequence[Trade], origin: Origin) -> None:
        """Hand the trades over, and wait until Kafka has them."""
        receipt = Receipt()
        for trade in trades:
            await self._trade_log.wait_for_room()
            is_forced = self._is_forced(trade.symbol, trade.trade_id)
            self._intake.fill_in(trade, origin, receipt, even_if_published=is_forced)
        await receipt.wait()

    def _is_forced(self, symbol: str, trade_id: int) -> bool:
        """Whether another process, one that reads the topic, misses the trade: then it is published again."""
        return trade_id in self._forced.get(symbol, ())

    async def _note(self, kind: GapEventKind, symbol: str, ranges: Ranges, why: str) -> None:
        """Write what became of the ids of these ranges, and wait until it was read back."""
        if not ranges:
            return
        trades = sum(upper - lower for lower, upper in ranges)
        place = f"{ranges[0][0]} to {ranges[-1][1] - 1}"
        _log.info("%s: %d trades %s, in %d ranges from %s: %s", symbol, trades, kind, len(ranges), place, why)
        events = events_of(kind, symbol, ranges, self._now_us(), why)
        await asyncio.gather(*map(self._note_one, events))

    async def _note_one(self, event: GapEvent) -> None:
        read_back = self._read_back[event] = asyncio.Event()
        try:
            await self._write_event(event)
            async with asyncio.timeout(_READ_BACK_SECONDS):
                await read_back.wait()
        except TimeoutError:
            _log.warning("what became of a gap was written, and not read back in time")
        finally:
            del self._read_back[event]


def _remove(ids: TradeIds, ranges: Ranges) -> None:
    for lower, upper in ranges:
        ids.remove_range(lower, upper)
