"""A made-up market that is a pure function of its seed: any stretch of it can be served at any time.

Nothing is kept. Trade ``id`` of a symbol is the same whether it is sent live, asked for as history an hour
later, or sent by a simulator that was restarted in between: ids are counted from ``ORIGIN_US`` on.

Ids and time. The rate of trades swings between quiet and busy spells as a sum of waves, so that the number
of trades until the time t, in seconds, has a closed form:

    N(t) = rate * (t + sum over waves of depth / w * (cos(phase) - cos(w * t + phase)))

Time is cut into equal slices. C(k) is N at the beginning of slice ``k``, rounded down to the end of an
aggregate (below). Slice ``k`` holds the ids C(k) to C(k + 1) - 1; a random generator seeded by (seed, symbol,
k) puts them into bursts that share a millisecond.

Prices. The logarithm of the price is a sum of smooth noises, each with four times the period of the one
before and twice its height, as in a random walk, but bounded: within some 15 % of the symbol's base price.

Aggregates. Every page of ``PAGE`` ids is divided into the same number of groups, in an order of its own, so
that the ids of aggregates have a closed form too. The trades of a group share time, price and side.

Another seed, rate or number of symbols is another market, with other ids.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import math
import random
import struct
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from itertools import accumulate
from typing import Final, NamedTuple

from candleflow.exchange.simulator_source import Audience, Event, Listing, stream_of, symbol_of
from candleflow.market.symbol import is_symbol
from candleflow.market.trade import Trade
from candleflow.market.window import SECOND_US

ORIGIN_US: Final = 1_577_836_800 * SECOND_US
"""2020-01-01: every simulated market begins in the second after it."""

_WAVES: Final = ((0.30, 13.0), (0.25, 71.0), (0.20, 421.0), (0.15, 4_003.0))
"""Depth and period in seconds of the swings in the rate; depths add up to less than 1: it stays positive."""
_WAVE_DRIFT_SECONDS: Final = sum(depth * period / math.pi for depth, period in _WAVES)
"""N(t) / rate is never further from t than this."""

_NOISE_PERIODS: Final = tuple(4.0**octave for octave in range(1, 11))
"""From 4 s to 12 days."""
_NOISE_HEIGHT: Final = 6e-5
"""Of the logarithm of the price over a second: some 2 % over a day, an ordinary day of Bitcoin's."""

_GROUP_SIZES: Final[tuple[int, ...]] = (1,) * 14 + (2,) * 4 + (3,) * 2 + (4,) * 2 + (5, 23)
PAGE: Final[int] = sum(_GROUP_SIZES)
_GROUPS: Final = len(_GROUP_SIZES)
_TURNED_GROUPS: Final[tuple[tuple[int, ...], ...]] = tuple(
    tuple(accumulate(_GROUP_SIZES[turn:] + _GROUP_SIZES[:turn])) for turn in range(_GROUPS)
)
"""Where the groups of a page end, for each order that a page may have them in."""
_TRADES_A_SLICE: Final = 256
"""On average, where the slice's length allows: the work of one slice is some milliseconds."""
_SHORTEST_SLICE_MS: Final = 1
_LONGEST_SLICE_MS: Final = 1_000
_BURST_SIZES: Final = (1, 1, 1, 1, 1, 1, 1, 2, 2, 3, 5, 12)
"""How many aggregates share a millisecond, one of these at random."""

_SLOWEST_RATE: Final = 1e-3
"""Trades a second of one symbol, at least: the next trade is looked for slice by slice."""
_MARKETS_KEPT: Final = 4_096
_BEHIND_US: Final = 10 * SECOND_US
_BATCH: Final = 2_000
_SHORTEST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.02

_MILLISECOND_US: Final = 1_000
_SCALE: Final = 10**8
_PLACES: Final = 8


class _Known(NamedTuple):
    price: float
    price_places: int
    quantity_places: int
    typical_quantity: float


# Steps are such that price and quantity have at most eight places together: their product is then exact in
# the eight places that Binance prints quote volumes with.
_WELL_KNOWN: Final[dict[str, _Known]] = {
    "BTCUSDT": _Known(61_000, 2, 5, 0.002),
    "ETHUSDT": _Known(2_700, 2, 4, 0.03),
    "BNBUSDT": _Known(510, 2, 3, 0.2),
    "SOLUSDT": _Known(155, 2, 3, 0.7),
    "XRPUSDT": _Known(0.61, 4, 1, 160),
    "DOGEUSDT": _Known(0.104, 5, 0, 900),
    "ADAUSDT": _Known(0.34, 4, 1, 250),
    "TRXUSDT": _Known(0.128, 4, 1, 700),
    "LINKUSDT": _Known(10.4, 2, 2, 9),
    "LTCUSDT": _Known(61, 2, 3, 1.5),
    "SHIBUSDT": _Known(0.0000138, 8, 0, 6_000_000),
    "ETHBTC": _Known(0.0443, 5, 3, 0.05),
    "BTCJPY": _Known(8_950_000, 0, 8, 0.002),
}
_QUOTE_ASSETS: Final = ("USDT", "USDC", "FDUSD", "TUSD", "BTC", "ETH", "BNB", "EUR", "TRY", "JPY", "BRL")


class SimulatedTrade(NamedTuple):
    """One trade as integers; price and quantity in units of 10^-8, time in microseconds since the epoch."""

    trade_id: int
    time: int
    price: int
    quantity: int
    buyer_is_maker: bool


class SymbolMarket:
    """One symbol's trades; ``rate`` is its mean number a second."""

    def __init__(self, seed: int, symbol: str, rate: float) -> None:
        self.symbol = symbol
        self._key = hashlib.blake2b(f"{seed}/{symbol}".encode(), digest_size=32).digest()
        self._rate = rate
        known = _WELL_KNOWN.get(symbol) or self._made_up()
        self._known = known
        self.listing = Listing(symbol, *_assets(symbol), known.price_places, known.quantity_places)
        slice_ms = min(_LONGEST_SLICE_MS, max(_SHORTEST_SLICE_MS, int(1_000 * _TRADES_A_SLICE / rate)))
        self._slice_us = slice_ms * _MILLISECOND_US
        # Symbols' slices begin at different moments, so that the work of beginning one is spread.
        self._origin = ORIGIN_US + self._hash("origin", 0) % 1_000 * _MILLISECOND_US
        self._waves = [
            (depth, math.tau / period, self._uniform("wave", number) * math.tau)
            for number, (depth, period) in enumerate(_WAVES)
        ]
        self._last_slice: tuple[int, list[SimulatedTrade]] = (-1, [])
        self._last_page: tuple[int, Sequence[int]] = (-1, ())

    def trade(self, trade_id: int) -> SimulatedTrade:
        number = self._slice_of(trade_id)
        return self._slice(number)[trade_id - self._count_until(number)]

    def from_id(self, trade_id: int) -> Iterator[SimulatedTrade]:
        """The trades from ``trade_id`` on, without end."""
        number = self._slice_of(trade_id)
        yield from self._slice(number)[trade_id - self._count_until(number) :]
        while True:
            number += 1
            yield from self._trades_of(number)

    def id_at(self, at: int) -> int:
        """The lowest id whose trade time is ``at`` or later."""
        number = (at - self._origin) // self._slice_us
        if number < 0:
            return 0
        times = [trade.time for trade in self._slice(number)]
        return self._count_until(number) + bisect_left(times, at)

    def aggregate_of(self, trade_id: int) -> int:
        page, inside = divmod(trade_id, PAGE)
        return page * _GROUPS + bisect_right(self._group_ends(page), inside)

    def aggregate_start(self, aggregate_id: int) -> int:
        page, group = divmod(aggregate_id, _GROUPS)
        return page * PAGE + (self._group_ends(page)[group - 1] if group else 0)

    def _slice(self, number: int) -> list[SimulatedTrade]:
        """A slice's trades at once; the last one asked for is kept, as it is often asked for again."""
        kept, trades = self._last_slice
        if kept != number:
            trades = list(self._trades_of(number))
            self._last_slice = (number, trades)
        return trades

    def _slice_of(self, trade_id: int) -> int:
        slices_a_second = SECOND_US / self._slice_us
        middle = int(trade_id / self._rate * slices_a_second)
        slack = int((_WAVE_DRIFT_SECONDS + PAGE / self._rate) * slices_a_second) + 2
        numbers = range(max(0, middle - slack), middle + slack)
        # The last slice that begins with this id or a lower one, and so the one that holds it.
        return numbers[bisect_right(numbers, trade_id, key=self._count_until) - 1]

    def _count_until(self, number: int) -> int:
        """C(k): the number of trades before the slice."""
        if number <= 0:
            return 0
        seconds = number * self._slice_us / SECOND_US
        swing = sum(
            depth / speed * (math.cos(phase) - math.cos(speed * seconds + phase))
            for depth, speed, phase in self._waves
        )
        page, inside = divmod(int(self._rate * (seconds + swing)), PAGE)
        ends = self._group_ends(page)
        whole = bisect_right(ends, inside)
        return page * PAGE + (ends[whole - 1] if whole else 0)

    def _group_ends(self, page: int) -> Sequence[int]:
        kept, ends = self._last_page
        if kept != page:
            ends = _TURNED_GROUPS[self._hash("page", page) % _GROUPS]
            self._last_page = (page, ends)
        return ends

    def _trades_of(self, number: int) -> Iterator[SimulatedTrade]:
        """The trades of one slice, one at a time, so that the live feed does no work before its time."""
        first, end = self._count_until(number), self._count_until(number + 1)
        if first == end:
            return
        draw = random.Random(self._hash("slice", number)).random  # noqa: S311 - a market, not a secret
        starts_at = self._origin + number * self._slice_us
        group, last_group = self.aggregate_of(first), self.aggregate_of(end - 1)
        trade_id = first
        level, next_level = self._level(number), self._level(number + 1)
        for offset in _moments(draw, last_group - group + 1, self._slice_us // _MILLISECOND_US):
            price = self._price(level + (next_level - level) * offset / self._slice_us, draw)
            buyer_is_maker = draw() < 0.5
            group += 1
            next_group_at = self.aggregate_start(group)
            while trade_id < next_group_at:
                yield SimulatedTrade(
                    trade_id, starts_at + offset, price, self._quantity(draw), buyer_is_maker
                )
                trade_id += 1

    def _price(self, level: float, draw: Callable[[], float]) -> int:
        """The price at the logarithmic ``level``, a few steps to either side, in units of 10^-8."""
        step: int = 10 ** (_PLACES - self._known.price_places)
        steps = round(self._known.price * math.exp(level + (draw() - 0.5) * 2e-5) * _SCALE / step)
        return max(1, steps) * step

    def _quantity(self, draw: Callable[[], float]) -> int:
        """A quantity in units of 10^-8: most within a factor of ten of the typical one, some far out."""
        step: int = 10 ** (_PLACES - self._known.quantity_places)
        size = self._known.typical_quantity * math.exp(5.0 * (draw() + draw() - 1.0))
        return max(1, round(size * _SCALE / step)) * step

    def _level(self, number: int) -> float:
        """The logarithm of the price, relative to the symbol's base price, where the slice begins."""
        seconds = number * self._slice_us / SECOND_US
        return sum(
            _NOISE_HEIGHT * math.sqrt(period) * self._noise(octave, seconds / period)
            for octave, period in enumerate(_NOISE_PERIODS)
        )

    def _noise(self, octave: int, at: float) -> float:
        """Smooth noise within -1 and 1: random values at whole numbers, joined without a corner."""
        before = math.floor(at)
        share = at - before
        share *= share * (3 - 2 * share)
        left, right = (self._uniform(f"noise{octave}", before + side) for side in (0, 1))
        return 2 * (left + (right - left) * share) - 1

    def _made_up(self) -> _Known:
        """Price and steps of a symbol that isn't well known, by its name."""
        price = 10.0 ** (self._uniform("price", 0) * 6 - 2)
        price_places = min(_PLACES, max(0, 4 - math.floor(math.log10(price))))
        return _Known(price, price_places, _PLACES - price_places, 100 / price)

    def _hash(self, purpose: str, number: int) -> int:
        digest = hashlib.blake2b(
            struct.pack("<q", number), digest_size=8, key=self._key, person=purpose.encode()
        ).digest()
        return int.from_bytes(digest, "little")

    def _uniform(self, purpose: str, number: int) -> float:
        """A number from 0 to below 1."""
        return self._hash(purpose, number) / 2**64


class SeededMarket:
    """Every symbol there can be, traded for ever; a ``Source`` for the simulator.

    ``rate`` is the mean number of trades a second over all of ``symbols`` together. Any other symbol can be
    asked for as well and trades as often as each of these.
    """

    def __init__(self, seed: int, rate: float, symbols: Sequence[str]) -> None:
        self._seed = seed
        self._symbol_rate = max(_SLOWEST_RATE, rate / max(1, len(symbols)))
        self._symbols = tuple(dict.fromkeys((*symbols, *_WELL_KNOWN)))
        self._markets: dict[str, SymbolMarket] = {}

    def market(self, symbol: str) -> SymbolMarket:
        market = self._markets.get(symbol)
        if market is None:
            market = SymbolMarket(self._seed, symbol, self._symbol_rate)
            if len(self._markets) >= _MARKETS_KEPT:
                self._markets.clear()  # each can be made anew: nothing is lost but a little time
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
        """Send each trade within milliseconds of its time, for ever."""
        feed = _Feed(self)
        while True:
            now = time.time_ns() // 1_000
            if feed.is_behind(now):  # the machine slept: the connections of a real exchange would be gone
                audience.drop_all("the simulator was stopped for a while")
                feed = _Feed(self)
            feed.follow(audience.streams(), now)
            events = feed.due(now)
            if events:
                audience.publish(events)
            await asyncio.sleep(feed.pause(time.time_ns() // 1_000))


class _Feed:
    """The trades of the streams in demand, in the order of their times."""

    def __init__(self, source: SeededMarket) -> None:
        self._source = source
        self._followed: frozenset[str] = frozenset()
        self._heads: list[tuple[int, str, SimulatedTrade, Iterator[SimulatedTrade]]] = []

    def follow(self, streams: frozenset[str], now: int) -> None:
        """Follow exactly the trades of ``streams``; those that are new, from ``now`` on."""
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
        """The events of all trades until ``now``, at most ``_BATCH`` of them."""
        events: list[Event] = []
        while self._heads and self._heads[0][0] <= now and len(events) < _BATCH:
            _, symbol, trade, trades = self._heads[0]
            events.append(_event(symbol, trade, now))
            following = next(trades)
            heapq.heapreplace(self._heads, (following.time, symbol, following, trades))
        return events

    def pause(self, now: int) -> float:
        """Seconds until the next trade is due, kept within what a new subscription and the loop need."""
        if not self._heads:
            return _LONGEST_PAUSE
        return min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, (self._heads[0][0] - now) / SECOND_US))


def _moments(draw: Callable[[], float], count: int, milliseconds: int) -> list[int]:
    """``count`` offsets into a slice in microseconds, in order; those of a burst share a millisecond."""
    moments: list[int] = []
    while len(moments) < count:
        begins = int(draw() * milliseconds) * _MILLISECOND_US
        burst = _BURST_SIZES[int(draw() * len(_BURST_SIZES))]
        moments.extend(begins + int(draw() * _MILLISECOND_US) for _ in range(burst))
    return sorted(moments[:count])


def _event(symbol: str, trade: SimulatedTrade, now: int) -> Event:
    """The trade as Binance's stream sends it at the time ``now``."""
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
    return f"{units // _SCALE}.{units % _SCALE:08d}"


def _exact(units: int) -> Decimal:
    return Decimal(_text(units))


def _assets(symbol: str) -> tuple[str, str]:
    """Base and quote asset, as far as the name tells."""
    for quote in _QUOTE_ASSETS:
        if symbol.endswith(quote) and symbol != quote:
            return symbol.removesuffix(quote), quote
    return symbol, "USDT"
