"""One symbol's trades on a made-up market, as a pure function of seed, symbol and trade id.

No trade is stored. A trade is the same whether it is sent live, requested as history an hour later, or sent
by a simulator that was restarted in between: ids are counted from ``ORIGIN_US`` on.

Ids and time. The rate of trades varies between quiet and busy periods as a sum of waves. So the number of
trades until time t, in seconds, has a closed form:

    N(t) = rate * (t + sum over waves of depth / w * (cos(phase) - cos(w * t + phase)))

Time is divided into equal slices. C(k) is N at the start of slice ``k``, rounded down to the end of an
aggregate (see below). Slice ``k`` has the ids C(k) to C(k + 1) - 1. A random generator seeded by (seed,
symbol, k) places them in bursts that share a millisecond.

Prices. The logarithm of the price is a sum of smooth noise functions. Each has four times the period of the
one before and twice its amplitude. This resembles a random walk, but stays within about 15 % of the symbol's
base price.

Aggregates. Every page of ``PAGE`` ids is divided into groups of the same sizes, rotated differently on each
page. So the ids of aggregates have a closed form too. The trades of a group have the same time, price and
side.

Eras. With another seed or rate, the same time has other ids. A market whose ids must continue after such a
change consists of eras. Each era is a market of its own. It starts and ends at the end of a slice, and its
ids are shifted to follow the last id of the era before.
"""

from __future__ import annotations

import hashlib
import math
import random
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, islice
from typing import Final, NamedTuple

from candleflow.market.window import SECOND_US
from candleflow.simulator.source import Listing

ORIGIN_US: Final = 1_577_836_800 * SECOND_US
"""2020-01-01 UTC. Every simulated market starts within the second after it."""

_WAVES: Final = ((0.30, 13.0), (0.25, 71.0), (0.20, 421.0), (0.15, 4_003.0))
"""Depth and period in seconds of the waves in the rate. The depths add up to less than 1, so that the rate
stays positive."""
_WAVE_DRIFT_SECONDS: Final = sum(depth * period / math.pi for depth, period in _WAVES)
"""Maximum difference between N(t) / rate and t."""

_NOISE_PERIODS: Final = tuple(4.0**octave for octave in range(1, 11))
"""From 4 s to 12 days."""
_NOISE_HEIGHT: Final = 6e-5
"""Amplitude of the price's logarithm at a period of 1 s. It gives about 2 % over a day, as is usual for
Bitcoin."""

_GROUP_SIZES: Final[tuple[int, ...]] = (1,) * 14 + (2,) * 4 + (3,) * 2 + (4,) * 2 + (5, 23)
PAGE: Final[int] = sum(_GROUP_SIZES)
_GROUPS: Final = len(_GROUP_SIZES)
_TURNED_GROUPS: Final[tuple[tuple[int, ...], ...]] = tuple(
    tuple(accumulate(_GROUP_SIZES[turn:] + _GROUP_SIZES[:turn])) for turn in range(_GROUPS)
)
"""The ends of a page's groups, for each rotation of the groups."""
_TRADES_A_SLICE: Final = 256
"""Average trades per slice, within the limits of a slice's length. A slice then takes a few milliseconds to
compute."""
_SHORTEST_SLICE_MS: Final = 1
_LONGEST_SLICE_MS: Final = 1_000
_BURST_SIZES: Final = (1, 1, 1, 1, 1, 1, 1, 2, 2, 3, 5, 12)
"""Numbers of aggregates that share a millisecond; one is chosen at random."""

_MILLISECOND_US: Final = 1_000
SCALE: Final = 10**8
"""Prices and quantities are integers in units of 1 / SCALE."""
_PLACES: Final = 8


class _Known(NamedTuple):
    price: float
    price_places: int
    quantity_places: int
    typical_quantity: float


# Price and quantity have at most eight decimal places together. Their product is then exact in the eight
# places of Binance's quote volumes.
WELL_KNOWN: Final[dict[str, _Known]] = {
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


class Era(NamedTuple):
    """A period, starting at ``since``, in which the market has one seed and rate."""

    since: int
    seed: int
    symbol_rate: float
    """The average number of trades a second of each symbol."""


class Cut(NamedTuple):
    """A point where one era may end and another start: the first ids and the time after it."""

    trade_id: int
    aggregate_id: int
    time: int


class SymbolEra:
    """One symbol's trades with one seed; ``rate`` is their mean number a second."""

    def __init__(self, seed: int, symbol: str, rate: float) -> None:
        self._id_shift = 0
        self._aggregate_shift = 0
        self._key = hashlib.blake2b(f"{seed}/{symbol}".encode(), digest_size=32).digest()
        self._rate = rate
        known = WELL_KNOWN.get(symbol) or self._made_up()
        self._known = known
        self.listing = Listing(symbol, *_assets(symbol), known.price_places, known.quantity_places)
        slice_ms = min(_LONGEST_SLICE_MS, max(_SHORTEST_SLICE_MS, int(1_000 * _TRADES_A_SLICE / rate)))
        self._slice_us = slice_ms * _MILLISECOND_US
        # The symbols' slices start at different times, which spreads the work of starting a slice.
        self._origin = ORIGIN_US + self._hash("origin", 0) % 1_000 * _MILLISECOND_US
        self._waves = [
            (depth, math.tau / period, self._uniform("wave", number) * math.tau)
            for number, (depth, period) in enumerate(_WAVES)
        ]
        self._last_slice: tuple[int, list[SimulatedTrade]] = (-1, [])
        self._last_page: tuple[int, Sequence[int]] = (-1, ())

    def begin_at(self, after: Cut) -> Cut:
        """Shift the ids so that they follow ``after``; return the cut at which this era starts."""
        own = self.cut(after.time)
        self._id_shift += after.trade_id - own.trade_id
        self._aggregate_shift += after.aggregate_id - own.aggregate_id
        self._last_slice = (-1, [])
        return Cut(after.trade_id, after.aggregate_id, own.time)

    def cut(self, at: int) -> Cut:
        """Return the first end of a slice at time ``at`` or later; no aggregate crosses it."""
        number = max(0, -((self._origin - at) // self._slice_us))
        trade_id = self._count_until(number)
        return Cut(
            trade_id + self._id_shift,
            self._aggregate_of(trade_id) + self._aggregate_shift,
            self._origin + number * self._slice_us,
        )

    def from_id(self, trade_id: int) -> Iterator[SimulatedTrade]:
        """Yield the trades from ``trade_id`` on, without end."""
        number = self._slice_of(trade_id - self._id_shift)
        yield from self._slice(number)[trade_id - self._id_shift - self._count_until(number) :]
        while True:
            number += 1
            yield from self._trades_of(number)

    def id_at(self, at: int) -> int:
        """Return the lowest id of a trade at ``at`` or later."""
        number = (at - self._origin) // self._slice_us
        if number < 0:
            return self._id_shift
        times = [trade.time for trade in self._slice(number)]
        return self._count_until(number) + bisect_left(times, at) + self._id_shift

    def aggregate_of(self, trade_id: int) -> int:
        return self._aggregate_of(trade_id - self._id_shift) + self._aggregate_shift

    def aggregate_start(self, aggregate_id: int) -> int:
        return self._aggregate_start(aggregate_id - self._aggregate_shift) + self._id_shift

    # The methods below use this era's own ids, counted from ORIGIN_US, without the shift.

    def _aggregate_of(self, trade_id: int) -> int:
        page, inside = divmod(trade_id, PAGE)
        return page * _GROUPS + bisect_right(self._group_ends(page), inside)

    def _aggregate_start(self, aggregate_id: int) -> int:
        page, group = divmod(aggregate_id, _GROUPS)
        return page * PAGE + (self._group_ends(page)[group - 1] if group else 0)

    def _slice(self, number: int) -> list[SimulatedTrade]:
        """Return all trades of a slice. The last slice is cached: the next call often needs it too."""
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
        # The last slice that starts with this id or a lower one has the trade.
        return numbers[bisect_right(numbers, trade_id, key=self._count_until) - 1]

    def _count_until(self, number: int) -> int:
        """Return C(k), the number of trades before slice ``k``."""
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
        """Yield the trades of one slice one at a time, so that the live feed computes each only when due."""
        first, end = self._count_until(number), self._count_until(number + 1)
        if first == end:
            return
        draw = random.Random(self._hash("slice", number)).random  # nosec B311 # noqa: S311 - a market, not a secret
        starts_at = self._origin + number * self._slice_us
        group, last_group = self._aggregate_of(first), self._aggregate_of(end - 1)
        trade_id = first + self._id_shift
        level, next_level = self._level(number), self._level(number + 1)
        for offset in _moments(draw, last_group - group + 1, self._slice_us // _MILLISECOND_US):
            price = self._price(level + (next_level - level) * offset / self._slice_us, draw)
            buyer_is_maker = draw() < 0.5
            group += 1
            next_group_at = self._aggregate_start(group) + self._id_shift
            while trade_id < next_group_at:
                yield SimulatedTrade(
                    trade_id, starts_at + offset, price, self._quantity(draw), buyer_is_maker
                )
                trade_id += 1

    def _price(self, level: float, draw: Callable[[], float]) -> int:
        """Return a random price near the logarithmic ``level``, in units of 10^-8."""
        step: int = 10 ** (_PLACES - self._known.price_places)
        steps = round(self._known.price * math.exp(level + (draw() - 0.5) * 2e-5) * SCALE / step)
        return max(1, steps) * step

    def _quantity(self, draw: Callable[[], float]) -> int:
        """Return a random quantity in units of 10^-8, mostly within a factor of ten of the typical one."""
        step: int = 10 ** (_PLACES - self._known.quantity_places)
        size = self._known.typical_quantity * math.exp(5.0 * (draw() + draw() - 1.0))
        return max(1, round(size * SCALE / step)) * step

    def _level(self, number: int) -> float:
        """Return the logarithm of price / base price at the start of the slice."""
        seconds = number * self._slice_us / SECOND_US
        return sum(
            _NOISE_HEIGHT * math.sqrt(period) * self._noise(octave, seconds / period)
            for octave, period in enumerate(_NOISE_PERIODS)
        )

    def _noise(self, octave: int, at: float) -> float:
        """Return smooth noise from -1 to 1: random values at whole numbers, smoothly interpolated."""
        before = math.floor(at)
        share = at - before
        share *= share * (3 - 2 * share)
        left, right = (self._uniform(f"noise{octave}", before + side) for side in (0, 1))
        return 2 * (left + (right - left) * share) - 1

    def _made_up(self) -> _Known:
        """Return price and steps of a symbol that isn't in WELL_KNOWN, derived from its name."""
        price = 10.0 ** (self._uniform("price", 0) * 6 - 2)
        price_places = min(_PLACES, max(0, 4 - math.floor(math.log10(price))))
        return _Known(price, price_places, _PLACES - price_places, 100 / price)

    def _hash(self, purpose: str, number: int) -> int:
        digest = hashlib.blake2b(
            struct.pack("<q", number), digest_size=8, key=self._key, person=purpose.encode()
        ).digest()
        return int.from_bytes(digest, "little")

    def _uniform(self, purpose: str, number: int) -> float:
        """Return a number from 0 to below 1, which depends only on the arguments, the seed and the symbol."""
        return self._hash(purpose, number) / 2**64


class SymbolMarket:
    """One symbol's trades over all eras, with consecutive ids."""

    def __init__(self, symbol: str, eras: Sequence[Era]) -> None:
        first, *later = eras
        self._eras = [SymbolEra(first.seed, symbol, first.symbol_rate)]
        self._cuts = [Cut(0, 0, ORIGIN_US)]
        """The start of each era."""
        for era in later:
            end = self._eras[-1].cut(max(era.since, self._cuts[-1].time))
            self._eras.append(SymbolEra(era.seed, symbol, era.symbol_rate))
            self._cuts.append(self._eras[-1].begin_at(end))

    @property
    def listing(self) -> Listing:
        return self._eras[-1].listing

    def from_id(self, trade_id: int) -> Iterator[SimulatedTrade]:
        """Yield the trades from ``trade_id`` on, without end."""
        for number in range(self._number(trade_id), len(self._eras) - 1):
            count = self._cuts[number + 1].trade_id - trade_id
            yield from islice(self._eras[number].from_id(trade_id), count)
            trade_id += count
        yield from self._eras[-1].from_id(trade_id)

    def id_at(self, at: int) -> int:
        """Return the lowest id of a trade at ``at`` or later."""
        number = max(0, bisect_right(self._cuts, at, key=lambda cut: cut.time) - 1)
        found = self._eras[number].id_at(at)
        is_last = number == len(self._eras) - 1
        return found if is_last else min(found, self._cuts[number + 1].trade_id)

    def aggregate_of(self, trade_id: int) -> int:
        return self._eras[self._number(trade_id)].aggregate_of(trade_id)

    def aggregate_start(self, aggregate_id: int) -> int:
        number = bisect_right(self._cuts, aggregate_id, key=lambda cut: cut.aggregate_id) - 1
        return self._eras[number].aggregate_start(aggregate_id)

    def _number(self, trade_id: int) -> int:
        """Return the index of the trade's era."""
        return bisect_right(self._cuts, trade_id, key=lambda cut: cut.trade_id) - 1


def _moments(draw: Callable[[], float], count: int, milliseconds: int) -> list[int]:
    """Return ``count`` sorted offsets into a slice in microseconds; those of a burst share a millisecond."""
    moments: list[int] = []
    while len(moments) < count:
        begins = int(draw() * milliseconds) * _MILLISECOND_US
        burst = _BURST_SIZES[int(draw() * len(_BURST_SIZES))]
        moments.extend(begins + int(draw() * _MILLISECOND_US) for _ in range(burst))
    return sorted(moments[:count])


def _assets(symbol: str) -> tuple[str, str]:
    """Return base and quote asset, guessed from the symbol's name."""
    for quote in _QUOTE_ASSETS:
        if symbol.endswith(quote) and symbol != quote:
            return symbol.removesuffix(quote), quote
    return symbol, "USDT"
