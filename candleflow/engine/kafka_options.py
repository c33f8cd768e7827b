"""Options for Spark's Kafka source and sink: the address, TLS and passwords."""

from __future__ import annotations

from typing import Final

from candleflow.settings import KafkaAddress, KafkaProtocol

_LOGIN: Final = "org.apache.kafka.common.security.scram.ScramLoginModule"


def kafka_options(bootstrap: str) -> dict[str, str]:
    """Return the options for a reader or writer. They can contain the password, so never log them.

    Certificates are passed as text, so the executors don't need the files.
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
    """Quote and escape ``text`` for a JAAS configuration."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
