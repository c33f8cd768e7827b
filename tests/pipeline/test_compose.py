"""docker-compose.yml without Docker: its form, its ports, and a real broker run with its environment.

``tests/data/compose-spec.json`` is the Compose Specification's own schema (Apache License 2.0, beside it).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from kafka import KafkaConsumer, KafkaProducer

from candleflow.broker.topics import ensure_topics
from candleflow.settings import Settings
from candleflow.stack.kafka import KafkaServer
from candleflow.stack.process import free_port
from candleflow.store.credentials import DEVELOPMENT_PASSWORD

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "tests" / "data" / "compose-spec.json").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())

# What apache/kafka's entry point keeps for Java and its scripts.
NOT_PROPERTIES = {"KAFKA_HEAP_OPTS", "KAFKA_OPTS", "KAFKA_LOG4J_OPTS", "KAFKA_JVM_PERFORMANCE_OPTS"}


def properties_of_the_image(environment: dict[str, str]) -> dict[str, str]:
    """server.properties as apache/kafka's entry point makes it of KAFKA_* variables."""
    properties = {}
    for name, value in environment.items():
        if name.startswith("KAFKA_") and name not in NOT_PROPERTIES:
            dotted = name.removeprefix("KAFKA_").lower().replace("_", ".")
            properties[dotted.replace("...", "-").replace("..", "_")] = value
    return properties


def moved_to_free_ports(properties: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The properties with each container port on a free one of this machine; the doors' addresses."""
    ports = {"19092": str(free_port()), "9092": str(free_port()), "9093": str(free_port())}
    moved = {}
    for name, value in properties.items():
        if "listeners" in name or "voters" in name:
            here = re.sub(r"(//|@)(kafka)?:", r"\g<1>127.0.0.1:", value)
            moved[name] = re.sub(r":(19092|9092|9093)\b", lambda found: f":{ports[found[1]]}", here)
        else:
            moved[name] = value
    return moved, {"inside": f"127.0.0.1:{ports['19092']}", "host": f"127.0.0.1:{ports['9092']}"}


@pytest.fixture(scope="module")
def doors(
    tmp_path_factory: pytest.TempPathFactory, java_home: Path, kafka_jars: list[Path]
) -> Iterator[dict[str, str]]:
    properties = properties_of_the_image(COMPOSE["services"]["kafka"]["environment"])
    moved, addresses = moved_to_free_ports(properties)
    port = int(addresses["host"].rpartition(":")[2])
    folder = tmp_path_factory.mktemp("compose")
    server = KafkaServer(folder, port, java_home, kafka_jars, "256m", properties=moved)
    server.start()
    try:
        server.wait_until_ready()
        yield addresses
    finally:
        server.stop()


def test_the_file_is_valid_by_the_compose_specification() -> None:
    jsonschema.validate(COMPOSE, SCHEMA, jsonschema.Draft202012Validator)


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_port_is_published_on_this_machine_only(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in COMPOSE["services"][name]["ports"])


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_service_has_a_health_check_and_keeps_its_data_in_a_named_volume(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["healthcheck"]["test"]
    volumes = [volume.partition(":")[0] for volume in service["volumes"]]
    assert volumes
    assert set(volumes) <= set(COMPOSE["volumes"])


def test_the_defaults_of_the_settings_are_the_addresses_of_the_compose_file() -> None:
    settings = Settings.model_construct()
    environment = COMPOSE["services"]["postgres"]["environment"]
    host_door = COMPOSE["services"]["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert f"HOST://{settings.kafka_bootstrap}" in host_door
    assert COMPOSE["services"]["postgres"]["ports"] == [f"127.0.0.1:{settings.postgres.port}:5432"]
    assert environment["POSTGRES_USER"] == settings.postgres.owner
    assert environment["POSTGRES_DB"] == settings.postgres.database
    assert environment["POSTGRES_PASSWORD"] == f"${{CANDLEFLOW_POSTGRES_PASSWORD:-{DEVELOPMENT_PASSWORD}}}"


@pytest.mark.parametrize(("written_by", "read_by"), [("host", "inside"), ("inside", "host")])
def test_the_broker_is_reached_by_both_doors(
    doors: dict[str, str], topic: str, written_by: str, read_by: str
) -> None:
    ensure_topics(doors[written_by], [topic], 1, 1, 1)
    producer = KafkaProducer(bootstrap_servers=doors[written_by])
    producer.send(topic, b"a trade").get(timeout=30)
    producer.close()
    consumer = KafkaConsumer(
        topic, bootstrap_servers=doors[read_by], auto_offset_reset="earliest", consumer_timeout_ms=30_000
    )
    try:
        assert next(consumer).value == b"a trade"
    finally:
        consumer.close()


def test_the_broker_of_the_compose_file_makes_no_topic_by_a_misspelt_name(
    doors: dict[str, str], topic: str
) -> None:
    producer = KafkaProducer(bootstrap_servers=doors["host"], max_block_ms=2_000)
    with pytest.raises(Exception, match=r"(?i)unknown|metadata|timeout"):
        producer.send(topic, b"a trade").get(timeout=10)
    producer.close()
