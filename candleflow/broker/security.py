"""How Kafka's clients in Python are told of TLS and passwords, in one place, and what a refusal means.

An address without security (a plain ``str``) is spoken to in plain text; one with it never is: no client
falls
back. Spark has its own words for the same in ``engine/kafka_options.py``.
"""

from __future__ import annotations

import socket
import ssl
from typing import Any, Final

from kafka import errors

from candleflow.errors import BrokerError
from candleflow.settings import PREFIX, KafkaAddress, KafkaProtocol, KafkaSecurity

_LOOK_SECONDS: Final = 2.0
_PLAIN: Final = KafkaSecurity()
_CA: Final = f"{PREFIX}KAFKA_SSL_CA"
_BOOTSTRAP: Final = f"{PREFIX}KAFKA_BOOTSTRAP"
_PASSWORD: Final = f"{PREFIX}KAFKA_SASL_PASSWORD"
_USERNAME: Final = f"{PREFIX}KAFKA_SASL_USERNAME"
_MECHANISM: Final = f"{PREFIX}KAFKA_SASL_MECHANISM"
_PROTOCOL: Final = f"{PREFIX}KAFKA_SECURITY_PROTOCOL"

# OpenSSL's numbers (x509_vfy.h); the texts differ between its versions.
_EXPIRED: Final = 10
_NOT_YET_VALID: Final = 9
_OTHER_NAME: Final = (62, 64)


class KafkaRefusalError(BrokerError):
    """Kafka is there, and can't be trusted or doesn't trust us: a setting or a certificate is wrong. Waiting
    doesn't help."""


def security_of(bootstrap: str) -> KafkaSecurity:
    """What the address says of it; plain text where it says nothing."""
    return bootstrap.security if isinstance(bootstrap, KafkaAddress) else _PLAIN


def python_options(bootstrap: str) -> dict[str, Any]:
    """Keywords for each of kafka-python's clients; they may hold the password."""
    security = security_of(bootstrap)
    options: dict[str, Any] = {
        "bootstrap_servers": bootstrap.split(","),
        "security_protocol": str(security.protocol),
    }
    if security.protocol is not KafkaProtocol.PLAINTEXT:
        options["ssl_context"] = _context(security)
    if security.protocol is KafkaProtocol.SASL_SSL:
        options |= {
            "sasl_mechanism": str(security.mechanism),
            "sasl_plain_username": security.username,
            "sasl_plain_password": security.password,
        }
    return options


def confluent_options(bootstrap: str) -> dict[str, Any]:
    """The same for librdkafka."""
    security = security_of(bootstrap)
    options: dict[str, Any] = {
        "bootstrap.servers": str(bootstrap),
        "security.protocol": str(security.protocol),
    }
    if security.protocol is not KafkaProtocol.PLAINTEXT:
        options |= {
            "enable.ssl.certificate.verification": True,
            "ssl.endpoint.identification.algorithm": "https",
        }
        if security.authorities:
            options["ssl.ca.pem"] = security.authorities
    if security.protocol is KafkaProtocol.SASL_SSL:
        options |= {
            "sasl.mechanism": str(security.mechanism),
            "sasl.username": security.username,
            "sasl.password": security.password,
        }
    return options


def raise_if_refused(bootstrap: str, error: BaseException) -> None:
    """Raise KafkaRefusalError, naming the setting, where the error of a client's is one that stays.

    kafka-python tells of a failed handshake only that no broker was there: so it is looked at once more.
    """
    security = security_of(bootstrap)
    refused = _refused_user(security, error)
    if refused is None and security.protocol is not KafkaProtocol.PLAINTEXT:
        refused = _refused_certificate(bootstrap, security)
    if refused is not None:
        raise KafkaRefusalError(f"Kafka at {bootstrap}: {refused}") from error


def _refused_user(security: KafkaSecurity, error: BaseException) -> str | None:
    if isinstance(error, errors.SaslAuthenticationFailedError):
        return f"it refuses the user {security.username!r}: look at {_USERNAME} and {_PASSWORD}"
    if isinstance(error, errors.UnsupportedSaslMechanismError):
        return f"it doesn't take {security.mechanism}: look at {_MECHANISM}"
    return None


def _refused_certificate(bootstrap: str, security: KafkaSecurity) -> str | None:
    """What is wrong with the certificate of the first broker that shows one; None where nothing is."""
    for server in bootstrap.split(","):
        host, _, port = server.rpartition(":")
        try:
            with (
                socket.create_connection((host.strip("[]"), int(port)), _LOOK_SECONDS) as plain,
                _context(security).wrap_socket(plain, server_hostname=host.strip("[]")),
            ):
                return None
        except ssl.SSLCertVerificationError as error:
            return _words(error, server)
        except ssl.SSLError:
            return f"{server} doesn't speak TLS: look at {_PROTOCOL}"
        except OSError:
            continue
    return None


def _words(error: ssl.SSLCertVerificationError, server: str) -> str:
    if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
        when = "has expired" if error.verify_code == _EXPIRED else "isn't valid yet"
        return f"the certificate of {server} {when}: it needs a new one, or this machine's clock is wrong"
    if error.verify_code in _OTHER_NAME:
        return f"the certificate of {server} has another name: look at {_BOOTSTRAP}"
    return f"the certificate of {server} is signed by nobody that {_CA} names ({error.verify_message})"


def _context(security: KafkaSecurity) -> ssl.SSLContext:
    """Verifies certificate and name, whatever a client's own default is."""
    context = ssl.create_default_context(cadata=security.authorities or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
