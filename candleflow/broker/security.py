"""How Kafka's clients in Python are told of TLS and passwords, in one place, and what a refusal means.

An address without security (a plain ``str``) is spoken to in plain text; one with it never is, as no client
falls back. Spark has its own words for the same in ``engine/kafka_options.py``.
"""

from __future__ import annotations

import socket
import ssl
import struct
from typing import Any, Final

from kafka.net.sasl.scram import ScramClient

from candleflow.errors import BrokerError
from candleflow.settings import PREFIX, KafkaAddress, KafkaProtocol, KafkaSecurity

_LOOK_SECONDS: Final = 5.0
_SASL_HANDSHAKE: Final = 17
_SASL_AUTHENTICATE: Final = 36
"""Kafka's numbers of these two requests (its protocol guide)."""
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


def raise_if_refused(bootstrap: str, error: BaseException) -> None:
    """Raise KafkaRefusalError, naming the setting, where what keeps a client away will stay.

    kafka-python 3.0.12 says of a failed handshake and of a refused password only that no broker was there: so
    the first broker that answers is looked at once more.
    """
    security = security_of(bootstrap)
    if security.protocol is not KafkaProtocol.PLAINTEXT:
        refused = _refused(bootstrap, security)
        if refused is not None:
            raise KafkaRefusalError(f"Kafka at {bootstrap}: {refused}") from error


def _refused(bootstrap: str, security: KafkaSecurity) -> str | None:
    """What is wrong at the first broker that answers; None where nothing is, or none does."""
    for server in bootstrap.split(","):
        host, _, port = server.rpartition(":")
        try:
            with (
                socket.create_connection((host.strip("[]"), int(port)), _LOOK_SECONDS) as plain,
                _context(security).wrap_socket(plain, server_hostname=host.strip("[]")) as secured,
            ):
                return _refused_user(secured, security)
        except ssl.SSLCertVerificationError as error:
            return _words(error, server)
        except ssl.SSLError:
            return f"{server} doesn't speak TLS: look at {_PROTOCOL}"
        except OSError:
            continue
        except ValueError:  # its last message is the proof that it has the password, too
            return f"{server} doesn't know the password of {security.username!r}: look at {_PASSWORD}"
    return None


def _refused_user(secured: ssl.SSLSocket, security: KafkaSecurity) -> str | None:
    """Whether Kafka takes name and password, by its protocol: SaslHandshake, then SaslAuthenticate twice."""
    if security.protocol is not KafkaProtocol.SASL_SSL:
        return None
    mechanism = str(security.mechanism).encode()
    answer = _ask(secured, _SASL_HANDSHAKE, 1, struct.pack(">h", len(mechanism)) + mechanism)
    if struct.unpack_from(">h", answer)[0]:
        return f"it doesn't take {security.mechanism}: look at {_MECHANISM}"
    proof = ScramClient(security.username, security.password, str(security.mechanism))
    for message, receive in (
        (proof.first_message, proof.process_server_first_message),
        (proof.final_message, proof.process_server_final_message),
    ):
        said = message()
        answer = _ask(secured, _SASL_AUTHENTICATE, 0, struct.pack(">i", len(said)) + said)
        if struct.unpack_from(">h", answer)[0]:
            return f"it refuses the user {security.username!r}: look at {_USERNAME} and {_PASSWORD}"
        receive(_bytes_of(answer))
    return None


def _ask(secured: ssl.SSLSocket, key: int, version: int, body: bytes) -> bytes:
    """One request of Kafka's (key, version, a correlation of 0, no client's name) and its answer's body."""
    request = struct.pack(">hhih", key, version, 0, -1) + body
    secured.sendall(struct.pack(">i", len(request)) + request)
    (length,) = struct.unpack(">i", _read(secured, 4))
    return _read(secured, length)[4:]


def _bytes_of(answer: bytes) -> bytes:
    """The server's message in an answer to SaslAuthenticate: after a code and a text that may be null."""
    (text,) = struct.unpack_from(">h", answer, 2)
    return answer[4 + max(0, text) + 4 :]


def _read(secured: ssl.SSLSocket, length: int) -> bytes:
    found = b""
    while len(found) < length:
        more = secured.recv(length - len(found))
        if not more:
            raise ConnectionResetError("Kafka ended the connection")
        found += more
    return found


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
