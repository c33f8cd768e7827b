"""Publishes, skips or rejects each message from the exchange, and counts them.

    received = published + duplicate + rejected + in flight

holds at every moment; at the end nothing is in flight. If a trade's id is higher than the next expected one,
the ids in between are a gap. The gap is written to the topic of gaps before the trade is published.

A trade may have to wait for room below the in-flight limit, or for the gap before it to be written. If that
takes longer than ``PATIENCE_SECONDS``, the producer sheds load: it drops trades. Unread trades in the socket
would delay the answers to the exchange's pings, and the exchange would close the connection. Dropped trades
are a gap too, which is filled later.
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
"""Minimum number of published id ranges kept per symbol. Nearly always there is only one range."""
PATIENCE_SECONDS: Final = 20.0
"""How long to wait for room before dropping trades. Binance closes a connection that leaves a ping unanswered
for a minute."""
FAR_IDS: Final = 10_000
FAR_US: Final = 60_000_000
"""Limits for detecting that the exchange restarted a symbol's ids, as after a new listing.

Within one sequence, ids and times rise together; a late or repeated trade keeps its original time. So a trade
that is newer than every published one, but has a lower id, starts a new sequence if one of these holds:

- its id was published before,
- its id is lower by ``FAR_IDS`` or more,
- it is newer by more than ``FAR_US`` microseconds.

The SQL function ``is_later`` uses the same limits.
"""
_CHECK_EVERY: Final = 4_096
_LOG_EVERY_SECONDS: Final = 10.0


class PublishedIds:
    """The trade ids that this process has published, by symbol, in whatever order they arrive.

    A lower id that was never published counts as new. To bound memory, a symbol keeps only its newest
    RANGES_LIMIT ranges of ids; the check runs every few thousand ids. A duplicate of a forgotten id is
    published again, and the processor drops it.
    """

    def __init__(self) -> None:
        self._ids: defaultdict[str, TradeIds] = defaultdict(TradeIds)
        self._added: defaultdict[str, int] = defaultdict(int)

    def add(self, symbol: str, trade_id: int) -> bool:
        """Add one id, and return whether it was new."""
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
        """Return the symbol's greatest id, or -1 if it has none."""
        ranges = self._ids[symbol].ranges
        return ranges[-1][1] - 1 if ranges else -1

    def forget(self, symbol: str) -> None:
        """Remove all ids of the symbol."""
        self._ids.pop(symbol, None)

    def among(self, symbol: str, lower: int, upper: int) -> Ranges:
        """Return the published ids within ``[lower, upper)``."""
        return self._ids[symbol].within(lower, upper)


class Intake:
    """Passes the exchange's messages to the trade log.

    ``note_gap(symbol, first_trade_id, last_trade_id, why)`` returns once the gap is written to Kafka.
    ``can_refill``: whether dropped trades can be fetched later. If not, no trade is dropped: reading waits
    for room instead.
    """

    def __init__(self, trade_log: TradeLog, note_gap: NoteGap, *, can_refill: bool) -> None:
        self._trade_log = trade_log
        self._note_gap = note_gap
        self._can_refill = can_refill
        self.published = PublishedIds()
        self._next_ids: dict[str, int] = {}
        self._why: dict[str, str] = {}
        self._noting: dict[str, asyncio.Task[None]] = {}
        self._is_shedding = False
        self._logged_at = float("-inf")
        self.received = 0
        self.duplicates = 0
        self.filled = 0
        """Trades fetched from the exchange's history and published."""
        self.dropped = 0
        """Messages dropped by load shedding. They don't count as received until they are fetched."""
        self.last_trade_times: dict[str, int] = {}
        """By symbol, the latest time of a published trade, in microseconds since the epoch."""
        self.out_of_order = Receipt()
        """Settled once Kafka has acknowledged every trade that arrived after one with a higher id."""

    def begin_after(self, last_trade_ids: Mapping[str, int]) -> None:
        """Set each symbol's last id published before this start.

        The ids from there to the first one that the stream delivers are a gap.
        """
        for symbol, trade_id in last_trade_ids.items():
            self.published.add(symbol, trade_id)
            self._next_ids[symbol] = trade_id + 1
            self._why[symbol] = RESTART

    @property
    def next_ids(self) -> Mapping[str, int]:
        """By symbol, the id expected of its next live trade. A symbol without a trade so far has no entry."""
        return self._next_ids

    def count_from(self, symbol: str, trade_id: int) -> None:
        """Set the next expected id of a symbol without a trade so far; ids missing from it on are a gap."""
        self._next_ids.setdefault(symbol, trade_id)

    def on_connected(self, symbols: Iterable[str]) -> None:
        """Note that a new connection will deliver these symbols' trades."""
        for symbol in symbols:
            self._why.setdefault(symbol, RECONNECT)

    async def take(self, message: Received) -> None:
        """Publish or reject a message from the stream, or drop it if the producer is shedding load."""
        must_wait = self._trade_log.is_full or (isinstance(message, TradeMessage) and self._is_ahead(message))
        if must_wait and not await self._wait_or_shed(message):
            self._drop(message)
            return
        # No await from here on: cancelling can't happen between counting a message and publishing it.
        if isinstance(message, TradeMessage):
            self._take_trade(message)
        elif isinstance(message, Rejected):
            self._reject(message.record, message.reason)
        elif isinstance(message, TooLong):
            self._reject(b"", TOO_LONG, message.length)

    def fill_in(self, trade: Trade, source: str, receipt: Receipt, *, even_if_published: bool) -> None:
        """Publish one trade that was fetched from the exchange's history.

        A trade that was published before is counted as a duplicate, unless ``even_if_published``.
        """
        self.received += 1
        if not self.published.add(trade.symbol, trade.trade_id) and not even_if_published:
            self.duplicates += 1
            return
        self.filled += 1
        latest = self.last_trade_times.get(trade.symbol, -1)
        self.last_trade_times[trade.symbol] = max(latest, trade.trade_time)
        self._trade_log.publish(trade.symbol, encode(trade), origin=source, receipt=receipt)

    def counts(self) -> dict[str, int]:
        """Return the current terms of the equation in the module's docstring."""
        return {
            "received": self.received,
            "published": self._trade_log.published,
            "duplicate": self.duplicates,
            "rejected": self._trade_log.rejected,
            "in_flight": self._trade_log.in_flight,
        }

    async def _wait_or_shed(self, message: Received) -> bool:
        """Wait until the message can be published; return False if it is to be dropped.

        After one wait longer than ``PATIENCE_SECONDS``, later messages are dropped without waiting until
        Kafka acknowledges again.
        """
        if not self._can_refill:
            await self._wait_until_publishable(message)
            return True
        self._is_shedding = self._is_shedding and (self._trade_log.has_back_pressure or bool(self._noting))
        try:
            async with asyncio.timeout(0 if self._is_shedding else PATIENCE_SECONDS):
                await self._wait_until_publishable(message)
        except TimeoutError:
            if not self._is_shedding:
                _log.warning(
                    "Kafka accepts no records: the producer drops trades and fetches them from the exchange "
                    "once Kafka is back"
                )
            self._is_shedding = True
            return False
        return True

    async def _wait_until_publishable(self, message: Received) -> None:
        """Wait for room, and until the gap before the message is written."""
        await self._trade_log.wait_for_room()
        if isinstance(message, TradeMessage):
            await self.note_missing(message.symbol, message.trade_id - 1)

    def _drop(self, message: Received) -> None:
        self.dropped += 1
        if isinstance(message, TradeMessage):
            self._next_ids.setdefault(message.symbol, message.trade_id)
            self._why[message.symbol] = OVERLOAD

    def _is_ahead(self, trade: TradeMessage) -> bool:
        """Return whether ids are missing before this trade."""
        return trade.trade_id > self._next_ids.get(trade.symbol, trade.trade_id)

    async def note_missing(self, symbol: str, last_trade_id: int) -> None:
        """Write a gap from the next expected id to ``last_trade_id``; return once it is in Kafka.

        Returns at once if that id has arrived. Each symbol writes one event at a time; if the caller is
        cancelled, the event is still written.
        """
        while self._next_ids.get(symbol, last_trade_id + 1) <= last_trade_id:
            noting = self._noting.get(symbol)
            if noting is None:
                noting = asyncio.create_task(self._note(symbol, self._next_ids[symbol], last_trade_id))
                self._noting[symbol] = noting
            await asyncio.shield(noting)

    async def _note(self, symbol: str, first: int, last: int) -> None:
        try:
            # The reason is removed: while it is RESTART, a lower id counts as the first since the start.
            await self._note_gap(symbol, first, last, self._why.pop(symbol, JUMP))
            # Another connection may have delivered later ids in the meantime.
            if first <= self._next_ids[symbol] <= last:
                self._next_ids[symbol] = last + 1
        finally:
            del self._noting[symbol]

    def _take_trade(self, trade: TradeMessage) -> None:
        self.received += 1
        symbol, trade_id, trade_time, payload = trade
        is_next = trade_id >= self._next_ids.get(symbol, 0)
        if not is_next:
            is_next = self._starts_at_lower_id(trade)
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

    def _starts_at_lower_id(self, trade: TradeMessage) -> bool:
        """Return whether to expect ids from this trade on, although its id is lower than the expected one.

        That is so for the first trade since the start, and for a trade that starts a new sequence of ids.
        """
        symbol, trade_id, last = trade.symbol, trade.trade_id, self._next_ids[trade.symbol] - 1
        if self._why.get(symbol) == RESTART:  # the first trade since the start is older than the topic's last
            if last - trade_id >= FAR_IDS:
                _log.warning(
                    "%s: the topic has trades up to id %d, but the exchange continues at %d: check that the "
                    "topic belongs to the same market",
                    symbol,
                    last,
                    trade_id,
                )
            return True
        newer_us = trade.trade_time - self.last_trade_times.get(symbol, trade.trade_time)
        if newer_us <= 0 or not self._contradicts(symbol, trade_id, newer_us):
            return False
        _log.warning(
            "%s: trade ids start again at %d, after %d, with a trade newer than all before: perhaps the "
            "symbol was listed again. They count as a new sequence; trades before its first are not fetched",
            symbol,
            trade_id,
            last,
        )
        self.published.forget(symbol)
        return True

    def _contradicts(self, symbol: str, trade_id: int, newer_us: int) -> bool:
        """Return whether a trade newer than all published ones can't belong to their sequence of ids.

        ``newer_us``: by how much it is newer. See ``FAR_IDS`` for the rule.
        """
        lower_by = self.published.greatest(symbol) - trade_id
        if lower_by < 0:  # a late trade of a gap that was written but has not been filled yet
            return False
        is_known = bool(self.published.among(symbol, trade_id, trade_id + 1))
        return is_known or lower_by >= FAR_IDS or newer_us > FAR_US

    def _reject(self, record: bytes, reason: str, length: int | None = None) -> None:
        self.received += 1
        self._trade_log.reject(record, reason, length=length)
        now = time.monotonic()
        if now - self._logged_at >= _LOG_EVERY_SECONDS:
            self._logged_at = now
            _log.warning(
                "rejected a record from the exchange: %s (it is kept in the topic of rejected records)",
                reason,
            )
