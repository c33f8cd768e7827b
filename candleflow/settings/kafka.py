"""Settings of Kafka: addresses, security, and how topics are created."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from candleflow.settings.checks import MEMORY, certificates_in, check_certificates, expanded
from candleflow.settings.section import PREFIX, NamedError, Section

_PROTOCOL: Final = f"{PREFIX}KAFKA_SECURITY_PROTOCOL"


class KafkaProtocol(StrEnum):
    """The values of ``CANDLEFLOW_KAFKA_SECURITY_PROTOCOL``, by Kafka's own names."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_SSL = "SASL_SSL"


class ScramMechanism(StrEnum):
    """SASL mechanisms that prove a password without sending it."""

    SHA_512 = "SCRAM-SHA-512"
    SHA_256 = "SCRAM-SHA-256"


@dataclass(frozen=True, slots=True)
class KafkaSecurity:
    """Security settings of every Kafka client. No repr shows the password."""

    protocol: KafkaProtocol = KafkaProtocol.PLAINTEXT
    mechanism: ScramMechanism = ScramMechanism.SHA_512
    username: str = ""
    password: str = field(default="", repr=False)
    authorities: str = ""
    """PEM certificates of the authorities that sign the brokers' certificates; empty: the system's."""


class KafkaAddress(str):
    """Kafka's ``host:port`` list, together with its security settings.

    A ``str``, so that it can be passed wherever an address is expected. Because the security settings travel
    with it, no client can be created without them.
    """

    security: KafkaSecurity

    def __new__(cls, text: str, security: KafkaSecurity) -> Self:
        made = super().__new__(cls, text)
        made.security = security
        return made

    def __deepcopy__(self, _: object) -> Self:
        """Return the same object: it is immutable."""
        return self


class KafkaSettings(Section):
    """``bootstrap`` is a KafkaAddress, which includes the security settings."""

    bootstrap: str = Field(
        "127.0.0.1:9092",
        description="Kafka brokers as host:port, separated by commas. Change it to use your own Kafka",
    )
    security_protocol: KafkaProtocol = Field(
        KafkaProtocol.PLAINTEXT,
        description="Kafka security protocol; clients never fall back to another. Use SSL or SASL_SSL for a "
        "Kafka on another machine",
    )
    sasl_mechanism: ScramMechanism = Field(
        ScramMechanism.SHA_512, description="With SASL_SSL: the SASL mechanism that your brokers use"
    )
    sasl_username: str | None = Field(None, description="With SASL_SSL: the user name at Kafka")
    sasl_password: SecretStr | None = Field(None, description="With SASL_SSL: the password at Kafka")
    ssl_ca: str | None = Field(
        None,
        description="PEM certificates of the authority that signs the brokers' certificates: a file, or the "
        "text itself. Set it for a private authority; unset: the system's authorities",
    )
    partitions: int = Field(
        1,
        ge=1,
        le=1_024,
        description="Number of partitions when Candleflow creates the trades topic; later changes have no "
        "effect. Raise it to read with several Spark tasks",
    )
    replication: int = Field(
        1,
        ge=1,
        le=9,
        description="Replicas of each record when Candleflow creates a topic; later changes have no effect. "
        "Use 3 on a cluster of three or more brokers",
    )
    retention_hours: int = Field(
        168,
        ge=1,
        le=87_600,
        description="Hours that Kafka keeps trades, set when Candleflow creates the topic. Longer: older "
        "candles can be rebuilt, for more disk space",
    )
    memory: str = Field(
        "384m",
        pattern=MEMORY,
        description="Heap of the local Kafka, such as 384m or 1g. Raise it if its log shows OutOfMemoryError",
    )
    max_in_flight: int = Field(
        50_000,
        ge=100,
        le=10_000_000,
        alias="max_in_flight",
        description="In-flight limit: trades that may wait for Kafka's acknowledgement before the producer "
        "drops new ones and fills them later. Raise it to ride out longer pauses of Kafka, for more memory",
    )

    @field_validator("bootstrap")
    @classmethod
    def _check_bootstrap(cls, value: str) -> str:
        servers = [server.strip() for server in value.split(",")]
        for server in servers:
            host, _, port = server.rpartition(":")
            if not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65_535:
                raise ValueError("must be host:port, several separated by commas, with ports from 1 to 65535")
        return ",".join(servers)

    @field_validator("ssl_ca")
    @classmethod
    def _check_authorities(cls, value: str | None) -> str | None:
        """Return the certificates as text: every Kafka client accepts text, but not every one a file."""
        if not value:
            return None
        is_text = value.lstrip().startswith("-----BEGIN")
        text = value if is_text else certificates_in(expanded(Path(value)))
        check_certificates(text, "the text" if is_text else "the file")
        return text

    @model_validator(mode="after")
    def _check_security(self) -> Self:
        """Check that settings which need each other are all set, and that none would be ignored.

        Above all, refuse a password on a connection without TLS.
        """
        protocol = self.security_protocol
        needs_user = protocol is KafkaProtocol.SASL_SSL
        username = self.sasl_username or ""
        password = self.sasl_password.get_secret_value() if self.sasl_password else ""
        for name, value in (("kafka_sasl_username", username), ("kafka_sasl_password", password)):
            if bool(value) is not needs_user:
                raise NamedError(
                    name, None, f"must be {'set' if needs_user else 'unset'} with {_PROTOCOL}={protocol}"
                )
        if self.ssl_ca and protocol is KafkaProtocol.PLAINTEXT:
            raise NamedError("kafka_ssl_ca", None, f"must be unset with {_PROTOCOL}={protocol}")
        security = KafkaSecurity(protocol, self.sasl_mechanism, username, password, self.ssl_ca or "")
        # The model is frozen, so replace the plain text of the environment with the typed address here.
        object.__setattr__(self, "bootstrap", KafkaAddress(self.bootstrap, security))
        return self
