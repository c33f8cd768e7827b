"""What becomes of each message from the exchange: published, a duplicate, or rejected; and the counts.

    received = published + duplicate + rejected + in flight

holds at every moment, and at the end with nothing in flight. A trade whose id isn't the next one makes a gap,
and the gap is on record before the trade is published. Where a trade has to wait too long, for room in flight
or for the gap before it to be on record, the producer sheds load: it drops trades, as trades left in the
socket would keep the exchange's pings waiting behind them. Dropped trades are a gap too, to fill later.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, TypeAlias

from candleflow.broker.publisher import Receipt
from candleflow.broker.trade_log import TradeLog
from candleflow.exchange.messages import TradeMessage
from candleflow.exchange.stream import Received, TooLong
from candleflow.market.gap import JUMP, OVERLOAD, RECONNECT, RESTART
from candleflow.market.payload import TOO_LONG, Rejected, encode
from candleflow.market.trade import Trade
from candleflow.market.trade_ids import Ranges, TradeIds

_log = logging.getLogger(__name__)

NoteGap: TypeAlias = Callable[[str, int, int, str], Awaitable[None]]

RANGES_LIMIT: Final = 1_024
"""Minimum number of published id ranges kept per symbol; nearly always there is one."""
PATIENCE_SECONDS: Final = 20.0
"""How long reading waits for room before trades are dropped: Binance ends a connection that has left a ping
unanswered for a minute."""
FAR_IDS: Final = 10_000
FAR_US: Final = 60_000_000
"""Within a sequence of ids, ids and times rise together. So a trade that is newer than one with a greater id
begins a new sequence, where it is so far from it, in ids or in time, or where its id was published already: a
late or repeated trade has the time that it was made at. The store's ``is_later`` has the same figures."""
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

    def greatest(self, symbol: str) -> int:
        """The symbol's greatest id; -1 where there is none."""
        ranges = self._ids[symbol].ranges
        return ranges[-1][1] - 1 if ranges else -1

    def forget(self, symbol: str) -> None:
        """Take every id of the symbol out."""
        self._ids.pop(symbol, None)

    def among(self, symbol: str, lower: int, upper: int) -> Ranges:
        """Those of the ids ``[lower, upper)`` that are in."""
        return self._ids[symbol].within(lower, upper)


class Intake:
    """Takes messages to the trade log.

    ``note_gap(symbol, first_trade_id, last_trade_id, why)`` returns once the gap is on record.
    ``can_refill``: whether dropped trades can be fetched later; if not, reading waits for room instead.
    """

    def __init__(self, trade_log: TradeLog, note_gap: NoteGap, *, can_refill: bool) -> None:
        self._trade_log = trade_log
        self._note_gap = note_gap
        self._can_refill = can_refill
        self.published = PublishedIds()
        self._next_ids: dict[str, int] = {}
        self._why: dict[str, str] = {}
        self._noting: dict[str, asyncio.Task[None]] = {}
        self._is_letting_go = False
        self._said_at = float("-inf")
        self.received = 0
        self.duplicates = 0
        self.filled = 0
        """Trades that came from the exchange's history."""
        self.let_go = 0
        """Messages dropped; the trades among them count as received only once they are fetched."""
        self.last_trade_times: dict[str, int] = {}
        """By symbol, the latest time of a published trade, in microseconds since the epoch."""
        self.out_of_order = Receipt()
        """Settled when every trade that came after a later one has been acknowledged."""

    def begin_after(self, last_trade_ids: Mapping[str, int]) -> None:
        """Note each symbol's last id published before this start: up to the stream's first id is a gap."""
        for symbol, trade_id in last_trade_ids.items():
            self.published.add(symbol, trade_id)
            self._next_ids[symbol] = trade_id + 1
            self._why[symbol] = RESTART

    @property
    def next_ids(self) -> Mapping[str, int]:
        """By symbol, the id that its next live trade should have; none before its first trade."""
        return self._next_ids

    def count_from(self, symbol: str, trade_id: int) -> None:
        """Note the first id of a symbol without a trade so far: what is missing from it on is a gap."""
        self._next_ids.setdefault(symbol, trade_id)

    def on_connected(self, symbols: Iterable[str]) -> None:
        """A new connection is about to bring these symbols' trades."""
        for symbol in symbols:
            self._why.setdefault(symbol, RECONNECT)

    async def take(self, message: Received) -> None:
        """Take a message that the stream has brought."""
        is_held_up = self._trade_log.is_full or (
            isinstance(message, TradeMessage) and self._is_ahead(message)
        )
        if is_held_up and not await self._finds_way(message):
            self._let_go_by(message)
            return
        # No await from here on: a message is counted and handed over, or neither, when reading is stopped.
        if isinstance(message, TradeMessage):
            self._take_trade(message)
        elif isinstance(message, Rejected):
            self._reject(message.record, message.reason)
        elif isinstance(message, TooLong):
            self._reject(b"", TOO_LONG, message.length)

    def fill_in(self, trade: Trade, source: str, receipt: Receipt, *, even_if_published: bool) -> None:
        """Take one trade of the exchange's history."""
        self.received += 1
        if not self.published.add(trade.symbol, trade.trade_id) and not even_if_published:
            self.duplicates += 1
            return
        self.filled += 1
        latest = self.last_trade_times.get(trade.symbol, -1)
        self.last_trade_times[trade.symbol] = max(latest, trade.trade_time)
        self._trade_log.publish(trade.symbol, encode(trade), origin=source, receipt=receipt)

    def counts(self) -> dict[str, int]:
        """The equation's terms, as they stand now."""
        return {
            "received": self.received,
            "published": self._trade_log.published,
            "duplicate": self.duplicates,
            "rejected": self._trade_log.rejected,
            "in_flight": self._trade_log.in_flight,
        }

    async def _finds_way(self, message: Received) -> bool:
        """Whether the log has room for it, and the gap before it is on record, within ``PATIENCE_SECONDS``.

        After one timeout nothing waits any more until Kafka acknowledges again.
        """
        if not self._can_refill:
            await self._wait_for_way(message)
            return True
        self._is_letting_go = self._is_letting_go and (self._trade_log.holds_back or bool(self._noting))
        try:
            async with asyncio.timeout(0 if self._is_letting_go else PATIENCE_SECONDS):
                await self._wait_for_way(message)
        except TimeoutError:
            if not self._is_letting_go:
                _log.warning("Kafka accepts no records: trades are dropped, to be fetched from history later")
            self._is_letting_go = True
            return False
        return True

    async def _wait_for_way(self, message: Received) -> None:
        await self._trade_log.wait_for_room()
        if isinstance(message, TradeMessage):
            await self.note_missing(message.symbol, message.trade_id - 1)

    def _let_go_by(self, message: Received) -> None:
        self.let_go += 1
        if isinstance(message, TradeMessage):
            self._next_ids.setdefault(message.symbol, message.trade_id)
            self._why[message.symbol] = OVERLOAD

    def _is_ahead(self, trade: TradeMessage) -> bool:
        """Whether ids are missing before this one."""
        return trade.trade_id > self._next_ids.get(trade.symbol, trade.trade_id)

    async def note_missing(self, symbol: str, last_trade_id: int) -> None:
        """Return once a gap from the next id up to this one is on record; at once where that id has come.

        A caller that stops waiting leaves the event on its way to Kafka: a symbol has one at a time.
        """
        while self._next_ids.get(symbol, last_trade_id + 1) <= last_trade_id:
            noting = self._noting.get(symbol)
            if noting is None:
                noting = asyncio.create_task(self._note(symbol, self._next_ids[symbol], last_trade_id))
                self._noting[symbol] = noting
            await asyncio.shield(noting)

    async def _note(self, symbol: str, first: int, last: int) -> None:
        try:
            # Once: the ids are settled then, and no lower one is taken for the first since the start.
            await self._note_gap(symbol, first, last, self._why.pop(symbol, JUMP))
            # The ids may have gone on meanwhile, by another connection.
            if first <= self._next_ids[symbol] <= last:
                self._next_ids[symbol] = last + 1
        finally:
            del self._noting[symbol]

    def _take_trade(self, trade: TradeMessage) -> None:
        self.received += 1
        symbol, trade_id, trade_time, payload = trade
        is_next = trade_id >= self._next_ids.get(symbol, 0)
        if not is_next:
            is_next = self._begins_lower(trade)
        if is_next:
            self._next_ids[symbol] = trade_id + 1
            if self._why:
                self._why.pop(symbol, None)
        if not self.published.add(symbol, trade_id):
            self.duplicates += 1
            return
        if trade_time > self.last_trade_times.get(symbol, -1):
            self.last_trade_times[symbol] = trade_time
        self._trade_log.publish(symbol, payload, receipt=None if is_next else self.out_of_order)

    def _begins_lower(self, trade: TradeMessage) -> bool:
        """Whether gaps count from this trade on, though its id is lower than the next one expected."""
        symbol, trade_id, last = trade.symbol, trade.trade_id, self._next_ids[trade.symbol] - 1
        if self._why.get(symbol) == RESTART:  # the first trade since the start is older than the topic's last
            if last - trade_id >= FAR_IDS:
                words = "%s: the topic has trades up to id %d, the exchange goes on at %d: the same market?"
                _log.warning(words, symbol, last, trade_id)
            return True
        newer_us = trade.trade_time - self.last_trade_times.get(symbol, trade.trade_time)
        if newer_us <= 0 or not self._contradicts(symbol, trade_id, newer_us):
            return False
        _log.warning(
            "%s: trade ids begin again at %d, after %d, with a trade newer than all before: was it listed "
            "again? They count as a new sequence; trades missed before its first are not fetched",
            symbol,
            trade_id,
            last,
        )
        self.published.forget(symbol)
        return True

    def _contradicts(self, symbol: str, trade_id: int, newer_us: int) -> bool:
        """Whether a trade so much newer than all that were published can't be of their sequence of ids."""
        lower_by = self.published.greatest(symbol) - trade_id
        if lower_by < 0:  # late, of a gap that is on record and has not been filled
            return False
        is_known = bool(self.published.among(symbol, trade_id, trade_id + 1))
        return is_known or lower_by >= FAR_IDS or newer_us > FAR_US

    def _reject(self, record: bytes, reason: str, length: int | None = None) -> None:
        self.received += 1
        self._trade_log.reject(record, reason, length=length)
        now = time.monotonic()
        if now - self._said_at >= _SAY_EVERY_SECONDS:
            self._said_at = now
            _log.warning("refused a record from the exchange: %s (it is kept in the topic of such)", reason)
