"""A made-up market of any symbols without end: a source for the simulator that stores no trades.

``symbol`` computes the trades, ids and times; this module serves them as a live feed and as history.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Final

from candleflow.exchange.messages import stream_of, symbol_of
from candleflow.market.symbol import is_symbol
from candleflow.market.trade import Trade
from candleflow.market.window import SECOND_US
from candleflow.simulator.audience import Audience
from candleflow.simulator.session import Event
from candleflow.simulator.source import Listing
from candleflow.simulator.symbol import (
    ORIGIN_US,
    SCALE,
    WELL_KNOWN,
    Era,
    SimulatedTrade,
    SymbolMarket,
)

_SLOWEST_RATE: Final = 1e-3
"""Minimum trades a second of one symbol. The next trade is searched slice by slice, which takes long if
trades are rare."""
_MARKETS_KEPT: Final = 4_096
_BEHIND_US: Final = 10 * SECOND_US
"""A feed this far behind restarts at the current time: the process was stopped in between."""
_BATCH: Final = 2_000
"""Maximum number of trades to send at once."""
_SHORTEST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.02


class SeededMarket:
    """A market in which every valid symbol is traded without end; a ``Source`` for the simulator.

    ``rate`` is the mean number of trades a second over all ``symbols`` together. Any other symbol exists too,
    and is traded as often as each of these. ``earlier`` are the eras before the current one, which began at
    ``since`` (see ``symbol``).
    """

    def __init__(
        self,
        seed: int,
        rate: float,
        symbols: Sequence[str],
        *,
        earlier: Sequence[Era] = (),
        since: int = ORIGIN_US,
    ) -> None:
        self.eras = (*earlier, Era(since, seed, max(_SLOWEST_RATE, rate / max(1, len(symbols)))))
        self._symbols = tuple(dict.fromkeys((*symbols, *WELL_KNOWN)))
        self._markets: dict[str, SymbolMarket] = {}

    def market(self, symbol: str) -> SymbolMarket:
        market = self._markets.get(symbol)
        if market is None:
            market = SymbolMarket(symbol, self.eras)
            if len(self._markets) >= _MARKETS_KEPT:
                self._markets.clear()  # a cache: each market can be computed again
            self._markets[symbol] = market
        return market

    def listings(self) -> Sequence[Listing]:
        return [self.market(symbol).listing for symbol in self._symbols]

    def listing(self, symbol: str) -> Listing | None:
        return self.market(symbol).listing if is_symbol(symbol) else None

    def present(self, now: int) -> int:
        return now

    def id_range(self, symbol: str, now: int) -> tuple[int, int]:
        return 0, self.market(symbol).id_at(now)

    def id_at(self, symbol: str, time: int) -> int:
        return self.market(symbol).id_at(time)

    def trades(self, symbol: str, ids: tuple[int, int]) -> Iterator[Trade]:
        lower, upper = ids
        if lower >= upper:
            return
        for one in self.market(symbol).from_id(lower):
            if one.trade_id >= upper:
                return
            yield Trade(
                symbol, one.trade_id, _exact(one.price), _exact(one.quantity), one.time, one.buyer_is_maker
            )

    def aggregate_of(self, symbol: str, trade_id: int) -> int:
        return self.market(symbol).aggregate_of(trade_id)

    def aggregate_start(self, symbol: str, aggregate_id: int) -> int:
        return self.market(symbol).aggregate_start(aggregate_id)

    async def play(self, audience: Audience) -> None:
        """Send each trade within milliseconds of its time, until cancelled."""
        feed = _Feed(self)
        while True:
            now = time.time_ns() // 1_000
            if feed.is_behind(now):  # for example the machine slept; a real exchange would have continued
                audience.drop_all(
                    "the simulated market is more than 10 s behind; it restarts at the current time"
                )
                feed = _Feed(self)
            feed.follow(audience.streams, now)
            events = feed.due(now)
            if events:
                audience.publish(events)
            await asyncio.sleep(feed.pause(time.time_ns() // 1_000))


class _Feed:
    """The trades of the subscribed streams, in the order of their times."""

    def __init__(self, source: SeededMarket) -> None:
        self._source = source
        self._followed: frozenset[str] = frozenset()
        self._heads: list[tuple[int, str, SimulatedTrade, Iterator[SimulatedTrade]]] = []

    def follow(self, streams: frozenset[str], now: int) -> None:
        """Follow exactly the trades of ``streams``; new streams start at ``now``."""
        if streams == self._followed:
            return
        self._heads = [head for head in self._heads if stream_of(head[1]) in streams]
        for stream in sorted(streams - self._followed):
            symbol = symbol_of(stream)
            if symbol is not None and is_symbol(symbol):
                market = self._source.market(symbol)
                trades = market.from_id(market.id_at(now))
                first = next(trades)
                self._heads.append((first.time, symbol, first, trades))
        heapq.heapify(self._heads)
        self._followed = streams

    def is_behind(self, now: int) -> bool:
        return bool(self._heads) and now - self._heads[0][0] > _BEHIND_US

    def due(self, now: int) -> list[Event]:
        """Return the events of all trades until ``now``, at most ``_BATCH``."""
        events: list[Event] = []
        while self._heads and self._heads[0][0] <= now and len(events) < _BATCH:
            _, symbol, trade, trades = self._heads[0]
            events.append(_event(symbol, trade, now))
            following = next(trades)
            heapq.heapreplace(self._heads, (following.time, symbol, following, trades))
        return events

    def pause(self, now: int) -> float:
        """Return the seconds until the next trade is due, within limits.

        The lower limit lets other tasks run; the upper one lets new subscriptions start soon.
        """
        if not self._heads:
            return _LONGEST_PAUSE
        return min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, (self._heads[0][0] - now) / SECOND_US))


def _event(symbol: str, trade: SimulatedTrade, now: int) -> Event:
    """Return the trade as Binance's stream would send it at time ``now``."""
    trade_id, at, price, quantity, buyer_is_maker = trade
    head = f',"s":"{symbol}","t":{trade_id},"p":"{_text(price)}","q":"{_text(quantity)}","T":'
    tail = f',"m":{"true" if buyer_is_maker else "false"},"M":true}}'
    return Event(
        stream_of(symbol),
        f'{{"e":"trade","E":{now // 1_000}{head}{at // 1_000}{tail}',
        f'{{"e":"trade","E":{now}{head}{at}{tail}',
        symbol,
        trade_id,
    )


def _text(units: int) -> str:
    return f"{units // SCALE}.{units % SCALE:08d}"


def _exact(units: int) -> Decimal:
    return Decimal(_text(units))
