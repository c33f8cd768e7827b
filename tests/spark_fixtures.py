"""One real Spark session, in its own JVM, for all tests that need one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession

from candleflow.engine.session import SparkFiles, start_session, stop_session

RECORD_SCHEMA = "topic string, partition int, offset long, timestamp timestamp, value binary"
PUBLISHED_AT = datetime(2024, 8, 9, tzinfo=UTC)
"""Default Kafka timestamp of the records of ``records_of``."""


@pytest.fixture(scope="session")
def spark(
    java_home: Path, spark_jars: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SparkSession]:
    # In a session of a minute C2 costs more than it saves: 89 s of processor time, 71 with C1 alone.
    options = ["-XX:TieredStopAtLevel=1"]
    files = SparkFiles(tmp_path_factory.mktemp("spark"), java_home, spark_jars, options)
    session = start_session(files, master="local[2]", memory="600m")
    yield session
    stop_session(session)


def records_of(
    spark: SparkSession, values: Sequence[bytes | None], published_at: datetime = PUBLISHED_AT
) -> DataFrame:
    """Return records like those of Spark's Kafka source: topic ``trades``, partition 0, offsets from 0."""
    rows = [
        ("trades", 0, offset, published_at, None if value is None else bytearray(value))
        for offset, value in enumerate(values)
    ]
    return spark.createDataFrame(rows, RECORD_SCHEMA)
