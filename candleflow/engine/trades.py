"""From Kafka's records to rows of trades: each record is a sound trade, or has the reason why it is none.

The verdict on a record is that of ``market/payload.py``, word for word what ``decode_payload`` of
``exchange/messages.py`` says of it; a property test holds the two equal. ``read_quickly`` reads a record in
the exact layout that Binance sends, by one regular expression, and leaves every other one unread. ``judge``
reads them all, by Spark's JSON parsers, whose leniency is made good here: they stop at the end of the first
value, whatever follows; and they refuse what JSON allows, numbers of more than 1,000 digits and escaped
halves of surrogate pairs. Its plan is so large that a small batch is over before it is made: so a batch is
judged only if one of its records was left unread.

Amounts are exact decimals and are never a double.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the name that every Spark programmer knows

from candleflow.market.payload import (
    CANONICAL_PATTERN,
    DECIMAL_PATTERN,
    FUTURE,
    NOT_A_TRADE,
    NOT_AN_OBJECT,
    NOT_JSON,
    NOT_UTF8,
    RECORD_LIMIT_BYTES,
    REQUIRED_FIELDS,
    TOO_LONG,
    UNKNOWN_SYMBOL,
    missing,
    wrong_type,
)
from candleflow.market.symbol import SYMBOL_PATTERN
from candleflow.market.trade import (
    DECIMAL_PLACES,
    MICROSECONDS_FROM,
    NOTIONAL_LIMIT,
    PRICE_LIMIT,
    QUANTITY_LIMIT,
    TIME_LIMIT_US,
    TRADE_ID_LIMIT,
)

NO_VALUE: Final = "no value"
"""The refusal of a tombstone: a record of Kafka's without a value, which no payload can be."""

TRADE_COLUMNS: Final = (
    "symbol", "trade_id", "trade_time", "is_taker_buy",
    "price", "quantity", "notional",
)  # fmt: skip
"""The columns of a sound trade, none of them null: ``trade_time`` in microseconds, ``price`` decimal(19,8),
``quantity`` decimal(20,8), and their product ``notional`` decimal(38,16)."""

IS_LIVE: Final = "is_live"
"""Whether the producer had a record from the stream: what it fetched later bears the header ``origin``."""

KAFKA_COLUMNS: Final = ("topic", "partition", "offset", "timestamp", "value", IS_LIVE)
"""The columns of a record that stay beside the verdict on it; ``IS_LIVE`` where it came by the stream of
Kafka's records."""

REFUSAL: Final = "refusal"
"""The column with the reason of a refused record, null for a sound trade."""

UNREAD: Final = "(not read)"
"""In place of a reason: ``read_quickly`` could not read the record, and only ``judge`` can tell why."""

RECORDS_PER_TASK: Final = 50_000
"""A batch of up to so many is one task; a longer backlog is read by all cores even of one partition."""

# Java's "$" also matches before a final line break; "\z" is the end and nothing else.
_WHOLE: Final = r"\A(?:%s)\z"
_CUT_FIELDS: Final = "$2 $3 $4 $5 $6 $7"  # s t p q T m, of the canonical pattern's groups
_ORIGIN_HEADER: Final = "origin"
"""As the producer writes it: the one header of a trade, if there is any."""
_PRICE_TYPE: Final = f"decimal(19,{DECIMAL_PLACES})"
_QUANTITY_TYPE: Final = f"decimal(20,{DECIMAL_PLACES})"


def read_stream(
    spark: SparkSession, bootstrap: str, topic: str, offsets: Mapping[int, int], *, records_per_batch: int
) -> DataFrame:
    """The topic's records from ``offsets`` (partition to next offset) on, as a streaming DataFrame.

    A partition that isn't named is read from its beginning. The query fails where the offsets are gone.
    """
    return (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", bootstrap)
        .option("subscribe", topic)
        .option("startingOffsets", _offsets_text(topic, offsets) if offsets else "earliest")
        .option("maxOffsetsPerTrigger", records_per_batch)
        .option("maxRecordsPerPartition", RECORDS_PER_TASK)
        .option("failOnDataLoss", "true")
        .option("includeHeaders", "true")
        .load()
        .withColumn(IS_LIVE, ~F.coalesce(F.get("headers", F.lit(0))["key"] == _ORIGIN_HEADER, _false()))
    )


def read_range(
    spark: SparkSession, bootstrap: str, topic: str, begin: Mapping[int, int], end: Mapping[int, int]
) -> DataFrame:
    """The topic's records with ``begin <= offset < end`` in each partition, as a batch DataFrame."""
    return (
        spark.read.format("kafka")
        .option("kafka.bootstrap.servers", bootstrap)
        .option("subscribe", topic)
        .option("startingOffsets", _offsets_text(topic, begin))
        .option("endingOffsets", _offsets_text(topic, end))
        .option("maxRecordsPerPartition", RECORDS_PER_TASK)
        .option("failOnDataLoss", "true")
        .load()
    )


def read_quickly(records: DataFrame, max_future_us: int) -> DataFrame:
    """``records`` with ``TRADE_COLUMNS``, and with ``REFUSAL`` null, or ``UNREAD`` where only ``judge`` can
    tell; pure columns, one row each. Arguments as for ``judge``.
    """
    kept = [name for name in KAFKA_COLUMNS if name in records.columns]
    read, is_cut = _cut(records, kept)
    read = read.select(*kept, F.split(F.when(is_cut, F.col("cut")), " ").alias("field"))
    field = F.col("field")
    read = read.select(
        *kept,
        field[0].alias("symbol"),
        field[1].cast("bigint").alias("trade_id"),
        F.rpad(field[4], 16, "0").cast("bigint").alias("trade_time"),
        (field[5] == "false").alias("is_taker_buy"),
        field[2].cast(_PRICE_TYPE).alias("price"),
        field[3].cast(_QUANTITY_TYPE).alias("quantity"),
    )
    read = _with_notional(read)
    # Where a product is too large it is null, and so is the condition.
    is_sound = (F.col("notional") > 0) & (F.col("notional") < _limit(NOTIONAL_LIMIT))
    is_sound &= F.col("trade_time") <= F.unix_micros("timestamp") + max_future_us
    return read.select(*kept, F.when(~F.coalesce(is_sound, _false()), UNREAD).alias(REFUSAL), *TRADE_COLUMNS)


def judge(records: DataFrame, max_future_us: int) -> DataFrame:
    """``records`` with ``REFUSAL`` and, where it is null, ``TRADE_COLUMNS``; pure columns, one row each.

    ``records`` has Kafka's columns, of which ``value`` (binary) and ``timestamp`` are looked at; they stay
    beside the verdict. A trade dated more than ``max_future_us`` after its own record is refused: by the
    record's time and not by the clock, so that a replay judges as the first reading did.
    """
    kept = [name for name in KAFKA_COLUMNS if name in records.columns]
    read, is_cut = _cut(records, kept)
    # A branch of a CASE is evaluated only for the rows that need it; and a lambda is interpreted, not
    # compiled. Written out, the strict way would make the generated method longer than the 8,000 bytes that
    # the JVM compiles: ten times as slow (measured).
    strict = F.transform(F.array("value"), _strict_verdict)[0]
    verdict = F.when(is_cut, F.col("cut")).otherwise(strict)
    read = read.select(*kept, verdict.alias("verdict"))
    return _check_ranges(_with_fields(read, kept), kept, max_future_us)


def _cut(records: DataFrame, kept: Sequence[str]) -> tuple[DataFrame, Column]:
    """``records`` with ``cut``, and whether it is the fields "s t p q T m" of a record in Binance's layout.

    A record that does not match is left as it is, so one pass both recognizes and cuts: but for bytes that
    are no UTF-8, which the replacement would not leave alone.
    """
    read = records.select(*kept, F.col("value").cast("string").alias("text"))
    cut = F.regexp_replace("text", _WHOLE % CANONICAL_PATTERN, _CUT_FIELDS)
    is_cut = (F.col("cut") != F.col("text")) & F.is_valid_utf8("text")
    return read.select("*", cut.alias("cut")), is_cut


# The strict way ----------------------------------------------------------------------------------------
# Its verdict is one text, as the quick way's: "s t p q T m", or a blank and then the refusal.


def _refuse(reason: str) -> Column:
    return F.lit(f" {reason}")


def _strict_verdict(value: Column) -> Column:
    text = value.cast("string")
    return (
        F.when(value.isNull(), _refuse(NO_VALUE))
        .when(F.octet_length(value) > RECORD_LIMIT_BYTES, _refuse(TOO_LONG))
        .when(~F.is_valid_utf8(text), _refuse(NOT_UTF8))
        .otherwise(_json_verdict(text))
    )


# The parsers refuse numbers of more than 1,000 digits: those after the 100th change no verdict and are cut
# off, outside strings (which the first alternative steps over).
_LONG_NUMBER: Final = r'("(?:[^"\\]++|\\.)*+")|([0-9]{100})[0-9]++'
# Half a surrogate pair, escaped: sound JSON (RFC 8259, section 8.2), which no parser of Spark's takes.
_HIGH_HALF: Final = r"\\u[dD][89abAB][0-9a-fA-F]{2}"
_LOW_HALF: Final = r"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_LONE_HALF: Final = (
    rf"(?<=(?<!\\)(?:\\\\){{0,2047}})(?:{_HIGH_HALF}(?!{_LOW_HALF})|(?<!{_HIGH_HALF}){_LOW_HALF})"
)
_PLAIN_INTEGER: Final = r"\A-?[0-9]+\z"


def _json_verdict(text: Column) -> Column:
    """The verdict on any text: what is JSON and of which types by ``try_parse_json``, texts by ``from_json``.

    ``try_parse_json`` refuses a key that is named twice and looks no further than the first value. So the
    record is parsed as the first element of an array whose second is the record's own hash: no record can
    close the array early and then go on with its own SHA-256.
    """
    short = F.regexp_replace(text, _LONG_NUMBER, "$1$2")
    whole = F.when(short.rlike(r"\\u[dD]"), F.regexp_replace(short, _LONE_HALF, r"\\ufffd")).otherwise(short)
    seal = F.sha2(text, 256)
    parsed = F.try_parse_json(F.concat(F.lit("["), whole, F.lit(',"'), seal, F.lit('"]')))
    texts = F.from_json(short, ", ".join(f"`{name}` string" for name in ("e", *REQUIRED_FIELDS)))
    # A lambda's variable is computed once, where a column is computed each time that it is named.
    read = F.array(F.struct(parsed.alias("parsed"), texts.alias("texts"), seal.alias("seal")))
    return F.transform(read, lambda one: _verdict_on(one["parsed"], one["texts"], one["seal"]))[0]


def _verdict_on(parsed: Column, texts: Column, seal: Column) -> Column:
    is_whole = F.try_variant_get(parsed, "$[1]", "string") == seal
    is_object = _json_type(parsed, "$[0]").startswith("OBJECT<")
    is_event = (_json_type(parsed, "$[0].e") == "STRING") & (texts["e"] == "trade")
    verdict = (
        F.when(_fails(is_whole), _refuse(NOT_JSON))
        .when(_fails(is_object), _refuse(NOT_AN_OBJECT))
        .when(_fails(is_event), _refuse(NOT_A_TRADE))
    )
    for name, json_type in REQUIRED_FIELDS.items():
        found = _json_type(parsed, f"$[0].{name}")
        verdict = verdict.when(found.isNull(), _refuse(missing(name)))
        verdict = verdict.when(~_is_of_type(found, texts[name], json_type), _refuse(wrong_type(name)))
    verdict = verdict.when(~texts["s"].rlike(_WHOLE % SYMBOL_PATTERN), _refuse(UNKNOWN_SYMBOL))
    amounts = [
        F.when(texts[name].rlike(_WHOLE % DECIMAL_PATTERN), texts[name]).otherwise("NaN") for name in "pq"
    ]
    return verdict.otherwise(F.concat_ws(" ", texts["s"], texts["t"], *amounts, texts["T"], texts["m"]))


def _json_type(parsed: Column, path: str) -> Column:
    """The variant's type at ``path``, null where there is nothing there."""
    return F.schema_of_variant(F.try_variant_get(parsed, path, "variant"))


def _is_of_type(found: Column, text: Column, json_type: str) -> Column:
    if json_type == "integer":
        # A number with a point or an exponent keeps one in its text: 1.0, 1.0E50.
        is_number = found.isin("BIGINT", "DOUBLE") | found.startswith("DECIMAL")
        return is_number & text.rlike(_PLAIN_INTEGER)
    return found == json_type.upper()


# The ranges, for both ways ----------------------------------------------------------------------------


def _with_fields(read: DataFrame, kept: Sequence[str]) -> DataFrame:
    """The verdict's fields, each of its type: null where the record is refused or a number too large."""
    field = F.split(F.when(~F.col("verdict").startswith(" "), F.col("verdict")), " ")
    read = read.select(*kept, "verdict", field.alias("field"))
    field = F.col("field")
    time = field[4].try_cast("bigint").alias("time")
    points = [F.split(field[at], r"\.").alias(f"{name}_points") for at, name, _ in _AMOUNTS]
    read = read.select(*kept, "verdict", "field", time, *points)
    is_millis = F.col("time").between(0, MICROSECONDS_FROM - 1)
    read = read.select(
        *kept,
        "verdict",
        field[0].alias("symbol"),
        field[1].try_cast("bigint").alias("trade_id"),
        (F.col("time") * F.when(is_millis, 1_000).otherwise(1)).alias("trade_time"),
        (field[5] == "false").alias("is_taker_buy"),
        *(part for at, name, type_ in _AMOUNTS for part in _amount(field[at], name, type_)),
    )
    return _with_notional(read)


_AMOUNTS: Final = ((2, "price", _PRICE_TYPE), (3, "quantity", _QUANTITY_TYPE))


def _amount(text: Column, name: str, type_: str) -> list[Column]:
    """An amount, its whole part (null where that is no 64-bit integer) and the digits of its fraction.

    The amount itself is rounded to eight places, which is no loss where it has no more.
    """
    points = F.col(f"{name}_points")
    return [
        text.try_cast(type_).alias(name),
        text.alias(f"{name}_text"),
        points[0].try_cast("bigint").alias(f"{name}_whole"),
        F.get(points, F.lit(1)).alias(f"{name}_places"),
    ]


def _check_ranges(read: DataFrame, kept: Sequence[str], max_future_us: int) -> DataFrame:
    """``market.trade.refusal`` and the check of the future, in the same order."""
    refusal = F.when(F.col("verdict").startswith(" "), F.substring("verdict", 2, RECORD_LIMIT_BYTES))
    refusal = refusal.when(_fails(F.col("trade_id").between(0, TRADE_ID_LIMIT - 1)), "trade id out of range")
    is_time = F.col("trade_time").between(0, TIME_LIMIT_US - 1)
    refusal = refusal.when(_fails(is_time), "trade time out of range")
    for name, limit in (("price", PRICE_LIMIT), ("quantity", QUANTITY_LIMIT)):
        refusal = _check_amount(refusal, name, int(limit))
    is_notional = F.col("notional") < _limit(NOTIONAL_LIMIT)
    refusal = refusal.when(_fails(is_notional), "notional out of range")
    refusal = refusal.when(F.col("trade_time") > F.unix_micros("timestamp") + max_future_us, FUTURE)
    judged = read.select(*kept, refusal.alias(REFUSAL), *TRADE_COLUMNS)
    # Nothing of a refused record goes on: its numbers could leave the range of every sum to come.
    sound = [F.when(F.col(REFUSAL).isNull(), F.col(name)).alias(name) for name in TRADE_COLUMNS]
    return judged.select(*kept, REFUSAL, *sound)


def _check_amount(refusal: Column, name: str, limit: int) -> Column:
    # Whatever was no plain decimal is "NaN" here, and has no such digit either.
    is_positive = F.col(f"{name}_text").rlike("[1-9]")
    has_more_places = F.length(f"{name}_places") > DECIMAL_PLACES
    return (
        refusal.when(_fails(is_positive), f"{name} not a finite positive decimal")
        .when(_fails(F.col(f"{name}_whole") < limit), f"{name} out of range")
        .when(has_more_places, f"{name} has more than {DECIMAL_PLACES} decimal places")
    )


def _with_notional(read: DataFrame) -> DataFrame:
    return read.select("*", F.try_multiply("price", "quantity").alias("notional"))


def _limit(limit: Decimal) -> Column:
    return F.lit(limit).cast("decimal(38,16)")


def _fails(condition: Column) -> Column:
    """Whether a condition is false or, as a number did not fit its type, null."""
    return ~F.coalesce(condition, _false())


def _false() -> Column:
    return F.lit(col=False)


def _offsets_text(topic: str, offsets: Mapping[int, int]) -> str:
    return json.dumps({topic: {str(partition): offset for partition, offset in offsets.items()}})
