"""Spark and the Python decoder give the same result for any record, including the reason for rejection."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession

from candleflow.engine.candles import CandleFold
from candleflow.engine.partials import read_fold
from candleflow.engine.trades import (
    ADDED_COLUMNS,
    IS_LIVE,
    KAFKA_COLUMNS,
    NO_VALUE,
    PRICE_ZERO,
    REASON,
    TRADE_COLUMNS,
    UNREAD,
    judge,
    read_quickly,
)
from candleflow.market.payload import CANONICAL_PATTERN, DEPTH_LIMIT, Rejected, decode_payload
from candleflow.market.symbol import SYMBOL_PATTERN, is_symbol
from candleflow.market.trade import Trade
from candleflow.market.window import Windows
from tests.made_symbols import SYMBOLS
from tests.spark_fixtures import PUBLISHED_AT, records_of
from tests.unit.market.test_symbol import rule_changes

MAX_FUTURE_US = 60_000_000
WINDOWS = Windows.of_seconds(5)
PUBLISHED_US = int(PUBLISHED_AT.timestamp()) * 1_000_000

JOB = settings(
    max_examples=10,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)

Reader = Callable[[DataFrame, int], DataFrame]

GOOD: dict[str, Any] = {
    "e": "trade", "E": 1_723_161_255_343, "s": "BTCUSDT", "t": 3_735_683_259, "p": "61837.63000000",
    "q": "0.02000000", "T": 1_723_161_255_342, "m": True, "M": True,
}  # fmt: skip


def text(**changes: Any) -> bytes:
    """Return a valid trade's payload with some fields changed; a field given as ``...`` is left out."""
    fields = {name: value for name, value in {**GOOD, **changes}.items() if value is not ...}
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()


def raw(**changes: str) -> bytes:
    """Like ``text``, but the changed values are raw JSON."""
    fields = {name: json.dumps(value) for name, value in GOOD.items()} | changes
    return ("{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}").encode()


def reference(value: bytes | None, published_us: int = PUBLISHED_US) -> Any:
    """Return the decoder's result: the reason for rejection, or the trade's fields."""
    if value is None:
        return NO_VALUE
    verdict = decode_payload(value, published_us, MAX_FUTURE_US)
    return verdict.reason if isinstance(verdict, Rejected) else fields_of(verdict)


def fields_of(trade: Trade) -> tuple[Any, ...]:
    return (
        trade.symbol,
        trade.trade_id,
        trade.trade_time,
        not trade.buyer_is_maker,
        PRICE_ZERO + int(trade.price.scaleb(8)),
        *digits(trade.quantity, ADDED_COLUMNS["volume"]),
        *digits(trade.notional, ADDED_COLUMNS["quote_volume"]),
    )


def digits(amount: Decimal, columns: Mapping[str, int]) -> list[int]:
    """Split an amount over its columns: each takes what is left, in units of its power of ten."""
    left, found = Fraction(amount), []
    for power in columns.values():
        found.append(int(left / Fraction(10) ** power))
        left -= found[-1] * Fraction(10) ** power
    assert left == 0
    return found


def verdicts(
    spark: SparkSession,
    values: list[bytes | None],
    published_at: datetime = PUBLISHED_AT,
    read: Reader = judge,
) -> list[Any]:
    """Return Spark's result for each value."""
    rows = read(records_of(spark, values, published_at), MAX_FUTURE_US).collect()
    return [
        row[REASON] or tuple(row[name] for name in TRADE_COLUMNS)
        for row in sorted(rows, key=lambda row: row["offset"])
    ]


LIMITS = PUBLISHED_US + MAX_FUTURE_US
NIGHTMARES: list[tuple[str, bytes | None, str | None]] = [
    ("as Binance sends it", text(), None),
    ("in microseconds", text(T=1_723_161_255_342_123, E=1_723_161_255_343_000), None),
    ("a tombstone", None, "no value"),
    ("nothing", b"", "not JSON"),
    ("a blank", b" ", "not JSON"),
    ("no JSON", b"trade 1 at 5", "not JSON"),
    ("cut short", text()[:-9], "not JSON"),
    ("cut in a character", text(s="BTCÄ").split("Ä".encode())[0] + b"\xc3", "not UTF-8"),
    ("a surrogate in UTF-8", text(s="\x00").replace(b"\\u0000", b"\xed\xa0\x80"), "not UTF-8"),
    ("a line break after it", text() + b"\n", None),
    ("garbage after it", text() + b"x", "not JSON"),
    ("another trade after it", text() + text(t=5), "not JSON"),
    ("a NUL after it", text() + b"\x00", "not JSON"),
    ("an array closed early", text() + b'],["', "not JSON"),
    ("a byte order mark before it", b"\xef\xbb\xbf" + text(), "not JSON"),
    ("null", b"null", "not a JSON object"),
    ("a number", b"17", "not a JSON object"),
    ("an array of a trade", b"[" + text() + b"]", "not a JSON object"),
    ("an empty object", b"{}", "not a trade event"),
    ("a combined frame", b'{"stream":"btcusdt@trade","data":' + text() + b"}", "not a trade event"),
    ("another event", text(e="aggTrade"), "not a trade event"),
    ("an event that is no text", text(e=5), "not a trade event"),
    ("single quotes", text().replace(b'"', b"'"), "not JSON"),
    ("a comment", b"/**/" + text(), "not JSON"),
    ("a comma at the end", text()[:-1] + b",}", "not JSON"),
    ("a key twice", text()[:-1] + b',"t":5}', "not JSON"),
    ("a key twice, once escaped", text()[:-1] + b',"\\u0074":5}', "not JSON"),
    ("a key twice, deep inside", text(x={"y": 0}).replace(b'"y":0', b'"y":0,"y":1'), "not JSON"),
    ("NaN as a number", raw(p="NaN"), "not JSON"),
    ("an endless number", raw(p="Infinity"), "not JSON"),
    ("a leading zero", raw(t="0123"), "not JSON"),
    ("a plus", raw(t="+5"), "not JSON"),
    ("nested deep", raw(x="[" * 300 + "]" * 300), None),
    ("as deep as may be", raw(x="[" * (DEPTH_LIMIT - 1) + "]" * (DEPTH_LIMIT - 1)), None),
    ("nested deeper than any trade", raw(x="[" * DEPTH_LIMIT + "]" * DEPTH_LIMIT), "not JSON"),
    ("nested as deep as its length allows", raw(x="[" * 1_900 + "]" * 1_900), "not JSON"),
    ("many brackets in a text", raw(x=json.dumps("[\"" * 600)), None),
    ("over-long", text(x="y" * 4_096), "record too long"),
    ("over-long and no UTF-8", b"\xff" * 4_097, "record too long"),
    ("as long as may be", text(x="y" * (4_096 - len(text(x="")))), None),
    ("a megabyte", b"[" * 1_000_000, "record too long"),
    ("no E", text(E=...), "missing field E"),
    ("no symbol", text(s=...), "missing field s"),
    ("no id", text(t=...), "missing field t"),
    ("no price", text(p=...), "missing field p"),
    ("no quantity", text(q=...), "missing field q"),
    ("no T", text(T=...), "missing field T"),
    ("no m", text(m=...), "missing field m"),
    ("no M", text(M=...), None),
    ("old fields", text(b=88, a=50), None),
    ("a field of tomorrow", text(X={"y": [None, 1.5, {"z": "w"}]}), None),
    ("another order", json.dumps(dict(reversed(GOOD.items()))).encode(), None),
    ("blanks", json.dumps(GOOD, indent=2).encode(), None),
    ("escapes", text().replace(b"BTCUSDT", b"\\u0042TCUSDT"), None),
    ("price as a number", raw(p="1.0"), "field p is not a JSON string"),
    ("price as an endless number", raw(p="1e400"), "field p is not a JSON string"),
    ("quantity null", raw(q="null"), "field q is not a JSON string"),
    ("id as text", text(t="3735683259"), "field t is not a JSON integer"),
    ("id with a point", raw(t="1.0"), "field t is not a JSON integer"),
    ("id with an exponent", raw(t="1e3"), "field t is not a JSON integer"),
    ("a huge id with an exponent", raw(t="1e50"), "field t is not a JSON integer"),
    ("id true", raw(t="true"), "field t is not a JSON integer"),
    ("m as text", text(m="false"), "field m is not a JSON boolean"),
    ("m as a number", raw(m="0"), "field m is not a JSON boolean"),
    ("E null", raw(E="null"), "field E is not a JSON integer"),
    ("E of 50 digits", raw(E="9" * 50), None),
    ("E of 2,000 digits", raw(E="9" * 2_000), None),
    ("E negative", raw(E="-1"), None),
    ("symbol a number", raw(s="5"), "field s is not a JSON string"),
    ("symbol in small letters", text(s="btcusdt"), "unknown symbol"),
    ("symbol empty", text(s=""), "unknown symbol"),
    ("symbol of 50", text(s="A" * 50), None),
    ("symbol of 51", text(s="A" * 51), "unknown symbol"),
    ("symbol in Chinese", text(s="币安人生USDT"), None),
    ("symbol in Chinese, escaped", raw(s=json.dumps("币安人生USDT")), None),
    ("symbol of 50 in four bytes each", text(s="\U00020000" * 50), None),
    ("symbol of 51 in three bytes each", text(s="币" * 51), "unknown symbol"),
    ("symbol with an emoji", text(s="🚀USDT"), "unknown symbol"),
    ("symbol cut in a character", text(s="币A").replace("币".encode(), "币".encode()[:2]), "not UTF-8"),
    ("symbol with a blank", text(s="BTC USDT"), "unknown symbol"),
    ("symbol with a line break", text(s="BTCUSDT\n"), "unknown symbol"),
    ("symbol with SQL", text(s="BTC'; DROP TABLE candles;--"), "unknown symbol"),
    ("symbol with half a pair", raw(s='"BTC\\ud800USDT"'), "unknown symbol"),
    ("half a pair elsewhere", raw(x='"\\ud800"'), None),
    ("a whole pair elsewhere", raw(x='"\\ud83d\\ude00 \\\\ud800"'), None),
    ("the last id", raw(t=str(2**63 - 2)), None),
    ("the id after it", raw(t=str(2**63 - 1)), "trade id out of range"),
    ("id of 20 digits", raw(t="9" * 20), "trade id out of range"),
    ("id of 2,000 digits", raw(t="9" * 2_000), "trade id out of range"),
    ("id negative", raw(t="-5"), "trade id out of range"),
    ("id of minus nought", raw(t="-0"), None),
    ("time negative", raw(T="-1"), "trade time out of range"),
    ("time of 25 digits", raw(T="9" * 25), "trade time out of range"),
    ("time at the end of dates", raw(T=str(253_402_300_800_000_000)), "trade time out of range"),
    ("time nought", raw(T="0"), None),
    ("time a minute ahead", raw(T=str(LIMITS)), None),
    ("time a minute and a bit ahead", raw(T=str(LIMITS + 1)), "trade time in the future"),
    ("the year 2286", raw(T="9999999999999"), "trade time in the future"),
    ("price nought", text(p="0.00000000"), "price not a finite positive decimal"),
    ("price nought of many places", text(p="0.0000000000"), "price not a finite positive decimal"),
    ("price negative", text(p="-1"), "price not a finite positive decimal"),
    ("price NaN", text(p="NaN"), "price not a finite positive decimal"),
    ("price with an exponent", text(p="1e5"), "price not a finite positive decimal"),
    ("price empty", text(p=""), "price not a finite positive decimal"),
    ("price with a blank", text(p=" 1"), "price not a finite positive decimal"),
    ("price a point", text(p="."), "price not a finite positive decimal"),
    ("price without a whole", text(p=".5"), "price not a finite positive decimal"),
    ("price without a fraction", text(p="5."), "price not a finite positive decimal"),
    ("price in other digits", text(p="٣"), "price not a finite positive decimal"),
    ("price whole", text(p="5"), None),
    ("price of many noughts", text(p="0" * 60 + "5.10"), None),
    ("price of nine places", text(p="1.000000000"), "price has more than 8 decimal places"),
    ("price tiny", text(p="0.000000001"), "price has more than 8 decimal places"),
    ("the highest price", text(p="99999999999.99999999", q="1"), None),
    ("a price too high", text(p="100000000000"), "price out of range"),
    ("price of 40 digits", text(p="9" * 40), "price out of range"),
    ("quantity nought", text(q="0"), "quantity not a finite positive decimal"),
    ("quantity of Shiba Inu", text(q="25000000000.00000001"), None),
    ("a quantity too large", text(q="1000000000000", p="1"), "quantity out of range"),
    ("quantity of nine places", text(q="1.123456789"), "quantity has more than 8 decimal places"),
    ("the largest product", text(p="99999999.99999999", q="999999999999.99999999"), None),
    ("a product too large", text(p="100000000.5", q="999999999999.5"), "notional out of range"),
    ("a product far too large", text(p="99999999999", q="999999999999"), "notional out of range"),
]  # fmt: skip


def unread_by_the_fold(spark: SparkSession, values: Sequence[bytes | None]) -> int:
    """Return how many records ``CandleFold.quickly`` leaves unread; all others must be in its blocks."""
    blocks = CandleFold(WINDOWS).quickly(records_of(spark, values), MAX_FUTURE_US)
    folded = read_fold(blocks.collect(), WINDOWS)
    unread = folded.rejected.get(UNREAD, 0)
    assert folded.rejected.keys() <= {UNREAD}
    assert folded.sound + unread == len(values)
    return unread


def test_every_nightmare_has_its_verdict(spark: SparkSession) -> None:
    found = verdicts(spark, [value for _, value, _ in NIGHTMARES])
    for (name, value, expected), verdict in zip(NIGHTMARES, found, strict=True):
        assert verdict == reference(value), name
        assert (verdict if isinstance(verdict, str) else None) == expected, name


def test_the_quick_way_says_the_same_or_leaves_it_to_the_strict_one(spark: SparkSession) -> None:
    values = [value for _, value, _ in NIGHTMARES]
    quick = verdicts(spark, values, read=read_quickly)
    assert all(one in (UNREAD, reference(value)) for one, value in zip(quick, values, strict=True))
    assert quick[0] == reference(text())
    assert UNREAD in quick
    assert unread_by_the_fold(spark, values) == quick.count(UNREAD)


def test_each_reader_has_the_one_rule_of_symbols(spark: SparkSession) -> None:
    """Checked at both ends of each range of characters in the rule."""
    names = [f"A{chr(at)}" for turn in rule_changes() for at in (turn - 1, turn) if not 0xD800 <= at < 0xE000]
    values: list[bytes | None] = [text(s=name) for name in names]
    expected = [reference(value) for value in values]
    assert [isinstance(one, tuple) for one in expected] == [is_symbol(name) for name in names]
    assert verdicts(spark, values) == expected
    quick = verdicts(spark, values, read=read_quickly)
    assert quick == [one if isinstance(one, tuple) else UNREAD for one in expected]
    assert unread_by_the_fold(spark, values) == quick.count(UNREAD)


def test_a_refused_record_keeps_nothing_but_its_place(spark: SparkSession) -> None:
    row = judge(records_of(spark, [text(p="9" * 40)]), MAX_FUTURE_US).first()
    assert row is not None
    kept = {name for name, value in row.asDict().items() if value is not None}
    assert kept == {*KAFKA_COLUMNS, REASON} - {IS_LIVE}  # only records from Kafka have it


def test_the_future_is_judged_by_the_records_own_time(spark: SparkSession) -> None:
    """A replay years later gives the same result."""
    later = datetime.fromtimestamp((PUBLISHED_US + 10**9) / 10**6, tz=PUBLISHED_AT.tzinfo)
    value = raw(T=str(LIMITS + 1))
    assert verdicts(spark, [value]) == ["trade time in the future"]
    assert verdicts(spark, [value], later) == [reference(value, PUBLISHED_US + 10**9)]


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.integers(-(10**40), 10**40),
        st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)  # fmt: skip
FIELD = st.one_of(
    JSON,
    st.integers(-1, 2**64),
    st.sampled_from([1.0, 1e3, 1e15, 1e16, 1e40, -0.0]),
    st.integers(0, 2 * LIMITS),
    st.decimals(allow_nan=True, allow_infinity=True).map(str),
    st.from_regex(r"\A[0-9]{1,14}(\.[0-9]{0,10})?\Z"),
)


@st.composite
def trade_like(draw: st.DrawFn) -> bytes:
    """A trade with some fields changed, left out or added, in one of several JSON formats."""
    changed = draw(st.dictionaries(st.sampled_from([*GOOD, "x", "T ", ""]), FIELD, max_size=3))
    fields = {**GOOD, **changed}
    for name in draw(st.lists(st.sampled_from(list(GOOD)), max_size=1)):
        del fields[name]
    in_order = draw(st.permutations(list(fields))) if draw(st.booleans()) else list(fields)
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), ("\n,", "\t: ")]))
    written = json.dumps(
        {name: fields[name] for name in in_order}, separators=separators, ensure_ascii=draw(st.booleans())
    )
    return written.encode(errors="surrogatepass")


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A trade's payload with some bytes deleted, inserted or replaced."""
    value = draw(trade_like())
    at = draw(st.integers(0, len(value)))
    until = draw(st.integers(at, min(len(value), at + 3)))
    return value[:at] + draw(st.binary(max_size=3)) + value[until:]


RECORDS = st.one_of(
    trade_like(), damaged(), st.binary(max_size=40), JSON.map(lambda one: json.dumps(one).encode())
)


@pytest.mark.timeout(600)
@JOB
@given(values=st.lists(RECORDS, min_size=50, max_size=150))
@example(values=[text()])
def test_spark_and_the_decoder_agree_on_any_record(spark: SparkSession, values: list[bytes]) -> None:
    expected = [reference(value) for value in values]
    assert verdicts(spark, list(values)) == expected
    quick = verdicts(spark, list(values), read=read_quickly)
    assert all(one in (UNREAD, wanted) for one, wanted in zip(quick, expected, strict=True))


OF_THE_LAYOUT = b'{}",:.-_ 0159AZatrue'


LAYOUT = st.from_regex(CANONICAL_PATTERN.replace(SYMBOL_PATTERN, "SYMBOL"), fullmatch=True)


@st.composite
def nearly_canonical(draw: st.DrawFn) -> bytes:
    """A record in Binance's exact layout with some bytes deleted, inserted or replaced."""
    in_layout = st.builds(str.replace, LAYOUT, st.just("SYMBOL"), SYMBOLS).map(str.encode)
    value = draw(st.one_of(st.just(text()), in_layout))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(value)))
        until = draw(st.integers(at, min(len(value), at + 1)))
        value = value[:at] + bytes(draw(st.lists(st.sampled_from(OF_THE_LAYOUT), max_size=2))) + value[until:]
    return value


@pytest.mark.timeout(600)
@JOB
@given(values=st.lists(nearly_canonical(), min_size=20, max_size=60))
@example(
    values=[
        text(),
        text() + b"\n",
        text(s=""),
        text(p="1.", q="1"),
        text(p="", q="1"),
        raw(t="00"),
        raw(T="0"),
    ]
)
def test_the_quick_way_reads_what_is_in_the_layout_and_nothing_else(
    spark: SparkSession, values: list[bytes]
) -> None:
    expected = [reference(value) for value in values]
    texts = [value.decode(errors="replace") for value in values]
    canonical = [re.fullmatch(CANONICAL_PATTERN, one) is not None for one in texts]
    quick = verdicts(spark, list(values), read=read_quickly)
    wanted = [
        verdict if is_canonical and isinstance(verdict, tuple) else UNREAD
        for verdict, is_canonical in zip(expected, canonical, strict=True)
    ]
    assert quick == wanted
    assert unread_by_the_fold(spark, values) == wanted.count(UNREAD)
