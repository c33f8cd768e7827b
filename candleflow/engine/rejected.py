"""Publish rejected records with their reason to the dead-letter topic, ``trades.rejected``."""

from __future__ import annotations

from typing import Final

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812 - the name that every Spark programmer knows

from candleflow.engine.kafka_options import kafka_options
from candleflow.engine.trades import REASON

RECORD_KEPT_BYTES: Final = 65_536
"""A longer record is truncated to this; the header ``truncated_from`` has its original length."""


def publish_rejected(judged: DataFrame, bootstrap: str, rejected_topic: str) -> None:
    """Publish the rejected records among the rows of ``trades.judge``, and wait for Kafka's acknowledgement.

    Headers: ``reason``, and ``origin``, which is topic, partition and offset, such as ``trades/0/1234``.
    Raises Spark's error if Kafka has not acknowledged all of them.
    """
    rejected = judged.where(F.col(REASON).isNotNull())
    origin = F.concat_ws("/", "topic", "partition", "offset")
    headers = F.array(_header("reason", F.col(REASON)), _header("origin", origin))
    length = F.octet_length("value")
    cut = F.array_append(headers, _header("truncated_from", length.cast("string")))
    (
        rejected.select(
            F.substring("value", 1, RECORD_KEPT_BYTES).alias("value"),
            F.when(length > RECORD_KEPT_BYTES, cut).otherwise(headers).alias("headers"),
        )
        .write.format("kafka")
        .options(**kafka_options(bootstrap))
        .option("kafka.acks", "all")
        .option("includeHeaders", "true")
        .option("topic", rejected_topic)
        .save()
    )


def _header(name: str, text: Column) -> Column:
    return F.struct(F.lit(name).alias("key"), text.cast("binary").alias("value"))
