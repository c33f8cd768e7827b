"""Creating topics and reading their ids, with a real broker."""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
from pathlib import Path

import pytest
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

from candleflow.broker import topics
from candleflow.broker.topics import ensure_topics, topic_id
from candleflow.errors import BrokerError
from candleflow.stack import process
from candleflow.stack.kafka import KafkaServer
from candleflow.stack.process import free_port, wait_for


def settings_of(bootstrap: str, topic: str) -> dict[str, str]:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        described = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    finally:
        admin.close()
    return {
        name: str(value["value"])
        for name, value in described[ConfigResourceType.TOPIC.name.lower()][topic].items()
    }


def test_a_missing_topic_is_created_with_the_right_settings(kafka_bootstrap: str, topic: str) -> None:
    ensure_topics(kafka_bootstrap, [topic, f"{topic}.rejected"], 3, 1, 168)
    for name in (topic, f"{topic}.rejected"):
        found = settings_of(kafka_bootstrap, name)
        assert found["message.timestamp.type"] == "CreateTime"
        assert found["retention.ms"] == str(168 * 3_600_000)
        assert found["cleanup.policy"] == "delete"
        assert found["min.insync.replicas"] == "1"
    admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    assert len(admin.describe_topics([topic])[0]["partitions"]) == 3
    admin.close()


def test_an_existing_topic_is_unchanged_and_a_warning_names_its_partitions(
    kafka_bootstrap: str, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    ensure_topics(kafka_bootstrap, [topic], 2, 1, 168)
    made = topic_id(kafka_bootstrap, topic)
    ensure_topics(kafka_bootstrap, [topic], 2, 1, 168)
    assert "partitions" not in caplog.text
    ensure_topics(kafka_bootstrap, [topic], 5, 1, 1)
    assert "keeps its 2 partitions; CANDLEFLOW_KAFKA_PARTITIONS=5" in caplog.text
    assert settings_of(kafka_bootstrap, topic)["retention.ms"] == str(168 * 3_600_000)
    assert topic_id(kafka_bootstrap, topic) == made


def test_several_processes_may_create_the_same_topic_at_once(kafka_bootstrap: str, topic: str) -> None:
    errors: list[Exception] = []

    def make() -> None:
        try:
            ensure_topics(kafka_bootstrap, [topic], 1, 1, 1, time.monotonic() + 30)
        except BrokerError as error:
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_a_recreated_topic_has_another_id(kafka_bootstrap: str, topic: str) -> None:
    ensure_topics(kafka_bootstrap, [topic], 1, 1, 1)
    first = topic_id(kafka_bootstrap, topic)
    assert re.fullmatch(r"[A-Za-z0-9_-]{22}", first)
    admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    admin.delete_topics([topic])
    assert wait_for(lambda: topic not in admin.list_topics(), 20)
    admin.close()
    ensure_topics(kafka_bootstrap, [topic], 1, 1, 1, time.monotonic() + 30)
    assert topic_id(kafka_bootstrap, topic) != first


def test_the_id_is_written_as_kafkas_own_files_write_it(kafka: KafkaServer, topic: str) -> None:
    ensure_topics(kafka.bootstrap, [topic], 1, 1, 1)
    metadata = kafka.data / f"{topic}-0" / "partition.metadata"
    assert process.wait_for(metadata.exists, 30), "Kafka writes it some time after the topic is made"
    assert f"topic_id: {topic_id(kafka.bootstrap, topic)}" in metadata.read_text()


def test_the_id_of_a_topic_that_is_not_there_is_an_error_that_names_it(
    kafka_bootstrap: str, topic: str
) -> None:
    with pytest.raises(BrokerError, match=re.escape(topic)):
        topic_id(kafka_bootstrap, topic)


def test_more_replicas_than_brokers_is_an_error_that_names_the_setting(
    kafka_bootstrap: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topics, "STARTING_SECONDS", 0.5)
    with pytest.raises(BrokerError, match="CANDLEFLOW_KAFKA_REPLICATION=3"):
        ensure_topics(kafka_bootstrap, [topic], 1, 3, 1)


def test_a_name_that_kafka_refuses_is_an_error_at_once(kafka_bootstrap: str) -> None:
    with pytest.raises(BrokerError, match="refuses to create"):
        ensure_topics(kafka_bootstrap, ["no/such name"], 1, 1, 1)


def test_waiting_for_kafka_logs_few_lines_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(topics, "ATTEMPT_MS", 200)
    monkeypatch.setattr(topics, "LOG_EVERY_SECONDS", 60.0)
    bootstrap = f"127.0.0.1:{free_port()}"
    with pytest.raises(BrokerError, match=f"Kafka at {bootstrap} can't be reached"):
        ensure_topics(bootstrap, ["trades"], 1, 1, 1, time.monotonic() + 1.5)
    ours = [one for one in caplog.records if one.name == topics.__name__]
    assert [one.levelno for one in ours] == [logging.WARNING]
    assert f"waiting for Kafka at {bootstrap}" in ours[0].getMessage()
    assert "Traceback" not in caplog.text


def test_a_caller_that_gives_up_does_not_wait_for_the_deadline() -> None:
    given_up = threading.Event()
    threading.Timer(0.3, given_up.set).start()
    began_at = time.monotonic()
    with pytest.raises(BrokerError):
        ensure_topics(f"127.0.0.1:{free_port()}", ["trades"], 1, 1, 1, gives_up=given_up.is_set)
    assert time.monotonic() - began_at < 5


def test_a_server_that_is_not_kafka_is_not_waited_for_for_ever() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute, pytest.raises(BrokerError):
        ensure_topics(
            f"127.0.0.1:{mute.getsockname()[1]}", ["trades"], 1, 1, 1, deadline=time.monotonic() + 1
        )


@pytest.mark.slow
def test_a_broker_that_starts_later_is_found(
    tmp_path: Path, java_home: Path, kafka_jars: list[Path], topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger=topics.__name__)
    server = KafkaServer(tmp_path, free_port(), java_home, kafka_jars, "256m")
    waiting = threading.Thread(
        target=ensure_topics, args=(server.bootstrap, [topic], 1, 1, 1, time.monotonic() + 60)
    )
    waiting.start()
    try:
        server.start()
        waiting.join(timeout=60)
        assert not waiting.is_alive()
        assert topic_id(server.bootstrap, topic)
    finally:
        server.stop()
    assert "is available" in caplog.text
