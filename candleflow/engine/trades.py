"""From Kafka's records to rows of trades: each record is a sound trade, or has the reason why it is none.

Two readers, which a property test holds to the same verdict. ``LayoutReader.java`` reads a record in the
exact layout that Binance sends, in Spark's tasks, and leaves every other one unread. Those are rare: they
come to the driver, where ``market.payload.decode_payload`` reads them.

Amounts are 64-bit integers, several to an amount where one can't hold it, and are never a double. Spark's
decimals are as exact, but each is an object of Java's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the name that every Spark programmer knows

from candleflow.engine.driver_rows import rows_of
from candleflow.engine.java_functions import CUT_FIELDS, CUT_TRADE
from candleflow.engine.kafka_options import kafka_options
from candleflow.market.payload import RECORD_LIMIT_BYTES, TOO_LONG, Rejected, decode_payload
from candleflow.market.trade import DECIMAL_PLACES, EXACT, Trade

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

UNREAD_LIMIT: Final = 10_000
"""The most records that the driver decodes at once. A batch, or a part of an archive, with more of them is
merged in smaller parts. With 10,000 of the longest records a heap of 600 MB holds 320 MB at its peak;
40,000 overflow it."""

_RECORDS_PER_POLL: Final = 5_000
"""Spark asks the consumer anew after so many; with the consumer's own 500 that took a third of a backlog's
time: 213,000 trades a second, and 322,000 with these."""

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
    """``records`` with ``REFUSAL`` and, where it is null, ``TRADE_COLUMNS``; one row each.

    ``records`` has Kafka's columns, which stay beside the verdict. A trade dated more than ``max_future_us``
    after its own record is refused: by the record's time and not by the clock, so that a replay judges as the
    first reading did.

    Runs a job, which brings the records that ``read_quickly`` leaves unread to the driver, and reads those by
    ``decode_payload``. The caller bounds how many these may be, as the driver holds all their verdicts.
    """
    read = read_quickly(records, max_future_us)
    is_unread, length = F.col(REFUSAL) == UNREAD, F.octet_length("value")
    refusal = F.when(is_unread & length.isNull(), NO_VALUE).when(
        is_unread & (length > RECORD_LIMIT_BYTES), TOO_LONG
    )
    read = read.withColumn(REFUSAL, refusal.otherwise(F.col(REFUSAL)))
    verdicts = rows_of(records.sparkSession, _verdicts(read, max_future_us), _VERDICT)
    verdict = F.struct(REFUSAL, *TRADE_COLUMNS).alias("verdict")
    verdicts = verdicts.select("partition", "offset", verdict)
    told = [
        F.when(F.col("verdict").isNotNull(), F.col("verdict")[name]).otherwise(F.col(name)).alias(name)
        for name in (REFUSAL, *TRADE_COLUMNS)
    ]
    kept = [name for name in KAFKA_COLUMNS if name in records.columns]
    return read.join(F.broadcast(verdicts), ["partition", "offset"], "left").select(*kept, *told)


_VERDICT: Final = f"partition int, offset bigint, {REFUSAL} string, " + ", ".join(
    f"{field.name} {field.dataType.simpleString()}" for field in CUT_FIELDS
)


def _verdicts(read: DataFrame, max_future_us: int) -> Iterator[dict[str, Any]]:
    """The verdict on each record that is unread, by its place."""
    unread = read.where(F.col(REFUSAL) == UNREAD)
    rows = unread.select("partition", "offset", F.unix_micros("timestamp"), "value").toLocalIterator()
    for partition, offset, written_at, value in rows:
        yield {"partition": partition, "offset": offset, **_verdict(value, written_at, max_future_us)}


def _verdict(value: bytearray, written_at: int, max_future_us: int) -> dict[str, Any]:
    trade = decode_payload(bytes(value), written_at, max_future_us)
    return {REFUSAL: trade.reason} if isinstance(trade, Rejected) else columns_of(trade)


def columns_of(trade: Trade) -> dict[str, Any]:
    """A trade's ``TRADE_COLUMNS``."""
    columns: dict[str, Any] = {
        "symbol": trade.symbol,
        "trade_id": trade.trade_id,
        "trade_time": trade.trade_time,
        "is_taker_buy": not trade.buyer_is_maker,
        "price": PRICE_ZERO + int(trade.price.scaleb(DECIMAL_PLACES)),
    }
    for left, powers in ((trade.quantity, "volume"), (trade.notional, "quote_volume")):
        for name, power in ADDED_COLUMNS[powers].items():
            digits, left = EXACT.divmod(left, Decimal(10) ** power)  # noqa: PLW2901 - the digits to come
            columns[name] = int(digits)
    return columns


def _false() -> Column:
    return F.lit(col=False)


def _offsets_text(topic: str, offsets: Mapping[int, int]) -> str:
    return json.dumps({topic: {str(partition): offset for partition, offset in offsets.items()}})
