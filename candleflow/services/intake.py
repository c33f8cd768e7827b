"""What becomes of each message from the exchange: published, a duplicate, or refused; and the counts.

    received = published + duplicate + rejected + in flight

holds at every moment, and at the end with nothing in flight.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from typing import Final

from candleflow.broker.trade_log import TradeLog
from candleflow.exchange.messages import Rejected, TradeMessage
from candleflow.exchange.stream import Received, TooLong
from candleflow.market.payload import TOO_LONG
from candleflow.market.trade_ids import TradeIds

_log = logging.getLogger(__name__)

RANGES_LIMIT: Final = 1_024
"""Of each symbol's published ids so many ranges are remembered at least; nearly always there is one."""
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


class Intake:
    """Takes messages to the trade log, and waits for room there."""

    def __init__(self, trade_log: TradeLog) -> None:
        self._trade_log = trade_log
        self._published = PublishedIds()
        self._said_at = float("-inf")
        self.received = 0
        self.duplicates = 0
        self.others = 0
        """Messages of streams that aren't of trades: no part of the equation."""
        self.last_trade_times: dict[str, int] = {}
        """By symbol, the latest trade time seen, in microseconds since the epoch."""

    async def take(self, message: Received) -> None:
        if self._trade_log.is_full:
            await self._trade_log.wait_for_room()
        # No await from here on: a message is counted and handed over, or neither, when reading is stopped.
        if isinstance(message, TradeMessage):
            self._take_trade(message)
        elif isinstance(message, Rejected):
            self._reject(message.record, message.reason)
        elif isinstance(message, TooLong):
            self._reject(b"", TOO_LONG, message.length)
        else:
            self.others += 1

    def counts(self) -> dict[str, int]:
        """The equation's terms, as they stand now."""
        return {
            "received": self.received,
            "published": self._trade_log.published,
            "duplicate": self.duplicates,
            "rejected": self._trade_log.rejected,
            "in_flight": self._trade_log.in_flight,
        }

    def _take_trade(self, message: TradeMessage) -> None:
        self.received += 1
        trade = message.trade
        if not self._published.add(trade.symbol, trade.trade_id):
            self.duplicates += 1
            return
        if trade.trade_time > self.last_trade_times.get(trade.symbol, -1):
            self.last_trade_times[trade.symbol] = trade.trade_time
        self._trade_log.publish(trade.symbol, message.payload)

    def _reject(self, record: bytes, reason: str, length: int | None = None) -> None:
        self.received += 1
        self._trade_log.reject(record, reason, length=length)
        now = time.monotonic()
        if now - self._said_at >= _SAY_EVERY_SECONDS:
            self._said_at = now
            _log.warning("refused a record from the exchange: %s (it is kept in the topic of such)", reason)
