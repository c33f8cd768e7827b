"""The comparison of candles with klines: each verdict, on numbers that can be checked by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from candleflow.audit.klines import (
    FIELDS,
    SETTLE_US,
    Basis,
    Comparison,
    FieldDifference,
    Finding,
    Verdict,
    bases,
    compare,
    joined,
    merge,
)
from candleflow.errors import MarketError
from candleflow.market.kline import Kline
from candleflow.market.stored import StoredCandle
from candleflow.market.window import SECOND_US, Windows

T0 = 1_723_161_600 * SECOND_US
FIVE = bases(Windows.of_seconds(5))[0]
LATER = T0 + 3_600 * SECOND_US


def amounts(prices: str, volumes: str, trades: int) -> dict[str, Any]:
    """Prices: open, high, low, close. Volumes: base, quote, taker buy, taker buy quote."""
    decimals = map(Decimal, f"{prices} {volumes}".split())
    names = (*FIELDS[:6], "taker_buy_volume", "taker_buy_quote_volume")
    return dict(zip(names, decimals, strict=True)) | {"trade_count": trades}


def kline(second: int, prices: str, volumes: str, trades: int, interval: str = "1s") -> Kline:
    at = T0 + second * SECOND_US
    return Kline("BTCUSDT", interval, at, at, **amounts(prices, volumes, trades))


def flat(second: int, price: str) -> Kline:
    """Return a kline without trades, as the exchange publishes it."""
    return kline(second, " ".join([price] * 4), "0 0 0 0", 0)


def traded(
    second: int, interval: str, prices: str, volumes: str, trades: int, ids: tuple[int, int] = (0, 0)
) -> StoredCandle:
    """Return a stored candle."""
    return StoredCandle(
        "BTCUSDT", interval, T0 + second * SECOND_US, **amounts(prices, volumes, trades),
        first_trade_id=ids[0], last_trade_id=ids[1], is_closed=True, is_complete=True, revision=0,
        source="trades", updated_at=0,
    )  # fmt: skip


KLINES = [
    flat(0, "99"),
    kline(1, "10 14 9 12", "0.1 1.1 0.05 0.5", 3),
    flat(2, "12"),
    kline(3, "13 13 8 8", "0.2 2.2 0 0", 2),
    flat(4, "7"),  # Binance would use the previous close; klines without trades must be ignored
]
CANDLE = traded(0, "5s", "10 14 8 8", "0.30000000 3.3 0.05 0.5", 5, (100, 104))
NEXT = traded(5, "5s", "8 8 8 8", "1 8 0 0", 1, (105, 105))


def judged(
    ours: Sequence[StoredCandle],
    theirs: Sequence[Kline] = KLINES,
    *,
    basis: Basis = FIVE,
    now: int = LATER,
    begins_at: int | None = None,
    seconds: int = 5,
) -> Comparison:
    """Compare the first ``seconds``."""
    return compare(
        ours, theirs, basis, since=T0, until=T0 + seconds * SECOND_US, now=now, begins_at=begins_at
    )


def only(comparison: Comparison) -> Finding:
    (finding,) = comparison.findings
    assert comparison.counts == {finding.verdict: 1}
    return finding


def reason_of(comparison: Comparison) -> str:
    """Return why the only window is not comparable."""
    finding = only(comparison)
    assert finding.verdict is Verdict.NOT_COMPARABLE
    assert finding.fields == ()
    assert not comparison.differs
    return finding.reason


def test_five_klines_of_a_second_make_one_of_five() -> None:
    merged = merge(KLINES)
    assert merged is not None
    assert [merged.open, merged.high, merged.low, merged.close] == [Decimal(one) for one in (10, 14, 8, 8)]
    assert (merged.volume, merged.quote_volume) == (Decimal("0.3"), Decimal("3.3"))
    assert (merged.taker_buy_volume, merged.taker_buy_quote_volume) == (Decimal("0.05"), Decimal("0.5"))
    assert merged.trade_count == 5
    assert merge([flat(0, "99"), flat(1, "99")]) is None


def test_trailing_zeros_make_no_difference() -> None:
    assert judged([CANDLE, NEXT]) == Comparison("5s", {Verdict.EQUAL: 1})


def test_no_trades_and_no_candle_is_equal() -> None:
    quiet = [flat(second, "8") for second in range(5)]
    assert judged([], quiet) == Comparison("5s", {Verdict.EQUAL: 1})


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("open", Decimal("10.01")), ("high", Decimal("14.00000001")), ("low", Decimal("7.99")),
        ("close", Decimal("8.5")), ("volume", Decimal("0.30000001")), ("quote_volume", Decimal("3.2999")),
        ("trade_count", 6), ("taker_buy_volume", Decimal(0)), ("taker_buy_quote_volume", Decimal("0.51")),
    ],
)  # fmt: skip
def test_a_difference_is_named_with_both_values(name: str, ours: Decimal | int) -> None:
    comparison = judged([CANDLE._replace(**{name: ours})])  # type: ignore[arg-type]
    finding = only(comparison)
    assert comparison.differs
    assert (finding.verdict, finding.open_time, finding.interval) == (Verdict.DIFFERENT, T0, "5s")
    assert finding.fields == (FieldDifference(name, ours, getattr(CANDLE, name)),)


def test_fields_that_differ_come_in_the_order_of_klines() -> None:
    wrong = CANDLE._replace(close=Decimal(9), open=Decimal(9), trade_count=9)
    assert [one.name for one in only(judged([wrong])).fields] == ["open", "close", "trade_count"]


def test_trades_without_a_candle_are_missing() -> None:
    comparison = judged([])
    finding = only(comparison)
    assert comparison.differs
    assert finding.verdict is Verdict.MISSING
    assert finding.fields == (FieldDifference("trade_count", 0, 5),)


def test_a_candle_without_trades_is_extra() -> None:
    comparison = judged([CANDLE], [flat(second, "8") for second in range(5)])
    assert comparison.differs
    assert only(comparison).verdict is Verdict.EXTRA
    assert only(comparison).fields == (FieldDifference("trade_count", 5, 0),)


LESS = traded(0, "5s", "10 14 9 12", "0.1 1.1 0.05 0.5", 3, (100, 102))
"""CANDLE without its last two trades."""


def test_missing_trades_that_the_ids_show_are_incomplete() -> None:
    comparison = judged([LESS._replace(is_complete=False)])
    finding = only(comparison)
    assert not comparison.differs
    assert (finding.verdict, finding.reason) == (
        Verdict.INCOMPLETE,
        "trade ids are missing in it or before it",
    )
    assert [one.name for one in finding.fields] == ["low", "close", "volume", "quote_volume", "trade_count"]


def test_trades_lost_at_a_windows_end_show_in_the_candle_after_it() -> None:
    finding = only(judged([LESS, NEXT._replace(is_complete=False)]))
    assert (finding.verdict, finding.reason) == (Verdict.INCOMPLETE, "trade ids are missing after it")


def test_missing_trades_that_the_ids_do_not_show_are_different() -> None:
    assert only(judged([LESS, NEXT._replace(first_trade_id=103)])).verdict is Verdict.DIFFERENT
    assert only(judged([LESS])).verdict is Verdict.DIFFERENT


@pytest.mark.parametrize(
    "wrong",
    [
        {"trade_count": 5}, {"high": Decimal(15)}, {"low": Decimal(7)}, {"volume": Decimal(1)},
        {"quote_volume": Decimal(4)}, {"taker_buy_volume": Decimal("0.06")},
        {"taker_buy_quote_volume": Decimal("0.6")},
    ],
)  # fmt: skip
def test_missing_trades_do_not_explain_more_than_the_exchange_has(wrong: dict[str, Decimal]) -> None:
    candle = LESS._replace(is_complete=False, **wrong)  # type: ignore[arg-type]
    assert only(judged([candle])).verdict is Verdict.DIFFERENT


def test_a_candle_that_is_not_proved_complete_may_still_be_equal() -> None:
    assert judged([CANDLE._replace(is_complete=False)]).counts == {Verdict.EQUAL: 1}


def test_an_open_candle_is_not_compared() -> None:
    assert reason_of(judged([LESS._replace(is_closed=False)])) == "the stored candle is not closed yet"


def test_the_current_window_is_not_compared() -> None:
    end = T0 + 5 * SECOND_US
    assert reason_of(judged([CANDLE], now=end - 1)) == "it has not ended yet"
    assert reason_of(judged([], now=end - 1)) == "it has not ended yet"
    assert reason_of(judged([], now=end)) == "it ended less than 5 s ago"
    assert reason_of(judged([LESS], now=end + SETTLE_US - 1)) == "it ended less than 5 s ago"
    assert judged([CANDLE], now=end + SETTLE_US).counts == {Verdict.EQUAL: 1}


@pytest.mark.parametrize("ours", [[], [CANDLE]])
def test_without_klines_nothing_is_compared(ours: list[StoredCandle]) -> None:
    assert reason_of(judged(ours, [])) == "the exchange returned no 1s klines for it"
    assert reason_of(judged(ours, KLINES[1:])) == "the exchange returned 4 of 5 1s klines for it"


def test_nothing_is_missing_before_our_first_candle() -> None:
    after = T0 + 5 * SECOND_US
    assert reason_of(judged([], begins_at=after)) == "it is before the first stored candle"
    assert only(judged([], begins_at=T0)).verdict is Verdict.MISSING


def test_each_window_wholly_in_the_stretch_is_judged_once() -> None:
    theirs = [*KLINES, *(flat(second, "8") for second in range(5, 15))]
    comparison = compare(
        [CANDLE, NEXT], theirs, FIVE, since=T0 - 4 * SECOND_US, until=T0 + 14 * SECOND_US, now=LATER
    )
    assert comparison.counts == {Verdict.EQUAL: 1, Verdict.EXTRA: 1}
    assert [one.open_time for one in comparison.findings] == [T0 + 5 * SECOND_US]
    assert FIVE.opens(T0 + 1, T0 + 10 * SECOND_US - 1) == range(0)


def test_a_minute_is_compared_with_the_exchanges_minute() -> None:
    basis = bases(Windows.of_seconds(5))[1]
    candle = CANDLE._replace(interval="1m")
    minute = kline(0, "10 14 8 8", "0.3 3.3 0.05 0.5", 5, "1m")
    assert judged([candle], [minute], basis=basis, seconds=60).counts == {Verdict.EQUAL: 1}
    wrong = candle._replace(close=Decimal(9))
    assert only(judged([wrong], [minute], basis=basis, seconds=60)).verdict is Verdict.DIFFERENT
    assert (
        reason_of(judged([candle], [], basis=basis, seconds=60))
        == "the exchange returned no 1m klines for it"
    )


def test_sliding_windows_are_made_of_the_same_klines() -> None:
    basis = bases(Windows.of_seconds(2, 1))[0]
    ours = [
        traded(0, "2s/1s", "10 14 9 12", "0.1 1.1 0.05 0.5", 3),
        traded(1, "2s/1s", "10 14 9 12", "0.1 1.1 0.05 0.5", 3),
        traded(2, "2s/1s", "13 13 8 8", "0.2 2.2 0 0", 2),
        traded(3, "2s/1s", "13 13 8 9", "0.2 2.2 0 0", 2),
    ]
    comparison = judged(ours, basis=basis)
    assert comparison.counts == {Verdict.EQUAL: 3, Verdict.DIFFERENT: 1}
    assert comparison.findings[0].open_time == T0 + 3 * SECOND_US


def test_an_overlapping_sliding_window_has_no_gap_after_it() -> None:
    basis = bases(Windows.of_seconds(2, 1))[0]
    less = traded(0, "2s/1s", "10 14 9 12", "0.09 1 0.05 0.5", 2, (100, 101))
    overlapping = traded(1, "2s/1s", "10 14 9 12", "0.1 1.1 0.05 0.5", 3, (100, 102))
    following = traded(2, "2s/1s", "13 13 8 8", "0.2 2.2 0 0", 2, (102, 103))
    assert only(judged([less, overlapping, following], basis=basis, seconds=2)).verdict is Verdict.DIFFERENT


def test_what_is_compared_follows_the_finest_windows() -> None:
    assert [(one.interval, one.kline, one.klines_in_window) for one in bases(Windows.of_seconds(60))] == [
        ("60s", "1s", 60),
        ("1m", "1m", 1),
    ]
    with pytest.raises(MarketError, match="can't be made of 1s"):
        bases(Windows(1_500_000, 1_500_000))


def test_comparisons_of_consecutive_ranges_add_up() -> None:
    first, second = judged([CANDLE]), judged([])
    whole = joined("5s", [first, second, second])
    assert whole.counts == {Verdict.EQUAL: 1, Verdict.MISSING: 2}
    assert whole.findings == second.findings * 2
    assert joined("5s", []) == Comparison("5s")
    with pytest.raises(MarketError):
        joined("1m", [first])


def test_symbols_and_intervals_do_not_mix() -> None:
    with pytest.raises(MarketError, match="ETHUSDT"):
        judged([CANDLE._replace(symbol="ETHUSDT")])
    with pytest.raises(MarketError, match="expected 5s candles or klines to compare, got 1m"):
        judged([CANDLE._replace(interval="1m")])
    with pytest.raises(MarketError, match="expected 1s candles or klines to compare, got 1m"):
        judged([CANDLE], [replace(KLINES[0], interval="1m")])
