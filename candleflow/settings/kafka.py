"""Where Kafka is, how it is spoken to, and how a topic is made."""

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
    """How Kafka is spoken to, as ``CANDLEFLOW_KAFKA_SECURITY_PROTOCOL`` and Kafka itself name it."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_SSL = "SASL_SSL"


class ScramMechanism(StrEnum):
    """How a password is proved to Kafka without being sent."""

    SHA_512 = "SCRAM-SHA-512"
    SHA_256 = "SCRAM-SHA-256"


@dataclass(frozen=True, slots=True)
class KafkaSecurity:
    """What every client of Kafka is told beside the address. No repr shows the password."""

    protocol: KafkaProtocol = KafkaProtocol.PLAINTEXT
    mechanism: ScramMechanism = ScramMechanism.SHA_512
    username: str = ""
    password: str = field(default="", repr=False)
    authorities: str = ""
    """PEM certificates that the brokers' are signed by; empty: those that the system trusts."""


class KafkaAddress(str):
    """Kafka's host:port, several by commas, and how it is spoken to there.

    A text, so that it goes wherever an address does; and because the security is part of it, no client can be
    given the one and forget the other.
    """

    security: KafkaSecurity

    def __new__(cls, text: str, security: KafkaSecurity) -> Self:
        made = super().__new__(cls, text)
        made.security = security
        return made

    def __deepcopy__(self, _: object) -> Self:
        """Itself, as of any text: it never changes."""
        return self


class KafkaSettings(Section):
    """``settings.kafka``. ``bootstrap`` is a KafkaAddress, which carries the security."""

    bootstrap: str = Field("127.0.0.1:9092", description="Kafka's host:port, several by commas")
    security_protocol: KafkaProtocol = Field(
        KafkaProtocol.PLAINTEXT, description="How Kafka is spoken to; never otherwise than said here"
    )
    sasl_mechanism: ScramMechanism = Field(
        ScramMechanism.SHA_512, description="With SASL_SSL: how the password is proved"
    )
    sasl_username: str | None = Field(None, description="With SASL_SSL: the name at Kafka")
    sasl_password: SecretStr | None = Field(None, description="With SASL_SSL: the password at Kafka")
    ssl_ca: str | None = Field(
        None,
        description="PEM certificates that sign Kafka's, as a file or as they are; the system's if not given",
    )
    partitions: int = Field(1, ge=1, le=1_024, description="Partitions of the topic, when it is made")
    replication: int = Field(1, ge=1, le=9, description="Copies of each record, when the topic is made")
    retention_hours: int = Field(
        168, ge=1, le=87_600, description="How long Kafka keeps trades, when the topic is made"
    )
    memory: str = Field("384m", pattern=MEMORY, description="The heap of the local Kafka")
    max_in_flight: int = Field(
        50_000,
        ge=100,
        le=10_000_000,
        alias="max_in_flight",
        description="Trades that may wait for Kafka's acknowledgement",
    )

    @field_validator("bootstrap")
    @classmethod
    def _check_bootstrap(cls, value: str) -> str:
        servers = [server.strip() for server in value.split(",")]
        for server in servers:
            host, _, port = server.rpartition(":")
            if not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65_535:
                raise ValueError("must be host:port, several separated by commas, ports 1 to 65535")
        return ",".join(servers)

    @field_validator("ssl_ca")
    @classmethod
    def _check_authorities(cls, value: str | None) -> str | None:
        """The certificates themselves, whichever way they came: each client takes text, not each a file."""
        if not value:
            return None
        is_text = value.lstrip().startswith("-----BEGIN")
        text = value if is_text else certificates_in(expanded(Path(value)))
        check_certificates(text, "the text" if is_text else "the file")
        return text

    @model_validator(mode="after")
    def _check_security(self) -> Self:
        """What belongs together is there, and nothing that would silently be left unused: above all no
        password beside a plain text connection.
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
        # Frozen from here on; a plain text is only what came from outside.
        object.__setattr__(self, "bootstrap", KafkaAddress(self.bootstrap, security))
        return self
