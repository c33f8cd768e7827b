"""From Kafka's records to rows of trades: each record is a sound trade, or has the reason why it is none.

The verdict on a record is that of ``market/payload.py``, word for word what ``decode_payload`` of
``exchange/messages.py`` says of it; a property test holds the two equal. ``read_quickly`` reads a record in
the exact layout that Binance sends, by ``LayoutReader.java``, and leaves every other one unread. ``judge``
reads them all, by Spark's JSON parsers, whose leniency is made good here: they stop at the end of the first
value, whatever follows; and they refuse what JSON allows, numbers of more than 1,000 digits and escaped
halves of surrogate pairs. Its plan is so large that a small batch is over before it is made: so a batch is
judged only if one of its records was left unread.

Amounts are 64-bit integers, several to an amount where one can't hold it, and are never a double. Spark's
decimals are as exact, but each is an object of Java's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the name that every Spark programmer knows

from candleflow.engine.java_functions import AMOUNTS, COUNT_AMOUNTS, CUT_FIELDS, CUT_TRADE
from candleflow.engine.kafka_options import kafka_options
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
    PRICE_LIMIT,
    QUANTITY_LIMIT,
    TIME_LIMIT_US,
    TRADE_ID_LIMIT,
)

NO_VALUE: Final = "no value"
"""The refusal of a tombstone: a record of Kafka's without a value, which no payload can be."""

PRICE_ZERO: Final = -9 * 10**18
"""The column ``price`` of a price of nothing: prices up to 10^11 have 10^19 steps of 10^-8, which fit 64 bits
only with a sign, and in their order."""

ADDED_COLUMNS: Final[Mapping[str, Mapping[str, int]]] = {
    "volume": {"quantity_whole": 0, "quantity_fraction": -8},
    "quote_volume": {
        "notional_high": 10, "notional_whole": 0, "notional_fraction": -8, "notional_rest": -16,
    },
}  # fmt: skip
"""What a candle adds up, each as the columns that hold its digits, and the power of ten each counts in.

Each column is below 10^12, so that the sum of the 5,000,000 records that a batch may have fits 64 bits."""

TRADE_COLUMNS: Final = tuple(CUT_FIELDS.names)
"""The columns of a sound trade, none of them null: ``trade_time`` in microseconds, ``price`` in steps of
10^-8 from ``PRICE_ZERO`` on, quantity and notional (their product) as ``ADDED_COLUMNS`` has them."""

_OTHERS: Final = tuple(name for name in TRADE_COLUMNS if name not in AMOUNTS.names)
"""Those of them that are no amounts."""

IS_LIVE: Final = "is_live"
"""Whether the producer had a record from the stream: what it fetched later bears the header ``origin``."""

KAFKA_COLUMNS: Final = ("topic", "partition", "offset", "timestamp", "value", IS_LIVE)
"""The columns of a record that stay beside the verdict on it; ``IS_LIVE`` where it came by the stream of
Kafka's records."""

REFUSAL: Final = "refusal"
"""The column with the reason of a refused record, null for a sound trade."""

UNREAD: Final = "(not read)"
"""In place of a reason: ``read_quickly`` could not read the record, and only ``judge`` can tell why."""

RECORDS_PER_TASK: Final = 125_000
"""A batch of up to so many is one task; a longer backlog is read by all cores even of one partition. Half a
million are four tasks; five left one of two cores idle during the last."""

_RECORDS_PER_POLL: Final = 5_000
"""Spark asks the consumer anew after so many; with the consumer's own 500 that took a third of a backlog's
time: 213,000 trades a second, and 322,000 with these."""

# Java's "$" also matches before a final line break; "\z" is the end and nothing else.
_WHOLE: Final = r"\A(?:%s)\z"
_ORIGIN_HEADER: Final = "origin"
"""As the producer writes it: the one header of a trade, if there is any."""


def read_stream(
    spark: SparkSession, bootstrap: str, topic: str, offsets: Mapping[int, int], *, records_per_batch: int
) -> DataFrame:
    """The topic's records from ``offsets`` (partition to next offset) on, as a streaming DataFrame.

    A partition that isn't named is read from its beginning. The query fails where the offsets are gone.
    """
    begin = _offsets_text(topic, offsets) if offsets else "earliest"
    reader = spark.readStream.format("kafka").options(**_reader_options(bootstrap, topic, begin))
    return _with_origin(reader.option("maxOffsetsPerTrigger", records_per_batch).load())


def read_range(
    spark: SparkSession, bootstrap: str, topic: str, begin: Mapping[int, int], end: Mapping[int, int]
) -> DataFrame:
    """The topic's records with ``begin <= offset < end`` in each partition, as a batch DataFrame.

    A job over it fails where the offsets are gone.
    """
    reader = spark.read.format("kafka").options(
        **_reader_options(bootstrap, topic, _offsets_text(topic, begin))
    )
    return _with_origin(reader.option("endingOffsets", _offsets_text(topic, end)).load())


def _reader_options(bootstrap: str, topic: str, begin: str) -> dict[str, Any]:
    return {
        **kafka_options(bootstrap),
        "kafka.max.poll.records": _RECORDS_PER_POLL,
        "subscribe": topic,
        "startingOffsets": begin,
        "maxRecordsPerPartition": RECORDS_PER_TASK,
        "failOnDataLoss": True,
        "includeHeaders": True,
    }


def _with_origin(records: DataFrame) -> DataFrame:
    first = F.get("headers", F.lit(0))["key"]
    return records.withColumn(IS_LIVE, ~F.coalesce(first == _ORIGIN_HEADER, _false()))


def read_quickly(records: DataFrame, max_future_us: int) -> DataFrame:
    """``records`` with ``TRADE_COLUMNS``, and with ``REFUSAL`` null, or ``UNREAD`` where only ``judge`` can
    tell; pure columns, one row each. Arguments as for ``judge``.
    """
    kept = [name for name in KAFKA_COLUMNS if name in records.columns]
    read = records.select(*kept, F.call_function(CUT_TRADE, "value").alias("cut"))
    is_sound = F.col("cut")["trade_time"] <= F.unix_micros("timestamp") + max_future_us
    return read.select(
        *kept,
        F.when(~F.coalesce(is_sound, _false()), UNREAD).alias(REFUSAL),
        *(F.col("cut")[name].alias(name) for name in TRADE_COLUMNS),
    )


def judge(records: DataFrame, max_future_us: int) -> DataFrame:
    """``records`` with ``REFUSAL`` and, where it is null, ``TRADE_COLUMNS``; pure columns, one row each.

    ``records`` has Kafka's columns, of which ``value`` (binary) and ``timestamp`` are looked at; they stay
    beside the verdict. A trade dated more than ``max_future_us`` after its own record is refused: by the
    record's time and not by the clock, so that a replay judges as the first reading did.
    """
    kept = [name for name in KAFKA_COLUMNS if name in records.columns]
    read = records.select(*kept, F.col("value").cast("string").alias("text"))
    # A record that does not match is left as it is, so one pass both recognizes and cuts: but for bytes that
    # are no UTF-8, which the replacement would not leave alone.
    cut = F.regexp_replace("text", _WHOLE % CANONICAL_PATTERN, "$2 $3 $4 $5 $6 $7")  # s t p q T m
    read = read.select(*kept, "text", cut.alias("cut"))
    is_cut = (F.col("cut") != F.col("text")) & F.is_valid_utf8("text")
    # A branch of a CASE is evaluated only for the rows that need it; and a lambda is interpreted, not
    # compiled. Written out, the strict way would make the generated method longer than the 8,000 bytes that
    # the JVM compiles: ten times as slow (measured).
    strict = F.transform(F.array("value"), _strict_verdict)[0]
    verdict = F.when(is_cut, F.col("cut")).otherwise(strict)
    read = read.select(*kept, verdict.alias("verdict"))
    return _check_ranges(_with_fields(read, kept), kept, max_future_us)


# The strict way ----------------------------------------------------------------------------------------
# Its verdict is one text, as the cut of the exact layout: "s t p q T m", or a blank and then the refusal.


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


_AMOUNTS: Final[Mapping[str, int]] = {"price": int(PRICE_LIMIT), "quantity": int(QUANTITY_LIMIT)}
"""What a record has of amounts, and below what each must be."""


def _with_fields(read: DataFrame, kept: Sequence[str]) -> DataFrame:
    """The verdict's fields, each of its type: null where the record is refused or a number too large."""
    field = F.split(F.when(~F.col("verdict").startswith(" "), F.col("verdict")), " ")
    read = read.select(*kept, "verdict", field.alias("field"))
    field = F.col("field")
    time = field[4].try_cast("bigint").alias("time")
    texts = {"price": field[2], "quantity": field[3]}
    points = [F.split(text, r"\.").alias(f"{name}_points") for name, text in texts.items()]
    read = read.select(*kept, "verdict", "field", time, *points)
    is_millis = F.col("time").between(0, MICROSECONDS_FROM - 1)
    read = read.select(
        *kept,
        "verdict",
        field[0].alias("symbol"),
        field[1].try_cast("bigint").alias("trade_id"),
        (F.col("time") * F.when(is_millis, 1_000).otherwise(1)).alias("trade_time"),
        (field[5] == "false").alias("is_taker_buy"),
        *(part for name, text in texts.items() for part in _amount(text, name)),
    )
    texts_of = [f"{name}_{part}" for name in texts for part in ("text", "places", "out_of_range")]
    digits = [f"{name}_{part}" for name in texts for part in ("whole", "fraction")]
    counted = F.call_function(COUNT_AMOUNTS, *digits).alias("amounts")
    return read.select(*kept, "verdict", *_OTHERS, *texts_of, counted)


def _amount(text: Column, name: str) -> list[Column]:
    """An amount's text, its whole part (null where that is no 64-bit integer) and whether that is beyond the
    limit, the digits of its fraction, and those as steps of 10^-8, no loss where there are no more.
    """
    points = F.col(f"{name}_points")
    whole, places = points[0].try_cast("bigint"), F.get(points, F.lit(1))
    return [
        text.alias(f"{name}_text"),
        whole.alias(f"{name}_whole"),
        _fails(whole < _AMOUNTS[name]).alias(f"{name}_out_of_range"),
        places.alias(f"{name}_places"),
        F.rpad(F.coalesce(places, F.lit("")), DECIMAL_PLACES, "0").cast("bigint").alias(f"{name}_fraction"),
    ]


def _check_ranges(read: DataFrame, kept: Sequence[str], max_future_us: int) -> DataFrame:
    """``market.trade.refusal`` and the check of the future, in the same order."""
    refusal = F.when(F.col("verdict").startswith(" "), F.substring("verdict", 2, RECORD_LIMIT_BYTES))
    refusal = refusal.when(_fails(F.col("trade_id").between(0, TRADE_ID_LIMIT - 1)), "trade id out of range")
    is_time = F.col("trade_time").between(0, TIME_LIMIT_US - 1)
    refusal = refusal.when(_fails(is_time), "trade time out of range")
    for name in _AMOUNTS:
        refusal = _check_amount(refusal, name)
    refusal = refusal.when(F.col("amounts").isNull(), "notional out of range")
    refusal = refusal.when(F.col("trade_time") > F.unix_micros("timestamp") + max_future_us, FUTURE)
    amounts = [F.col("amounts")[name].alias(name) for name in AMOUNTS.names]
    judged = read.select(*kept, refusal.alias(REFUSAL), *_OTHERS, *amounts)
    # Nothing of a refused record goes on: its numbers could leave the range of every sum to come.
    sound = [F.when(F.col(REFUSAL).isNull(), F.col(name)).alias(name) for name in TRADE_COLUMNS]
    return judged.select(*kept, REFUSAL, *sound)


def _check_amount(refusal: Column, name: str) -> Column:
    # Whatever was no plain decimal is "NaN" here, and has no such digit either.
    is_positive = F.col(f"{name}_text").rlike("[1-9]")
    has_more_places = F.length(f"{name}_places") > DECIMAL_PLACES
    return (
        refusal.when(_fails(is_positive), f"{name} not a finite positive decimal")
        .when(F.col(f"{name}_out_of_range"), f"{name} out of range")
        .when(has_more_places, f"{name} has more than {DECIMAL_PLACES} decimal places")
    )


def _fails(condition: Column) -> Column:
    """Whether a condition is false or, as a number did not fit its type, null."""
    return ~F.coalesce(condition, _false())


def _false() -> Column:
    return F.lit(col=False)


def _offsets_text(topic: str, offsets: Mapping[int, int]) -> str:
    return json.dumps({topic: {str(partition): offset for partition, offset in offsets.items()}})
