"""Spark's Kafka options for TLS and passwords correspond to those of the other clients."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from candleflow.broker.security import python_options
from candleflow.engine.kafka_options import kafka_options
from candleflow.engine.session import join_session
from candleflow.errors import StackError
from candleflow.settings import KafkaAddress, KafkaProtocol, KafkaSecurity

SECRET = "secret"
CERTIFICATES = "-----BEGIN CERTIFICATE-----"


def address(protocol: KafkaProtocol, password: str = SECRET) -> KafkaAddress:
    security = KafkaSecurity(protocol, username="me", password=password, authorities=CERTIFICATES)
    return KafkaAddress("one:9094,two:9094", security)


def test_a_plain_address_has_no_options_of_tls() -> None:
    assert kafka_options("one:9092") == {"kafka.bootstrap.servers": "one:9092"}
    assert python_options("one:9092,two:9092") == {
        "bootstrap_servers": ["one:9092", "two:9092"], "security_protocol": "PLAINTEXT"
    }  # fmt: skip


def test_spark_gets_certificates_user_and_password() -> None:
    assert kafka_options(address(KafkaProtocol.SASL_SSL)) == {
        "kafka.bootstrap.servers": "one:9094,two:9094",
        "kafka.security.protocol": "SASL_SSL",
        "kafka.ssl.endpoint.identification.algorithm": "https",
        "kafka.ssl.truststore.type": "PEM",
        "kafka.ssl.truststore.certificates": CERTIFICATES,
        "kafka.sasl.mechanism": "SCRAM-SHA-512",
        "kafka.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required"
            ' username="me" password="secret";'
        ),
    }


def test_without_a_name_no_password_goes() -> None:
    assert "secret" not in str(kafka_options(address(KafkaProtocol.SSL)))


def test_a_password_can_not_end_its_quotes() -> None:
    found = kafka_options(address(KafkaProtocol.SASL_SSL, '"; other \\'))["kafka.sasl.jaas.config"]
    assert found.endswith('password="\\"; other \\\\";')


def test_without_spark_submit_there_is_no_session_to_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYSPARK_GATEWAY_PORT", raising=False)
    with pytest.raises(StackError, match="CANDLEFLOW_SPARK_MASTER"):
        join_session(Path())


def test_an_address_is_copied_as_a_text_is_and_written_without_its_password() -> None:
    """``dataclasses.asdict`` and the file with the running settings do this."""
    kafka = address(KafkaProtocol.SASL_SSL)
    assert copy.deepcopy({"kafka": kafka})["kafka"] is kafka
    assert json.dumps(kafka) == '"one:9094,two:9094"'
