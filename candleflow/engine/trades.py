"""Decode Kafka's records: each becomes the columns of a valid trade, or gets a reason for rejection.

There are two readers, and a property test checks that they agree. ``LayoutReader.java`` runs in Spark's tasks
and reads records in exactly the layout that Binance sends. The few others come to the driver, where
``market.payload.decode_payload`` reads them.

Amounts are 64-bit integers, never doubles; an amount that needs more digits is split over several columns.
Spark's decimals would be exact too, but each is a Java object.
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
"""The reason for rejecting a tombstone, which is a Kafka record without a value."""

PRICE_ZERO: Final = -9 * 10**18
"""What the column ``price`` has for a price of 0. Prices up to 10^11 have 10^19 steps of 10^-8. These fit a
signed 64-bit integer, in order, only if counting starts at a negative number."""

ADDED_COLUMNS: Final[Mapping[str, Mapping[str, int]]] = {
    "volume": {"quantity_whole": 0, "quantity_fraction": -8},
    "quote_volume": {
        "notional_high": 10, "notional_whole": 0, "notional_fraction": -8, "notional_rest": -16,
    },
}  # fmt: skip
"""The amounts that a candle sums up. Each maps the columns with its digits to their unit, a power of ten.

Each column is below 10^12, so the sum over a batch, of at most 5,000,000 records, fits 64 bits."""

TRADE_COLUMNS: Final = tuple(CUT_FIELDS.names)
"""The columns of a valid trade, none of them null. ``trade_time`` is in microseconds, ``price`` in steps of
10^-8 starting at ``PRICE_ZERO``; quantity and notional (price times quantity) are as in ``ADDED_COLUMNS``."""

IS_LIVE: Final = "is_live"
"""Whether the trade came from the live stream. One fetched from the exchange's history has the header
``origin``."""

KAFKA_COLUMNS: Final = ("topic", "partition", "offset", "timestamp", "value", IS_LIVE)
"""The columns of a record that are kept next to the result of reading it. ``IS_LIVE`` exists only for records
from Kafka."""

REASON: Final = "rejection_reason"
"""The column with the reason of a rejected record; null for a valid trade."""

UNREAD: Final = "(not read)"
"""A placeholder for the reason: ``read_quickly`` could not read the record, and ``judge`` has to."""

RECORDS_PER_TASK: Final = 125_000
"""Spark starts one task for each 125,000 records, so that all cores read a backlog, even of one partition.
A batch of half a million is four tasks; five left one of two cores idle during the last."""

UNREAD_LIMIT: Final = 10_000
"""The most records that the driver decodes at once. A batch, or a part of an archive, with more of them is
merged in smaller parts. With 10,000 of the longest records a heap of 600 MB holds 320 MB at its peak;
40,000 overflow it."""

_RECORDS_PER_POLL: Final = 5_000
"""Kafka's max.poll.records. With its default of 500 polling took a third of the time of reading a backlog:
213,000 trades a second, against 322,000 with 5,000."""

_ORIGIN_HEADER: Final = "origin"
"""The only header that the producer writes on a trade."""


def read_stream(
    spark: SparkSession, bootstrap: str, topic: str, offsets: Mapping[int, int], *, records_per_batch: int
) -> DataFrame:
    """Return the topic's records from ``offsets`` (partition to next offset) on, as a streaming DataFrame.

    A partition without an offset is read from its beginning. The query fails if Kafka no longer has the
    offsets.
    """
    begin = _offsets_text(topic, offsets) if offsets else "earliest"
    reader = spark.readStream.format("kafka").options(**_reader_options(bootstrap, topic, begin))
    return _with_origin(reader.option("maxOffsetsPerTrigger", records_per_batch).load())


def read_range(
    spark: SparkSession, bootstrap: str, topic: str, begin: Mapping[int, int], end: Mapping[int, int]
) -> DataFrame:
    """Return the records with ``begin <= offset < end`` in each partition, as a batch DataFrame.

    A job on it fails if Kafka no longer has the offsets.
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
    """Add ``TRADE_COLUMNS`` and ``REASON`` to ``records``, without running a job; one row for each record.

    ``REASON`` is null for a trade, and ``UNREAD`` for a record that only ``judge`` can read. Arguments as
    for ``judge``.
    """
    kept = [name for name in KAFKA_COLUMNS if name in records.columns]
    read = records.select(*kept, F.call_function(CUT_TRADE, "value").alias("cut"))
    is_sound = F.col("cut")["trade_time"] <= F.unix_micros("timestamp") + max_future_us
    return read.select(
        *kept,
        F.when(~F.coalesce(is_sound, _false()), UNREAD).alias(REASON),
        *(F.col("cut")[name].alias(name) for name in TRADE_COLUMNS),
    )


def judge(records: DataFrame, max_future_us: int) -> DataFrame:
    """Add ``REASON`` and, for valid trades, ``TRADE_COLUMNS`` to ``records``; one row for each record.

    ``records`` has ``KAFKA_COLUMNS``, which are kept. A trade dated more than ``max_future_us`` after its
    record's timestamp is rejected. The timestamp is used and not the clock, so that a replay gives the same
    result.

    Runs a job that collects the records that ``read_quickly`` can't read, and decodes them on the driver with
    ``decode_payload``. The caller limits their number (``UNREAD_LIMIT``), because the driver holds all
    results.
    """
    read = read_quickly(records, max_future_us)
    is_unread, length = F.col(REASON) == UNREAD, F.octet_length("value")
    reason = F.when(is_unread & length.isNull(), NO_VALUE).when(
        is_unread & (length > RECORD_LIMIT_BYTES), TOO_LONG
    )
    read = read.withColumn(REASON, reason.otherwise(F.col(REASON)))
    verdicts = rows_of(records.sparkSession, _verdicts(read, max_future_us), _VERDICT)
    verdict = F.struct(REASON, *TRADE_COLUMNS).alias("verdict")
    verdicts = verdicts.select("partition", "offset", verdict)
    results = [
        F.when(F.col("verdict").isNotNull(), F.col("verdict")[name]).otherwise(F.col(name)).alias(name)
        for name in (REASON, *TRADE_COLUMNS)
    ]
    kept = [name for name in KAFKA_COLUMNS if name in records.columns]
    return read.join(F.broadcast(verdicts), ["partition", "offset"], "left").select(*kept, *results)


_VERDICT: Final = f"partition int, offset bigint, {REASON} string, " + ", ".join(
    f"{field.name} {field.dataType.simpleString()}" for field in CUT_FIELDS
)


def _verdicts(read: DataFrame, max_future_us: int) -> Iterator[dict[str, Any]]:
    """Decode each unread record; yield the result with its partition and offset."""
    unread = read.where(F.col(REASON) == UNREAD)
    rows = unread.select("partition", "offset", F.unix_micros("timestamp"), "value").toLocalIterator()
    for partition, offset, written_at, value in rows:
        yield {"partition": partition, "offset": offset, **_verdict(value, written_at, max_future_us)}


def _verdict(value: bytearray, written_at: int, max_future_us: int) -> dict[str, Any]:
    trade = decode_payload(bytes(value), written_at, max_future_us)
    return {REASON: trade.reason} if isinstance(trade, Rejected) else columns_of(trade)


def columns_of(trade: Trade) -> dict[str, Any]:
    """Return the values of ``TRADE_COLUMNS`` for a trade."""
    columns: dict[str, Any] = {
        "symbol": trade.symbol,
        "trade_id": trade.trade_id,
        "trade_time": trade.trade_time,
        "is_taker_buy": not trade.buyer_is_maker,
        "price": PRICE_ZERO + int(trade.price.scaleb(DECIMAL_PLACES)),
    }
    for left, powers in ((trade.quantity, "volume"), (trade.notional, "quote_volume")):
        for name, power in ADDED_COLUMNS[powers].items():
            digits, left = EXACT.divmod(left, Decimal(10) ** power)  # noqa: PLW2901 - the remaining digits
            columns[name] = int(digits)
    return columns


def _false() -> Column:
    return F.lit(col=False)


def _offsets_text(topic: str, offsets: Mapping[int, int]) -> str:
    return json.dumps({topic: {str(partition): offset for partition, offset in offsets.items()}})
