"""Compare our candles of random trades with naive klines of the same trades; a missing trade must show.

Also the reverse: candles made of such klines equal those of the trades, including the trade ids.

The naive klines use none of our functions. Their prices and quantities are integers, in units of 10^-8.
"""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from candleflow.audit.klines import Basis, Comparison, Verdict, bases, compare
from candleflow.history.kline_ids import Stretch, partials
from candleflow.market.candle import Candle, fold
from candleflow.market.kline import Kline
from candleflow.market.partial import encode, of_candle
from candleflow.market.stored import StoredCandle
from candleflow.market.trade import EXACT, Trade
from candleflow.market.window import SECOND_US, WINDOW_SECONDS, Windows
from tests.partials import decode

T0 = 1_723_161_600 * SECOND_US
MINUTES = 2
UNTIL = T0 + MINUTES * 60 * SECOND_US
LATER = UNTIL + 3_600 * SECOND_US


class Dealt(NamedTuple):
    """A trade in integers: price and quantity in units of 10^-8, the time in microseconds after T0."""

    trade_id: int
    price: int
    quantity: int
    at: int
    buyer_is_maker: bool

    def trade(self) -> Trade:
        price, quantity = scaled(self.price, 8), scaled(self.quantity, 8)
        return Trade("BTCUSDT", self.trade_id, price, quantity, T0 + self.at, self.buyer_is_maker)


def scaled(units: int, places: int) -> Decimal:
    return EXACT.scaleb(Decimal(units), -places)


@st.composite
def markets(draw: st.DrawFn) -> list[Dealt]:
    """Up to forty trades in two minutes, with consecutive ids; times never decrease and are often equal."""
    units = st.one_of(st.integers(1, 10**9), st.integers(10**18, 10**19 - 1), st.just(1))
    edges = st.sampled_from([0, 999_999, 1_000_000, 4_999_999, 5_000_000, 59_999_999, 60_000_000])
    times = sorted(draw(st.lists(st.one_of(edges, st.integers(0, UNTIL - T0 - 1)), min_size=1, max_size=40)))
    first = draw(st.integers(0, 10**12))
    return [
        Dealt(first + number, draw(units), draw(units) % 10**15 + 1, at, draw(st.booleans()))
        for number, at in enumerate(times)
    ]


def naive_klines(market: list[Dealt], interval: str, seconds: int) -> list[Kline]:
    """All klines of the two minutes; one without trades is flat at the close before it."""
    klines = []
    close = 10**8
    for start in range(0, MINUTES * 60, seconds):
        members = [one for one in market if start <= one.at // SECOND_US < start + seconds]
        bought = [one for one in members if not one.buyer_is_maker]
        prices = [one.price for one in members] or [close]
        close = prices[-1]
        klines.append(
            Kline(
                symbol="BTCUSDT",
                interval=interval,
                open_time=T0 + start * SECOND_US,
                close_time=T0 + (start + seconds) * SECOND_US - 1,
                open=scaled(prices[0], 8),
                high=scaled(max(prices), 8),
                low=scaled(min(prices), 8),
                close=scaled(close, 8),
                volume=scaled(sum(one.quantity for one in members), 8),
                quote_volume=scaled(sum(one.price * one.quantity for one in members), 16),
                trade_count=len(members),
                taker_buy_volume=scaled(sum(one.quantity for one in bought), 8),
                taker_buy_quote_volume=scaled(sum(one.price * one.quantity for one in bought), 16),
            )
        )
    return klines


def stored(candle: Candle, before: Candle | None, interval: str) -> StoredCandle:
    fields = {name: getattr(candle, name) for name in Candle.__dataclass_fields__ if name != "trade_ids"}
    return StoredCandle(
        **fields | {"interval": interval},
        is_closed=True,
        is_complete=candle.is_complete_after(before),
        revision=0,
        source="trades",
        updated_at=0,
    )


def compared(kept: list[Dealt], market: list[Dealt], basis: Basis) -> Comparison:
    """Candles of the kept trades, and klines of the whole market."""
    candles = [one for _, one in sorted(fold([one.trade() for one in kept], basis.windows).items())]
    ours = []
    for candle in candles:
        ended = [one for one in candles if one.open_time + basis.windows.size_us <= candle.open_time]
        ours.append(stored(candle, ended[-1] if ended else None, basis.interval))
    klines = naive_klines(market, basis.kline, basis.kline_us // SECOND_US)
    return compare(ours, klines, basis, since=T0, until=UNTIL, now=LATER)


@st.composite
def finest(draw: st.DrawFn) -> Windows:
    size = draw(st.sampled_from(WINDOW_SECONDS))
    slide = draw(st.sampled_from([one for one in WINDOW_SECONDS if size % one == 0]))
    return Windows.of_seconds(size, slide)


@settings(max_examples=150)
@given(market=markets(), windows=finest())
def test_candles_equal_klines_made_another_way(market: list[Dealt], windows: Windows) -> None:
    for basis in bases(windows):
        # Sliding windows that extend beyond the two minutes hold trades, but are not compared.
        assert compared(market, market, basis) == Comparison(
            basis.interval, {Verdict.EQUAL: len(basis.opens(T0, UNTIL))}
        )


@settings(max_examples=150)
@given(data=st.data(), market=markets(), windows=finest())
def test_one_trade_less_shows_in_each_window_that_had_it_and_nowhere_else(
    data: st.DataObject, market: list[Dealt], windows: Windows
) -> None:
    lost = data.draw(st.sampled_from(market))
    kept = [one for one in market if one is not lost]
    for basis in bases(windows):
        comparison = compared(kept, market, basis)
        judged = basis.opens(T0, UNTIL)
        had_it = sorted(one for one in basis.windows.open_times(T0 + lost.at) if one in judged)
        assert [one.open_time for one in comparison.findings] == had_it
        assert comparison.count(Verdict.EQUAL) == len(judged) - len(had_it)
        # The ids can't show that a trade is missing before the first or after the last one.
        ends = lost in (market[0], market[-1])
        found = Counter(one.verdict for one in comparison.findings)
        allowed = {Verdict.INCOMPLETE, Verdict.MISSING} | ({Verdict.DIFFERENT} if ends else set())
        assert set(found) <= allowed


def amounts(partial: str) -> dict[str, object]:
    """A partial candle's fields, with decimals as numbers, and without the last trade's time."""
    fields = decode(partial)._asdict()
    time = fields.pop("last_trade_time")
    found = {
        name: Decimal(value) if isinstance(value, str) and name not in ("symbol", "trade_ids") else value
        for name, value in fields.items()
    }
    return found | {"second": time // SECOND_US}


@settings(max_examples=150)
@given(market=markets(), windows=finest(), at=st.integers(0, MINUTES * 60))
def test_candles_of_klines_are_those_of_the_trades(market: list[Dealt], windows: Windows, at: int) -> None:
    klines = naive_klines(market, "1s", 1)
    first, end = market[0].trade_id, market[-1].trade_id + 1
    middle = T0 + at * SECOND_US
    middle_id = next((one.trade_id for one in market if T0 + one.at >= middle), end)
    for stretch in (Stretch(T0, middle, first, middle_id), Stretch(middle, UNTIL, middle_id, end)):
        members = [one for one in market if stretch.first_id <= one.trade_id < stretch.end_id]
        times = {one.trade_id: T0 + one.at for one in members}
        expected = fold([one.trade() for one in members], windows)
        assert stretch.is_proved_by(klines)
        found = [amounts(one) for one in partials(stretch, klines, windows)]
        assert sorted(found, key=lambda one: str(one["open_time"])) == sorted(
            (amounts(encode(of_candle(candle, times[candle.last_trade_id]))) for candle in expected.values()),
            key=lambda one: str(one["open_time"]),
        )


@settings(max_examples=100)
@given(data=st.data(), market=markets())
def test_a_stretch_is_not_proved_by_other_klines_than_its_own(
    data: st.DataObject, market: list[Dealt]
) -> None:
    lost = data.draw(st.sampled_from(market))
    klines = naive_klines([one for one in market if one is not lost], "1s", 1)
    assert not Stretch(T0, UNTIL, market[0].trade_id, market[-1].trade_id + 1).is_proved_by(klines)
