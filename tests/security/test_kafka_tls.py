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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from kafka.admin import KafkaAdminClient
from pyspark.sql import SparkSession

from candleflow.broker import gap_log
from candleflow.broker.offsets import bounds
from candleflow.broker.security import KafkaRefusalError
from candleflow.broker.topics import consumer_of_no_group, ensure_topics, topic_id
from candleflow.broker.trade_log import TradeLog
from candleflow.engine.trades import read_range
from candleflow.market.gap import GapEvent, GapEventKind
from candleflow.settings import KafkaClient, load
from candleflow.stack import process
from candleflow.stack.class_archive import kafka_archive
from candleflow.stack.kafka import KafkaServer
from deploy.aws.broker.users import apply, broker_context
from tests.security.certificates import Authority

PROPERTIES: Final = Path(__file__).parents[2] / "deploy" / "aws" / "broker" / "server.properties"
PASSWORD: Final = 'canary "quoted\\'
DEADLINE_SECONDS: Final = 300.0

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Broker:
    """A broker of the AWS deployment's kind on this machine: its doors, and who signed its certificate."""

    programs: int
    expired: int
    other_name: int
    authority: Authority

    def settings(self, port: int | None = None, **changed: Any) -> Any:
        given = {
            "kafka_bootstrap": f"127.0.0.1:{port or self.programs}",
            "kafka_security_protocol": "SASL_SSL",
            "kafka_sasl_username": "producer",
            "kafka_sasl_password": PASSWORD,
            "kafka_ssl_ca": str(self.authority.file),
        }
        return load(**(given | changed))


def filled_in(values: dict[str, str]) -> dict[str, str]:
    """The deployment's server.properties, as start.sh fills it in."""
    text = PROPERTIES.read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


@pytest.fixture(scope="module")
def broker(
    tmp_path_factory: pytest.TempPathFactory, java_home: Path, kafka_jars: list[Path], cache_dir: Path
) -> Iterator[Broker]:
    """One broker; two more doors of it show a certificate that has expired, and one with another name."""
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder / "authority")
    here = "IP:127.0.0.1,DNS:localhost"
    own = authority.certificate("broker", here, common_name="candleflow-broker")
    old = authority.certificate("expired", here, common_name="candleflow-broker", is_expired=True)
    other = authority.certificate("other", "DNS:kafka.example.org", common_name="candleflow-broker")
    brokers, controller, programs, expired, other_name = (process.free_port() for _ in range(5))
    doors = {"BROKERS": brokers, "PROGRAMS": programs, "EXPIRED": expired, "OTHER": other_name}
    addresses = ",".join(f"{name}://127.0.0.1:{port}" for name, port in doors.items())
    properties = filled_in(
        {
            "NODE_ID": "1",
            "VOTERS": f"1@127.0.0.1:{controller}",
            "DATA_DIR": "unused",
            "LISTENERS": f"{addresses},CONTROLLER://127.0.0.1:{controller}",
            "ADVERTISED": addresses,
            "KEYSTORE": str(own.both),
            "TRUSTSTORE": str(authority.file),
            "REPLICATION": "1",
            "IN_SYNC": "1",
        }
    )
    properties["listener.security.protocol.map"] += ",EXPIRED:SSL,OTHER:SSL"
    for door, certificate in (("expired", old), ("other", other)):
        properties[f"listener.name.{door}.ssl.keystore.location"] = str(certificate.both)
        properties[f"listener.name.{door}.ssl.keystore.type"] = "PEM"
        properties[f"listener.name.{door}.ssl.client.auth"] = "none"
    archive = kafka_archive(cache_dir, java_home, kafka_jars)
    server = KafkaServer(
        folder / "kafka", programs, java_home, kafka_jars, "256m", properties=properties, archive=archive
    )
    server.start()
    try:
        assert process.wait_for(lambda: process.is_listening(programs), DEADLINE_SECONDS), (
            server.why_it_ended()
        )
        admin = KafkaAdminClient(
            bootstrap_servers=f"127.0.0.1:{brokers}",
            security_protocol="SSL",
            ssl_context=broker_context(str(authority.file), str(own.both)),
        )
        apply(admin, {"producer": PASSWORD, "audit": "another"})
        admin.close()
        yield Broker(programs, expired, other_name, authority)
    finally:
        server.kill()


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
        assert log.is_held
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
