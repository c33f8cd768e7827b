"""Publish with the producer's client, and read and write Kafka with Spark as the processor does.

``python -m tests.security.spark_reading FOLDER TOPIC`` runs as a separate process with Spark's event log and
DEBUG logging, so that a test can search the output for secrets. The settings say where Kafka is.
"""

from __future__ import annotations

import asyncio
import sys
import traceback
from dataclasses import replace
from pathlib import Path

from pyspark.sql import SparkSession

from candleflow.engine.rejected import publish_rejected
from candleflow.engine.session import SparkFiles, start_session, stop_session
from candleflow.engine.trades import judge, read_range, read_stream
from candleflow.settings import KafkaAddress, load
from candleflow.stack.jars import ensure_jars
from candleflow.stack.java import find_java
from candleflow.telemetry import set_up_logging
from tests.security.test_kafka_tls import publish

_FUTURE_US = 60_000_000


def fail(spark: SparkSession, kafka: KafkaAddress, topic: str, end: int) -> None:
    """Cause a read error and print its whole traceback."""
    try:
        read_range(spark, kafka, topic, {0: end - 1}, {0: end}).collect()
    except Exception:  # noqa: BLE001 - whatever Spark raises
        traceback.print_exc()
    else:
        raise AssertionError("the read succeeded, but should fail")


def work(spark: SparkSession, kafka: KafkaAddress, topic: str, folder: Path) -> None:
    print(spark.sparkContext.getConf().getAll())
    judged = judge(read_range(spark, kafka, topic, {0: 0}, {0: 1}), _FUTURE_US)
    judged.explain(extended=True)
    publish_rejected(judged, kafka, f"{topic}.rejected")
    records = read_stream(spark, kafka, topic, {0: 0}, records_per_batch=1_000)
    writer = records.writeStream.format("noop").option("checkpointLocation", str(folder / "checkpoint"))
    query = writer.trigger(availableNow=True).start()
    query.awaitTermination()
    query.explain(extended=True)
    print(query.lastProgress)
    fail(spark, kafka, topic, 9)
    wrong = replace(kafka.security, password=f"{kafka.security.password} and more")
    fail(spark, KafkaAddress(kafka, wrong), topic, 1)


def main(folder: Path, topic: str) -> None:
    settings = load()
    set_up_logging("spark", "DEBUG")
    events = folder / "events"
    events.mkdir()
    files = SparkFiles(
        folder / "work",
        find_java(settings.stack.cache_path),
        ensure_jars("spark", settings.stack.cache_path),
        [
            "-Dspark.eventLog.enabled=true",
            "-Dspark.eventLog.compress=false",
            f"-Dspark.eventLog.dir={events.as_uri()}",
        ],
    )
    spark = start_session(files, master="local[1]", memory="600m")
    assert isinstance(settings.kafka.bootstrap, KafkaAddress)
    asyncio.run(publish(settings, topic))
    try:
        work(spark, settings.kafka.bootstrap, topic, folder)
    finally:
        stop_session(spark)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
