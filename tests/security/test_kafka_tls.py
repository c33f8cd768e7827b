"""Kafka with TLS and SCRAM: a real broker with the configuration and the users of the AWS deployment.

Correct settings work. A wrong authority, host name, certificate or password gives an error that names the
setting. The client never falls back to plain text.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from pyspark.sql import SparkSession

from candleflow.broker import gap_log
from candleflow.broker.lease import Lease
from candleflow.broker.offsets import bounds
from candleflow.broker.security import KafkaRefusalError
from candleflow.broker.topics import consumer_of_no_group, ensure_topics, topic_id
from candleflow.broker.trade_log import TradeLog
from candleflow.engine.trades import read_range
from candleflow.market.gap import GapEvent, GapEventKind
from candleflow.stack.process import wait_for
from deploy.aws.broker.users import RIGHTS
from tests.security import kafka_attempts as attempts
from tests.security.certificates import Authority
from tests.security.conftest import DEADLINE_SECONDS, PASSWORDS, Broker
from tests.security.plain import plain_server

pytestmark = pytest.mark.timeout(600)


def trade_log(settings: Any, topic: str) -> TradeLog:
    """Return the producer's client for the topic."""
    return TradeLog(
        settings.kafka.bootstrap,
        topic,
        f"{topic}.rejected",
        max_in_flight=100,
        now_ms=lambda: time.time_ns() // 1_000_000,
    )


async def publish(settings: Any, topic: str) -> bytes:
    """Publish one record with the producer's client, and return the record read back."""
    log = trade_log(settings, topic)
    log.start()
    log.publish("BTCUSDT", b"a trade")
    assert await log.flush(DEADLINE_SECONDS) == 0
    await log.close()
    consumer = consumer_of_no_group(settings.kafka.bootstrap, "test")
    try:
        consumer.assign([(place := _partition(topic))])
        consumer.seek_to_beginning(place)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < deadline:
            for records in consumer.poll(timeout_ms=200).values():
                return bytes(records[0].value)
    finally:
        consumer.close()
    raise AssertionError("the published record could not be read")


def _partition(topic: str) -> Any:
    from kafka import TopicPartition

    return TopicPartition(topic, 0)


def test_right_settings_work(broker: Broker) -> None:
    settings = broker.settings()
    topic = "trades.python"
    ensure_topics(
        settings.kafka.bootstrap, [topic, f"{topic}.rejected"], 1, 1, 1, time.monotonic() + DEADLINE_SECONDS
    )
    assert asyncio.run(publish(settings, topic)) == b"a trade"
    assert len(topic_id(settings.kafka.bootstrap, topic)) == 22
    assert bounds(settings.kafka.bootstrap, topic).end == {0: 1}


def test_spark_reads_what_was_published_and_shows_no_password(broker: Broker, spark: SparkSession) -> None:
    settings = broker.settings()
    topic = "trades.spark"
    ensure_topics(
        settings.kafka.bootstrap, [topic, f"{topic}.rejected"], 1, 1, 1, time.monotonic() + DEADLINE_SECONDS
    )
    asyncio.run(publish(settings, topic))
    records = read_range(spark, settings.kafka.bootstrap, topic, {0: 0}, {0: 1})
    assert [bytes(row["value"]) for row in records.collect()] == [b"a trade"]
    plan: Any = records._jdf
    assert "canary" not in plan.queryExecution().toString()


def test_gaps_are_written_and_read(broker: Broker) -> None:
    kafka = broker.settings().kafka.bootstrap
    event = GapEvent(GapEventKind.SEEN, "BTCUSDT", 1, 2, 1_763_851_200_000_000, "test")
    gap_log.ensure_topic(kafka, "trades.gaps", 1)
    gap_log.write_all(kafka, "trades.gaps", [event])
    assert gap_log.read_all(kafka, "trades.gaps") == [event]


def ignored(_: Sequence[GapEvent]) -> None:
    """Ignore the gap events."""


def test_the_lease_is_acquired(broker: Broker) -> None:
    kafka = broker.settings().kafka.bootstrap
    gap_log.ensure_topic(kafka, "trades.right", 1)
    log = Lease(kafka, "trades.right", holder="test", on_all=ignored, on_more=ignored)
    deadline = time.monotonic() + DEADLINE_SECONDS
    try:
        log.acquire(20, lambda: time.monotonic() > deadline)
        # kafka-python may join its group twice at a start; in between no member has the lease.
        assert wait_for(lambda: log.is_held, DEADLINE_SECONDS)
    finally:
        log.close(10)


Tried: TypeAlias = Mapping[str, Sequence[tuple[attempts.Attempt, str]]]

MAY: Tried = {
    "producer": [
        (attempts.make_topic, "trades.new"),
        (attempts.write, "trades"),
        (attempts.write, "trades.rejected"),
        (attempts.write, "trades.gaps"),
        (attempts.read, "trades.gaps"),
        (attempts.join, "candleflow-"),
    ],
    "processor": [
        (attempts.make_topic, "trades.new"),
        (attempts.read, "trades"),
        (attempts.write, "trades.rejected"),
        (attempts.join, "spark-kafka-"),
    ],
    "audit": [(attempts.read, "trades"), (attempts.write, "trades.gaps")],
}
NOBODY_MAY: Sequence[tuple[attempts.Attempt, str]] = [
    (attempts.make_topic, "other"),
    (attempts.write, "other"),
    (attempts.read, "other"),
    (attempts.delete_topic, "trades"),
    (attempts.delete_records, "trades"),
    (attempts.grow_topic, "trades"),
    (attempts.keep_for_a_second, "trades"),
    (attempts.join, "other"),
    (attempts.change_the_broker, "1"),
    (attempts.allow_everything, "audit"),
    (attempts.set_credentials, "producer"),
]
MAY_NOT: Tried = {
    "producer": [*NOBODY_MAY, (attempts.join, "spark-kafka-")],
    "processor": [
        *NOBODY_MAY,
        (attempts.write, "trades"),
        (attempts.write, "trades.gaps"),
        (attempts.join, "candleflow-"),
    ],
    "audit": [
        *NOBODY_MAY,
        (attempts.make_topic, "trades.new"),
        (attempts.write, "trades"),
        (attempts.write, "trades.rejected"),
        (attempts.join, "candleflow-"),
        (attempts.join, "spark-kafka-"),
    ],
}
DENIED_BY: Mapping[attempts.Attempt, str] = {
    attempts.join: "GROUP",
    attempts.change_the_broker: "CLUSTER",
    attempts.allow_everything: "CLUSTER",
    attempts.set_credentials: "CLUSTER",
}
"""The kind of resource whose permission is missing, where it isn't the topic."""


def each(of_users: Tried) -> list[Any]:
    return [
        pytest.param(user, attempt, what, id=f"{user} {attempt.__name__} {what}")
        for user, tried in of_users.items()
        for attempt, what in tried
    ]


@pytest.fixture(scope="module")
def topics(broker: Broker) -> None:
    kafka = broker.settings().kafka.bootstrap
    ensure_topics(kafka, ["trades", "trades.rejected"], 1, 1, 1, time.monotonic() + DEADLINE_SECONDS)
    gap_log.ensure_topic(kafka, "trades.gaps", 1)
    for topic in ("trades", "trades.gaps"):
        assert attempts.write(kafka, topic) is None


@pytest.mark.usefixtures("topics")
@pytest.mark.parametrize(("user", "attempt", "what"), each(MAY))
def test_a_user_has_its_permissions(broker: Broker, user: str, attempt: attempts.Attempt, what: str) -> None:
    assert attempt(broker.settings_of(user).kafka.bootstrap, what) is None


@pytest.mark.usefixtures("topics")
@pytest.mark.parametrize(("user", "attempt", "what"), each(MAY_NOT))
def test_a_user_has_no_other_permission(
    broker: Broker, user: str, attempt: attempts.Attempt, what: str
) -> None:
    said = attempt(broker.settings_of(user).kafka.bootstrap, what)
    assert said == f"{DENIED_BY.get(attempt, 'TOPIC')}_AUTHORIZATION_FAILED"


def test_the_permissions_of_every_user_are_tested() -> None:
    assert MAY.keys() == MAY_NOT.keys() == RIGHTS.keys() == PASSWORDS.keys()


def refusal(settings: Any) -> str:
    """Return the error of ``ensure_topics``, which every process calls first. It must come at once."""
    with pytest.raises(KafkaRefusalError) as caught:
        ensure_topics(settings.kafka.bootstrap, ["trades"], 1, 1, 1, time.monotonic() + 120)
    text = str(caught.value)
    assert "canary" not in text
    return text


def test_a_wrong_authority_is_refused(broker: Broker, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    assert "not signed by an authority in CANDLEFLOW_KAFKA_SSL_CA" in refusal(
        broker.settings(kafka_ssl_ca=str(stranger.file))
    )


def test_without_an_authority_the_systems_are_asked(broker: Broker) -> None:
    assert "not signed by an authority in CANDLEFLOW_KAFKA_SSL_CA" in refusal(
        broker.settings(kafka_ssl_ca=None)
    )


def test_another_host_name_is_refused(broker: Broker) -> None:
    assert "is for another host name: check CANDLEFLOW_KAFKA_BOOTSTRAP" in refusal(
        broker.settings(broker.other_name)
    )


def test_an_expired_certificate_is_refused(broker: Broker) -> None:
    assert "has expired" in refusal(broker.settings(broker.expired))


@pytest.mark.parametrize("changed", [{"kafka_sasl_password": "canary"}, {"kafka_sasl_username": "stranger"}])
def test_a_wrong_password_or_user_is_refused(broker: Broker, changed: dict[str, Any]) -> None:
    assert "check CANDLEFLOW_KAFKA_SASL_USERNAME and CANDLEFLOW_KAFKA_SASL_PASSWORD" in refusal(
        broker.settings(**changed)
    )


def test_a_server_without_tls_gets_nothing_in_plain_text(broker: Broker) -> None:
    with plain_server(b"nothing of TLS") as server:
        said = refusal(broker.settings(server.port))
    assert "doesn't use TLS: check CANDLEFLOW_KAFKA_SECURITY_PROTOCOL" in said
    assert server.heard
    assert not [heard for heard in server.heard if b"canary" in heard or b"candleflow-topics" in heard]


@pytest.fixture
def wrong(request: pytest.FixtureRequest, broker: Broker, tmp_path: Path) -> tuple[Any, str]:
    """Settings with one wrong value, and Spark's error message."""
    if request.param == "authority":
        return broker.settings(kafka_ssl_ca=str(Authority(tmp_path, "stranger").file)), "SSL handshake failed"
    return broker.settings(kafka_sasl_password="canary"), "Authentication failed"


@pytest.mark.parametrize("wrong", ["authority", "password"], indirect=True)
def test_spark_says_what_is_wrong(wrong: tuple[Any, str], spark: SparkSession) -> None:
    settings, said = wrong
    with pytest.raises(Exception, match=said) as caught:
        read_range(spark, settings.kafka.bootstrap, "trades", {0: 0}, {0: 1}).collect()
    assert "canary" not in str(caught.value)
