"""What becomes of each message from the exchange: published, a duplicate, or refused; and the counts.

    received = published + duplicate + rejected + in flight

holds at every moment, and at the end with nothing in flight. A trade whose id isn't the next one makes a gap,
and the gap is on record before the trade is published. While Kafka takes nothing and the bound in flight is
reached, trades are let go by rather than left in the socket, where the exchange's pings would wait behind
them: they become a gap too, and come again from the exchange's history.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, TypeAlias

from candleflow.broker.publisher import Receipt
from candleflow.broker.trade_log import TradeLog
from candleflow.exchange.messages import Rejected, TradeMessage
from candleflow.exchange.stream import Received, TooLong
from candleflow.market.gap import JUMP, OVERLOAD, RECONNECT, RESTART
from candleflow.market.payload import TOO_LONG, encode
from candleflow.market.trade import Trade
from candleflow.market.trade_ids import TradeIds

_log = logging.getLogger(__name__)

NoteGap: TypeAlias = Callable[[str, int, int, str], Awaitable[None]]

RANGES_LIMIT: Final = 1_024
"""Of each symbol's published ids so many ranges are remembered at least; nearly always there is one."""
PATIENCE_SECONDS: Final = 20.0
"""So long reading waits for room before trades are let go by: Binance ends a connection that has left a ping
unanswered for a minute."""
_OVERLAP_IDS: Final = 10_000
_CHECK_EVERY: Final = 4_096
_SAY_EVERY_SECONDS: Final = 10.0


class PublishedIds:
    """The trade ids this process has published, by symbol: exact, whatever the order they come in.

    A lower id that was never published is new. Memory stays bounded: of a symbol whose ids are so full of
    holes that they make more than twice RANGES_LIMIT ranges, those far back are forgotten, and a duplicate of
    one of them would pass; the engine drops it.
    """

    def __init__(self) -> None:
        self._ids: defaultdict[str, TradeIds] = defaultdict(TradeIds)
        self._added: defaultdict[str, int] = defaultdict(int)

    def add(self, symbol: str, trade_id: int) -> bool:
        """Note one id; whether it was new."""
        ids = self._ids[symbol]
        if not ids.add(trade_id):
            return False
        self._added[symbol] += 1
        if self._added[symbol] >= _CHECK_EVERY:
            self._added[symbol] = 0
            ranges = ids.ranges
            if len(ranges) > RANGES_LIMIT:
                ids.forget_below(ranges[-RANGES_LIMIT][0])
        return True

    def among(self, symbol: str, lower: int, upper: int) -> tuple[tuple[int, int], ...]:
        """Those of the ids ``[lower, upper)`` that are in, as such ranges."""
        return self._ids[symbol].within(lower, upper)


class Intake:
    """Takes messages to the trade log.

    ``note_gap(symbol, first_trade_id, last_trade_id, why)`` returns once the gap is on record.
    ``can_refill``: whether what is let go by can be had again; if not, reading waits for room instead.
    """

    def __init__(self, trade_log: TradeLog, note_gap: NoteGap, *, can_refill: bool) -> None:
        self._trade_log = trade_log
        self._note_gap = note_gap
        self._can_refill = can_refill
        self._published = PublishedIds()
        self._next_ids: dict[str, int] = {}
        self._why: dict[str, str] = {}
        self._is_letting_go = False
        self._said_at = float("-inf")
        self.received = 0
        self.duplicates = 0
        self.filled = 0
        """Trades that came from the exchange's history."""
        self.let_go = 0
        """Messages let go by; the trades among them are no part of the equation until they come again."""
        self.others = 0
        """Messages of streams that aren't of trades: no part of the equation."""
        self.last_trade_times: dict[str, int] = {}
        """By symbol, the latest trade time seen, in microseconds since the epoch."""
        self.out_of_order = Receipt()
        """Settled when every trade that came after a later one has been acknowledged."""

    def begin_after(self, last_trade_ids: Mapping[str, int]) -> None:
        """What was published before this start, by symbol: what lies between it and the stream is a gap."""
        for symbol, trade_id in last_trade_ids.items():
            self._published.add(symbol, trade_id)
            self._next_ids[symbol] = trade_id + 1
            self._why[symbol] = RESTART

    def on_connected(self, symbols: Iterable[str]) -> None:
        """A new connection is about to bring these symbols' trades."""
        for symbol in symbols:
            self._why.setdefault(symbol, RECONNECT)

    async def take(self, messages: Sequence[Received]) -> None:
        """Take messages that the stream has brought, in their order."""
        trade_log = self._trade_log
        for message in messages:
            if trade_log.is_full and not await self._finds_room():
                self._let_go_by(message)
                continue
            if isinstance(message, TradeMessage) and self._is_ahead(message):
                await self._note_gap_before(message)
            # No await from here on: one is counted and handed over, or neither, when reading is stopped.
            if isinstance(message, TradeMessage):
                self._take_trade(message)
            elif isinstance(message, Rejected):
                self._reject(message.record, message.reason)
            elif isinstance(message, TooLong):
                self._reject(b"", TOO_LONG, message.length)
            else:
                self.others += 1

    def fill_in(self, trade: Trade, source: str, receipt: Receipt, *, even_if_published: bool) -> None:
        """Take one trade of the exchange's history."""
        self.received += 1
        if not self._published.add(trade.symbol, trade.trade_id) and not even_if_published:
            self.duplicates += 1
            return
        self.filled += 1
        self._trade_log.publish(trade.symbol, encode(trade), origin=source, receipt=receipt)

    def published_among(self, symbol: str, lower: int, upper: int) -> tuple[tuple[int, int], ...]:
        """Those of the ids ``[lower, upper)`` that this process has published, as such ranges."""
        return self._published.among(symbol, lower, upper)

    def counts(self) -> dict[str, int]:
        """The equation's terms, as they stand now."""
        return {
            "received": self.received,
            "published": self._trade_log.published,
            "duplicate": self.duplicates,
            "rejected": self._trade_log.rejected,
            "in_flight": self._trade_log.in_flight,
        }

    async def _finds_room(self) -> bool:
        """Whether there is room in the log, or soon was."""
        if not self._can_refill:
            await self._trade_log.wait_for_room()
            return True
        if not (self._is_letting_go and self._trade_log.holds_back):
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await self._trade_log.wait_for_room()
            except TimeoutError:
                self._is_letting_go = True
                _log.warning("Kafka takes nothing: trades are let go by, and fetched from history later")
            else:
                self._is_letting_go = False
        return not self._is_letting_go

    def _let_go_by(self, message: Received) -> None:
        self.let_go += 1
        if isinstance(message, TradeMessage):
            self._next_ids.setdefault(message.symbol, message.trade_id)
            self._why[message.symbol] = OVERLOAD

    def _is_ahead(self, trade: TradeMessage) -> bool:
        """Whether ids are missing before this one."""
        return trade.trade_id > self._next_ids.get(trade.symbol, trade.trade_id)

    async def _note_gap_before(self, trade: TradeMessage) -> None:
        while self._is_ahead(trade):  # another connection's task may have gone on meanwhile
            first = self._next_ids[trade.symbol]
            await self._note_gap(trade.symbol, first, trade.trade_id - 1, self._why.get(trade.symbol, JUMP))
            if self._next_ids[trade.symbol] == first:
                self._next_ids[trade.symbol] = trade.trade_id

    def _take_trade(self, trade: TradeMessage) -> None:
        self.received += 1
        symbol, trade_id, trade_time, payload = trade
        is_next = trade_id >= self._next_ids.get(symbol, 0)
        if not is_next and self._why.get(symbol) == RESTART:
            self._begin_lower(symbol, trade_id)
            is_next = True
        if is_next:
            self._next_ids[symbol] = trade_id + 1
            if self._why:
                self._why.pop(symbol, None)
        if not self._published.add(symbol, trade_id):
            self.duplicates += 1
            return
        if trade_time > self.last_trade_times.get(symbol, -1):
            self.last_trade_times[symbol] = trade_time
        self._trade_log.publish(symbol, payload, receipt=None if is_next else self.out_of_order)

    def _begin_lower(self, symbol: str, trade_id: int) -> None:
        """The first trade since the start is older than the topic's last: gaps count from it."""
        if self._next_ids[symbol] - trade_id > _OVERLAP_IDS:
            _log.warning(
                "%s: the topic has trades up to id %d, the exchange goes on at %d: is it the same market?",
                symbol,
                self._next_ids[symbol] - 1,
                trade_id,
            )

    def _reject(self, record: bytes, reason: str, length: int | None = None) -> None:
        self.received += 1
        self._trade_log.reject(record, reason, length=length)
        now = time.monotonic()
        if now - self._said_at >= _SAY_EVERY_SECONDS:
            self._said_at = now
            _log.warning("refused a record from the exchange: %s (it is kept in the topic of such)", reason)
