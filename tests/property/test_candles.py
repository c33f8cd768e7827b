"""The candle rules are implemented twice, in Python and in Java for Spark. Both must equal a naive oracle.

The oracle uses none of our functions. Each example is one Spark job with many cases, one symbol per case.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the name that every Spark programmer knows

from candleflow.engine.candles import CandleFold, without_repeats
from candleflow.engine.partials import Folded, read_fold
from candleflow.engine.trades import REASON, TRADE_COLUMNS, judge, read_quickly
from candleflow.market.candle import Candle, fold
from candleflow.market.trade import Trade
from candleflow.market.window import Windows
from tests.partials import decode
from tests.spark_fixtures import PUBLISHED_AT, records_of

A_MINUTE_US = 60_000_000
START_US = int(PUBLISHED_AT.timestamp()) * 1_000_000 - 3_600_000_000

JOB = settings(
    max_examples=8,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)

Payload = dict[str, Any]


def payload_of(trade: Trade, *, in_microseconds: bool) -> bytes:
    """Return Binance's payload of the trade, in milliseconds unless that would lose digits."""
    time = trade.trade_time if in_microseconds or trade.trade_time % 1_000 else trade.trade_time // 1_000
    fields = {
        "e": "trade", "E": time, "s": trade.symbol, "t": trade.trade_id, "p": f"{trade.price:f}",
        "q": f"{trade.quantity:f}", "T": time, "m": trade.buyer_is_maker, "M": True,
    }  # fmt: skip
    return json.dumps(fields, separators=(",", ":")).encode()


def eighths(low: str, high: str) -> st.SearchStrategy[Decimal]:
    """Positive decimals with at most eight places, from ``low`` to ``high``, both included."""
    return st.decimals(Decimal(low), Decimal(high), places=8, allow_nan=False, allow_infinity=False)


PRICES = st.one_of(
    eighths("0.00000001", "99999.99999999"),
    st.sampled_from(["0.00000001", "1", "61837.63", "99999999999.99999999"]).map(Decimal),
)
QUANTITIES = st.one_of(
    eighths("0.00000001", "9999.99999999"),
    st.sampled_from(["0.00000001", "0.02000000", "250", "99999999.99999999"]).map(Decimal),
)
EDGES = [0, 1, 4_999_999, 5_000_000, 5_000_001, 9_999_999, 10_000_000, 59_999_999, A_MINUTE_US]


@st.composite
def cases(draw: st.DrawFn, symbol: str) -> list[Trade]:
    """Trades of one symbol: ids with or without gaps; times in any order, at windows' edges, often equal."""
    first_id = draw(st.sampled_from([0, 1, 62, 63, 64, 254, 255, 256, 3_735_683_259, 2**63 - 200]))
    ids = draw(
        st.one_of(
            st.integers(1, 12).map(lambda count: list(range(first_id, first_id + count))),
            st.lists(st.integers(0, 190), min_size=1, max_size=12, unique=True).map(
                lambda steps: [first_id + step for step in steps]
            ),
        )
    )
    times = st.one_of(st.sampled_from(EDGES), st.integers(0, A_MINUTE_US))
    at = [START_US + draw(times) for _ in ids]
    if draw(st.booleans()):
        at = [time // 1_000 * 1_000 for time in sorted(at)]
    return [
        Trade(symbol, trade_id, draw(PRICES), draw(QUANTITIES), time, draw(st.booleans()))
        for trade_id, time in zip(ids, at, strict=True)
    ]


@st.composite
def batches(draw: st.DrawFn) -> list[Trade]:
    """The trades of a topic: shuffled cases of up to twenty symbols, with some trades repeated."""
    symbols = [f"CASE{number}" for number in range(draw(st.integers(1, 20)))]
    trades = [trade for symbol in symbols for trade in draw(cases(symbol))]
    repeated = draw(st.lists(st.sampled_from(trades), max_size=10))
    return draw(st.permutations(trades + repeated))


def spark_fold(spark: SparkSession, values: list[bytes], windows: Windows, *, is_strict: bool) -> Folded:
    """Aggregate like the sink: once, and again without repeats if a trade came twice."""
    records, candle_fold = records_of(spark, values), CandleFold(windows)
    folded = read_fold(candle_fold.quickly(records, A_MINUTE_US).collect(), windows)
    read = read_quickly
    if is_strict or folded.rejected:
        read = judge
        folded = read_fold(candle_fold(judge(records, A_MINUTE_US)).collect(), windows)
    if folded.has_repeats:
        once = read_fold(candle_fold(without_repeats(read(records, A_MINUTE_US))).collect(), windows)
        assert not once.rejected
        folded = replace(folded, partials=once.partials, trades=once.trades)
    return folded


def oracle(trades: list[Trade], windows: Windows) -> dict[tuple[str, int], Payload]:
    """Apply every rule in the simplest way, with fractions, and with none of our functions."""
    members: dict[tuple[str, int], dict[int, Trade]] = defaultdict(dict)
    for trade in trades:
        for open_time in range(0, windows.size_us, windows.slide_us):
            begin = trade.trade_time - trade.trade_time % windows.slide_us - open_time
            members[trade.symbol, begin][trade.trade_id] = trade
    found = {}
    for key, by_id in members.items():
        ordered = [by_id[trade_id] for trade_id in sorted(by_id)]
        bought = [one for one in ordered if not one.buyer_is_maker]
        found[key] = {
            "open": Fraction(ordered[0].price),
            "high": max(Fraction(one.price) for one in ordered),
            "low": min(Fraction(one.price) for one in ordered),
            "close": Fraction(ordered[-1].price),
            "volume": sum(Fraction(one.quantity) for one in ordered),
            "quote_volume": sum(Fraction(one.quantity) * Fraction(one.price) for one in ordered),
            "taker_buy_volume": sum(Fraction(one.quantity) for one in bought),
            "taker_buy_quote_volume": sum(Fraction(one.quantity) * Fraction(one.price) for one in bought),
            "trade_count": len(ordered),
            "first_trade_id": ordered[0].trade_id,
            "last_trade_id": ordered[-1].trade_id,
            "last_trade_time": ordered[-1].trade_time,
            "ids": sorted(by_id),
        }
    return found


def of_spark(partials: list[str]) -> dict[tuple[str, int], Payload]:
    found = {}
    for text in partials:
        row: dict[str, Any] = decode(text)._asdict()
        key = row.pop("symbol"), row.pop("open_time")
        ranges = [one.strip("[)").split(",") for one in row.pop("trade_ids").strip("{}").split("),")]
        ids = [trade_id for lower, upper in ranges for trade_id in range(int(lower), int(upper))]
        decimals = {name: Fraction(value) for name, value in row.items() if isinstance(value, str)}
        assert key not in found
        found[key] = {**row, **decimals, "ids": ids}
    return found


def of_python(candle: Candle) -> Payload:
    ids = [trade_id for lower, upper in candle.trade_ids.ranges for trade_id in range(lower, upper)]
    named = {name: getattr(candle, name) for name in candle.__slots__}
    decimals = {name: Fraction(value) for name, value in named.items() if isinstance(value, Decimal)}
    counts = {name: named[name] for name in ("trade_count", "first_trade_id", "last_trade_id")}
    return {**decimals, **counts, "ids": ids}


WINDOWS = st.sampled_from([(5, None), (5, 1), (60, None), (10, 5), (1, None)]).map(
    lambda one: Windows.of_seconds(*one)
)


@pytest.mark.timeout(600)
@JOB
@given(trades=batches(), windows=WINDOWS, in_microseconds=st.booleans(), is_strict=st.booleans())
def test_python_spark_and_a_naive_oracle_make_the_same_candles(
    spark: SparkSession, trades: list[Trade], windows: Windows, in_microseconds: bool, is_strict: bool
) -> None:
    values = [payload_of(trade, in_microseconds=in_microseconds) for trade in trades]
    folded = spark_fold(spark, values, windows, is_strict=is_strict)
    expected = oracle(trades, windows)
    by_spark = of_spark(folded.partials)
    assert by_spark == expected
    by_python = {(key[0], key[2]): of_python(candle) for key, candle in fold(trades, windows).items()}
    for candle in by_spark.values():
        del candle["last_trade_time"]
    assert by_python == by_spark
    assert folded.sound == len(trades)
    assert folded.trades == len({(trade.symbol, trade.trade_id) for trade in trades})


def test_a_batch_of_the_largest_trades_overflows_nothing(spark: SparkSession) -> None:
    """Sum two million trades at all limits; they are copies of two trades."""
    largest = [
        Trade("PRICE", 1, Decimal("99999999999.99999999"), Decimal("999999999.99999999"), START_US, False),
        Trade("QUANTITY", 1, Decimal("99999999.99999999"), Decimal("999999999999.99999999"), START_US, False),
    ]
    values = [payload_of(trade, in_microseconds=True) for trade in largest]
    copies, windows = 1_000_000, Windows.of_seconds(5)
    read = read_quickly(records_of(spark, values), A_MINUTE_US)
    many = spark.range(copies, numPartitions=2).toDF("copy").crossJoin(F.broadcast(read))
    rest = [
        name for name in ("partition", "offset", "timestamp", REASON, *TRADE_COLUMNS) if name != "trade_id"
    ]
    many = many.select(*rest, (F.col("trade_id") + F.col("copy")).alias("trade_id"))
    folded = read_fold(CandleFold(windows)(many).collect(), windows)
    found = of_spark(folded.partials)
    assert not folded.has_repeats
    for trade in largest:
        candle = found[trade.symbol, START_US]
        assert candle["volume"] == copies * Fraction(trade.quantity)
        assert candle["quote_volume"] == copies * Fraction(trade.quantity) * Fraction(trade.price)
        assert candle["taker_buy_quote_volume"] == candle["quote_volume"]
        assert candle["trade_count"] == copies
        assert candle["close"] == Fraction(trade.price)
