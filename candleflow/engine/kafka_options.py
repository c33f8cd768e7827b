"""How Spark's Kafka source and sink are told where Kafka is, and of TLS and passwords."""

from __future__ import annotations

from typing import Final

from candleflow.settings import KafkaAddress, KafkaProtocol

_LOGIN: Final = "org.apache.kafka.common.security.scram.ScramLoginModule"


def kafka_options(bootstrap: str) -> dict[str, str]:
    """Options of a reader's or a writer's; they may hold the password, so no log or plan may show them.

    Certificates go as text, so that they needn't lie on every executor.
    """
    options = {"kafka.bootstrap.servers": str(bootstrap)}
    if not isinstance(bootstrap, KafkaAddress):
        return options
    security = bootstrap.security
    options["kafka.security.protocol"] = str(security.protocol)
    if security.protocol is not KafkaProtocol.PLAINTEXT:
        options["kafka.ssl.endpoint.identification.algorithm"] = "https"
        if security.authorities:
            options |= {
                "kafka.ssl.truststore.type": "PEM",
                "kafka.ssl.truststore.certificates": security.authorities,
            }
    if security.protocol is KafkaProtocol.SASL_SSL:
        options |= {
            "kafka.sasl.mechanism": str(security.mechanism),
            "kafka.sasl.jaas.config": (
                f"{_LOGIN} required username={_quoted(security.username)}"
                f" password={_quoted(security.password)};"
            ),
        }
    return options


def _quoted(text: str) -> str:
    """As JAAS's grammar reads a quoted text."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
