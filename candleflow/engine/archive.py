"""From the lines of the exchange's archives to records as Kafka has them, for the one way that reads both.

    3735683259,61837.63000000,0.02000000,1236.75260000,1723161255342,True,True

Id, price, quantity, quote quantity, time, whether the buyer is the maker, whether it was the best match.
Times are milliseconds, and microseconds since 2025-01-01. Source: github.com/binance/binance-public-data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the name that every Spark programmer knows

from candleflow.engine import trades
from candleflow.engine.folding import BatchFold, unread_records
from candleflow.engine.partials import Folded
from candleflow.engine.trades import REFUSAL
from candleflow.market.payload import NOT_JSON
from candleflow.market.trade import TIME_LIMIT_US

ANOTHER_DAY: Final = "trade time on another day"
"""The refusal of a trade that is in the wrong day's archive; all others are those of ``trades.judge``."""

NOT_A_LINE: Final = "not a line of spot trades"
"""The refusal of a line of another form; ``exchange.archive.fault`` says what it has."""

_LINE: Final = (
    r"\A([0-9]+),([0-9]+(?:\.[0-9]+)?),([0-9]+(?:\.[0-9]+)?),[0-9]+(?:\.[0-9]+)?,([0-9]+),(true|false),"
    r"(?:true|false)\r?\z"
)
_PAYLOAD: Final = '{"e":"trade","E":$4,"s":"%s","t":$1,"p":"$2","q":"$3","T":$4,"m":$5,"M":true}'
"""In ``market.payload``'s layout; the event's time, which an archive has not, is the trade's."""


def read_lines(spark: SparkSession, file: Path) -> DataFrame:
    """A text file's lines, with the column ``offset`` in their order."""
    # Hadoop takes a path as it is: what file.as_uri() escapes it would look for escaped. Spark would take
    # brackets, braces, stars, question marks and backslashes for a pattern of many files' names.
    reader = spark.read.option("__globPaths__", "false")
    lines = reader.text(f"file:{file.absolute()}", lineSep="\n").withColumnRenamed("value", "line")
    # Each task numbers its own rows upwards, the tasks' first numbers follow one another.
    return lines.select(F.monotonically_increasing_id().alias("offset"), "line")


def records(lines: DataFrame, symbol: str) -> DataFrame:
    """Each line as a record of ``symbol``'s trade, with Kafka's columns; of any other line a null one."""
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
    """The records judged and folded; those at a time outside [since, until), microseconds, are refused.

    Raises OversizeError if more than ``trades.UNREAD_LIMIT`` lines look like trades but have impossible
    numbers: the caller then loads the lines in smaller parts.
    """
    judged = _of_day(trades.read_quickly(records, 0), since, until)
    folded = fold(judged)
    if unread_records(folded):
        judged = _of_day(trades.judge(records, 0), since, until)
        folded = fold(judged)
    return judged, folded


def first_refused(judged: DataFrame, lines: DataFrame) -> tuple[str, str] | None:
    """The first line that was refused and why, None where there is none."""
    refused = judged.where(F.col(REFUSAL).isNotNull()).orderBy("offset").select("offset", REFUSAL).head(1)
    if not refused:
        return None
    (line,) = lines.where(F.col("offset") == refused[0]["offset"]).select("line").collect()
    return line["line"], refused[0][REFUSAL]


def _of_day(judged: DataFrame, since: int, until: int) -> DataFrame:
    is_no_line = F.col("value").isNull() | (F.col(REFUSAL) == NOT_JSON)  # a number with a leading zero
    told = F.when(is_no_line, NOT_A_LINE).otherwise(F.col(REFUSAL))
    judged = judged.withColumn(REFUSAL, told)
    is_elsewhere = F.col(REFUSAL).isNull() & ~F.col("trade_time").between(since, until - 1)
    refused = judged.withColumn(REFUSAL, F.when(is_elsewhere, ANOTHER_DAY).otherwise(F.col(REFUSAL)))
    # As ``judge`` leaves them: nothing of a refused record goes on, and all of one reason are one row.
    sound = {name: F.when(F.col(REFUSAL).isNull(), F.col(name)) for name in trades.TRADE_COLUMNS}
    return refused.withColumns(sound)
