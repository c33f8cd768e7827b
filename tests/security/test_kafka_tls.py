"""Kafka by TLS and SCRAM: a real broker, with the configuration and the users that the AWS deployment
gives it.

Right settings work with each client; a wrong authority, name, certificate or password is refused with a line
that names the setting, and never spoken to in plain text instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from candleflow.broker import gap_log
from candleflow.broker.offsets import bounds
from candleflow.broker.security import KafkaRefusalError
from candleflow.broker.topics import consumer_of_no_group, ensure_topics, topic_id
from candleflow.broker.trade_log import TradeLog
from candleflow.engine.trades import read_range
from candleflow.market.gap import GapEvent, GapEventKind
from candleflow.settings import KafkaClient
from candleflow.stack.process import wait_for
from tests.security.certificates import Authority
from tests.security.conftest import DEADLINE_SECONDS, Broker

pytestmark = pytest.mark.timeout(600)


async def publish(settings: Any, topic: str) -> bytes:
    """One record, acknowledged: by the producer's own way."""
    log = TradeLog(
        settings.kafka_bootstrap,
        topic,
        f"{topic}.rejected",
        max_in_flight=100,
        now_ms=lambda: time.time_ns() // 1_000_000,
        client=settings.kafka_client,
    )
    log.start()
    log.publish("BTCUSDT", b"a trade")
    assert await log.flush(DEADLINE_SECONDS) == 0
    await log.close()
    consumer = consumer_of_no_group(settings.kafka_bootstrap, "test")
    try:
        consumer.assign([(place := _partition(topic))])
        consumer.seek_to_beginning(place)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < deadline:
            for records in consumer.poll(timeout_ms=200).values():
                return bytes(records[0].value)
    finally:
        consumer.close()
    raise AssertionError("nothing came back")


def _partition(topic: str) -> Any:
    from kafka import TopicPartition

    return TopicPartition(topic, 0)


@pytest.mark.parametrize("client", [KafkaClient.KAFKA_PYTHON, KafkaClient.CONFLUENT])
def test_right_settings_work_with_each_client(broker: Broker, client: KafkaClient) -> None:
    settings = broker.settings(kafka_client=client)
    topic = f"trades.{client}"
    ensure_topics(
        settings.kafka_bootstrap, [topic, f"{topic}.rejected"], 1, 1, 1, time.monotonic() + DEADLINE_SECONDS
    )
    assert asyncio.run(publish(settings, topic)) == b"a trade"
    assert len(topic_id(settings.kafka_bootstrap, topic)) == 22
    assert bounds(settings.kafka_bootstrap, topic).end == {0: 1}


def test_spark_reads_what_was_published_and_shows_no_password(broker: Broker, spark: SparkSession) -> None:
    settings = broker.settings()
    topic = "trades.spark"
    ensure_topics(
        settings.kafka_bootstrap, [topic, f"{topic}.rejected"], 1, 1, 1, time.monotonic() + DEADLINE_SECONDS
    )
    asyncio.run(publish(settings, topic))
    records = read_range(spark, settings.kafka_bootstrap, topic, {0: 0}, {0: 1})
    assert [bytes(row["value"]) for row in records.collect()] == [b"a trade"]
    plan: Any = records._jdf
    assert "canary" not in plan.queryExecution().toString()


def test_gaps_are_written_and_read(broker: Broker) -> None:
    kafka = broker.settings().kafka_bootstrap
    event = GapEvent(GapEventKind.SEEN, "BTCUSDT", 1, 2, 1_763_851_200_000_000, "test")
    gap_log.ensure_topic(kafka, "trades.gaps", 1)
    gap_log.write_all(kafka, "trades.gaps", [event])
    assert gap_log.read_all(kafka, "trades.gaps") == [event]


def ignored(_: Sequence[GapEvent]) -> None:
    """What is on record matters not here."""


def test_the_right_to_publish_is_had(broker: Broker) -> None:
    kafka = broker.settings().kafka_bootstrap
    gap_log.ensure_topic(kafka, "trades.right", 1)
    log = gap_log.GapLog(kafka, "trades.right", holder="test", on_all=ignored, on_more=ignored)
    deadline = time.monotonic() + DEADLINE_SECONDS
    try:
        log.acquire(20, lambda: time.monotonic() > deadline)
        # kafka-python may form its group twice at a start: between the two nobody has the right.
        assert wait_for(lambda: log.is_held, DEADLINE_SECONDS)
    finally:
        log.close(10)


def test_a_user_may_do_what_it_was_told_and_no_more(broker: Broker) -> None:
    audit = broker.settings(kafka_sasl_username="audit", kafka_sasl_password="another").kafka_bootstrap
    producer = broker.settings().kafka_bootstrap
    gap_log.ensure_topic(producer, "trades.gaps", 1)
    ensure_topics(producer, ["trades.own"], 1, 1, 1, time.monotonic() + DEADLINE_SECONDS)
    assert bounds(audit, "trades.own").end == {0: 0}
    gap_log.write_all(audit, "trades.gaps", [])
    with pytest.raises(Exception, match=r"(?i)authoriz"):
        gap_log.write_all(
            audit, "trades.own", [GapEvent(GapEventKind.SEEN, "BTCUSDT", 1, 2, 1_763_851_200_000_000, "test")]
        )


def refusal(settings: Any) -> str:
    """What the first thing that every process does says, at once and not at a deadline."""
    with pytest.raises(KafkaRefusalError) as caught:
        ensure_topics(settings.kafka_bootstrap, ["trades"], 1, 1, 1, time.monotonic() + 120)
    text = str(caught.value)
    assert "canary" not in text
    return text


def test_a_wrong_authority_is_refused(broker: Broker, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    assert "signed by nobody that CANDLEFLOW_KAFKA_SSL_CA names" in refusal(
        broker.settings(kafka_ssl_ca=str(stranger.file))
    )


def test_without_an_authority_the_systems_are_asked(broker: Broker) -> None:
    assert "signed by nobody that CANDLEFLOW_KAFKA_SSL_CA names" in refusal(
        broker.settings(kafka_ssl_ca=None)
    )


def test_another_host_name_is_refused(broker: Broker) -> None:
    assert "has another name: look at CANDLEFLOW_KAFKA_BOOTSTRAP" in refusal(
        broker.settings(broker.other_name)
    )


def test_an_expired_certificate_is_refused(broker: Broker) -> None:
    assert "has expired" in refusal(broker.settings(broker.expired))


@pytest.mark.parametrize("changed", [{"kafka_sasl_password": "canary"}, {"kafka_sasl_username": "nobody"}])
def test_a_wrong_password_or_user_is_refused(broker: Broker, changed: dict[str, Any]) -> None:
    assert "look at CANDLEFLOW_KAFKA_SASL_USERNAME and CANDLEFLOW_KAFKA_SASL_PASSWORD" in refusal(
        broker.settings(**changed)
    )


def test_a_server_without_tls_is_not_spoken_to_in_plain_text(broker: Broker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:
        answering = threading.Thread(target=answer_in_plain_text, args=[plain], daemon=True)
        answering.start()
        said = refusal(broker.settings(plain.getsockname()[1]))
    assert "doesn't speak TLS: look at CANDLEFLOW_KAFKA_SECURITY_PROTOCOL" in said


def answer_in_plain_text(server: socket.socket) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return  # the test has closed it
        with connection, contextlib.suppress(OSError):
            heard = connection.recv(1_024)
            assert b"canary" not in heard
            connection.sendall(b"nothing of TLS")
