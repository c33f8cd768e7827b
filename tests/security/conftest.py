"""A real Kafka broker with TLS and SCRAM, with the configuration and the users of the AWS deployment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from kafka.admin import KafkaAdminClient

from candleflow.settings import load
from candleflow.stack import process
from candleflow.stack.class_archive import kafka_archive
from candleflow.stack.kafka import KafkaServer
from deploy.aws.broker.users import apply, broker_context
from tests.security.certificates import Authority

PROPERTIES: Final = Path(__file__).parents[2] / "deploy" / "aws" / "broker" / "server.properties"
PASSWORD: Final = 'canary "quoted\\'
PASSWORDS: Final = {"producer": PASSWORD, "processor": "canary of another", "audit": "canary of a third"}
DEADLINE_SECONDS: Final = 300.0


@dataclass(frozen=True)
class Broker:
    """A broker configured as in the AWS deployment: the ports of its listeners, and its authority."""

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

    def settings_of(self, user: str) -> Any:
        return self.settings(kafka_sasl_username=user, kafka_sasl_password=PASSWORDS[user])


def filled_in(values: dict[str, str]) -> dict[str, str]:
    """Return the deployment's server.properties with its placeholders filled in, as start.sh does."""
    text = PROPERTIES.read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


@pytest.fixture(scope="module")
def broker(
    tmp_path_factory: pytest.TempPathFactory, java_home: Path, kafka_jars: list[Path], cache_dir: Path
) -> Iterator[Broker]:
    """One broker. Two extra listeners have an expired certificate and one with another host name."""
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder / "authority")
    here = "IP:127.0.0.1,DNS:localhost"
    own = authority.certificate("broker", here, common_name="candleflow-broker")
    old = authority.certificate("expired", here, common_name="candleflow-broker", is_expired=True)
    other = authority.certificate("other", "DNS:kafka.example.org", common_name="candleflow-broker")
    brokers, controller, programs, expired, other_name = (process.free_port() for _ in range(5))
    listeners = {"BROKERS": brokers, "PROGRAMS": programs, "EXPIRED": expired, "OTHER": other_name}
    addresses = ",".join(f"{name}://127.0.0.1:{port}" for name, port in listeners.items())
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
    for listener, certificate in (("expired", old), ("other", other)):
        properties[f"listener.name.{listener}.ssl.keystore.location"] = str(certificate.both)
        properties[f"listener.name.{listener}.ssl.keystore.type"] = "PEM"
        properties[f"listener.name.{listener}.ssl.client.auth"] = "none"
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
        apply(admin, PASSWORDS)
        admin.close()
        yield Broker(programs, expired, other_name, authority)
    finally:
        server.kill()
