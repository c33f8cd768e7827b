"""Convert the lines of the exchange's archives to records like Kafka's, so that the same code reads both.

    3735683259,61837.63000000,0.02000000,1236.75260000,1723161255342,True,True

The columns: id, price, quantity, quote quantity, time, whether the buyer is the maker, whether it was the
best match. Times are milliseconds before 2025, and microseconds from 2025-01-01 on. Source:
github.com/binance/binance-public-data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the name that every Spark programmer knows

from candleflow.engine import trades
from candleflow.engine.folding import BatchFold, unread_records
from candleflow.engine.partials import Folded
from candleflow.engine.trades import REASON
from candleflow.market.payload import NOT_JSON
from candleflow.market.trade import TIME_LIMIT_US

ANOTHER_DAY: Final = "trade time on another day"
"""The reason for rejecting a trade from another day than the archive's. The other reasons are those of
``trades.judge``, and ``NOT_A_LINE``."""

NOT_A_LINE: Final = "not a line of spot trades"
"""The reason for rejecting a line in another format; ``exchange.archive.fault`` describes the fault."""

_LINE: Final = (
    r"\A([0-9]+),([0-9]+(?:\.[0-9]+)?),([0-9]+(?:\.[0-9]+)?),[0-9]+(?:\.[0-9]+)?,([0-9]+),(true|false),"
    r"(?:true|false)\r?\z"
)
_PAYLOAD: Final = '{"e":"trade","E":$4,"s":"%s","t":$1,"p":"$2","q":"$3","T":$4,"m":$5,"M":true}'
"""The layout of ``market.payload``. An archive has no event time ``E``, so it is the trade time."""


def read_lines(spark: SparkSession, file: Path) -> DataFrame:
    """Read a text file: the column ``line``, and ``offset``, which increases in the lines' order."""
    # Not file.as_uri(): Hadoop doesn't undo its escapes. And no globbing: Spark would treat brackets, braces,
    # stars, question marks and backslashes in the path as a pattern.
    reader = spark.read.option("__globPaths__", "false")
    lines = reader.text(f"file:{file.absolute()}", lineSep="\n").withColumnRenamed("value", "line")
    # Ids increase within a task, and from each task to the next, so they are in the file's order.
    return lines.select(F.monotonically_increasing_id().alias("offset"), "line")


def records(lines: DataFrame, symbol: str) -> DataFrame:
    """Convert each line to a record with Kafka's columns and ``symbol``'s payload; null for a bad line."""
    line = F.lower("line")
    payload = F.when(line.rlike(_LINE), F.regexp_replace(line, _LINE, _PAYLOAD % symbol))
    return lines.select(
        F.lit("archive").alias("topic"),
        F.lit(0).alias("partition"),
        "offset",
        F.timestamp_micros(F.lit(TIME_LIMIT_US - 1)).alias("timestamp"),  # no trade is after it
        payload.cast("binary").alias("value"),
    )


def read(records: DataFrame, since: int, until: int, fold: BatchFold) -> tuple[DataFrame, Folded]:
    """Decode and aggregate the records; reject trades outside [since, until), in microseconds.

    Raises OversizeError if more than ``trades.UNREAD_LIMIT`` lines look like trades but have impossible
    numbers: the caller then loads the lines in smaller parts.
    """
    judged = _of_day(trades.read_quickly(records, 0), since, until)
    folded = fold(judged)
    if unread_records(folded):
        judged = _of_day(trades.judge(records, 0), since, until)
        folded = fold(judged)
    return judged, folded


def first_rejected(judged: DataFrame, lines: DataFrame) -> tuple[str, str] | None:
    """Return the first rejected line and the reason; None if there is none."""
    rejected = judged.where(F.col(REASON).isNotNull()).orderBy("offset").select("offset", REASON).head(1)
    if not rejected:
        return None
    (line,) = lines.where(F.col("offset") == rejected[0]["offset"]).select("line").collect()
    return line["line"], rejected[0][REASON]


def _of_day(judged: DataFrame, since: int, until: int) -> DataFrame:
    """Name the reasons as an archive needs them, and reject trades outside [since, until)."""
    is_no_line = F.col("value").isNull() | (F.col(REASON) == NOT_JSON)  # a number with a leading zero
    judged = judged.withColumn(REASON, F.when(is_no_line, NOT_A_LINE).otherwise(F.col(REASON)))
    is_elsewhere = F.col(REASON).isNull() & ~F.col("trade_time").between(since, until - 1)
    judged = judged.withColumn(REASON, F.when(is_elsewhere, ANOTHER_DAY).otherwise(F.col(REASON)))
    # Like ``judge``: the trade columns of a rejected record are null.
    sound = {name: F.when(F.col(REASON).isNull(), F.col(name)) for name in trades.TRADE_COLUMNS}
    return judged.withColumns(sound)
