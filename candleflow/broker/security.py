"""TLS and password options for Kafka's Python clients, and clear errors when Kafka refuses them.

An address without security settings (a plain ``str``) is connected to in plain text. One with them never is:
no client falls back to plain text. ``engine/kafka_options.py`` has the same options for Spark.
"""

from __future__ import annotations

import socket
import ssl
import struct
from typing import Any, Final

from kafka.net.sasl.scram import ScramClient

from candleflow.errors import BrokerError
from candleflow.settings import PREFIX, KafkaAddress, KafkaProtocol, KafkaSecurity

_CONNECT_SECONDS: Final = 5.0
_SASL_HANDSHAKE: Final = 17
_SASL_AUTHENTICATE: Final = 36
"""The API keys of these two requests (Kafka protocol guide)."""
_PLAIN: Final = KafkaSecurity()
_CA: Final = f"{PREFIX}KAFKA_SSL_CA"
_BOOTSTRAP: Final = f"{PREFIX}KAFKA_BOOTSTRAP"
_PASSWORD: Final = f"{PREFIX}KAFKA_SASL_PASSWORD"
_USERNAME: Final = f"{PREFIX}KAFKA_SASL_USERNAME"
_MECHANISM: Final = f"{PREFIX}KAFKA_SASL_MECHANISM"
_PROTOCOL: Final = f"{PREFIX}KAFKA_SECURITY_PROTOCOL"

# OpenSSL's error numbers (x509_vfy.h). Its error texts differ between versions.
_EXPIRED: Final = 10
_NOT_YET_VALID: Final = 9
_OTHER_NAME: Final = (62, 64)


class KafkaRefusalError(BrokerError):
    """Kafka answers, but a certificate or a password is wrong. Retrying doesn't help."""


def security_of(bootstrap: str) -> KafkaSecurity:
    """Return the address's security settings; plain text if it has none."""
    return bootstrap.security if isinstance(bootstrap, KafkaAddress) else _PLAIN


def python_options(bootstrap: str) -> dict[str, Any]:
    """Return keyword arguments for any kafka-python client. They may include the password."""
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
    """Raise KafkaRefusalError, which names the setting to check, if Kafka refuses TLS or the password.

    For a failed handshake or a wrong password, kafka-python 3.0.12 only reports that no broker was available.
    So this function connects once more, to the first broker that answers, to find out.
    """
    security = security_of(bootstrap)
    if security.protocol is not KafkaProtocol.PLAINTEXT:
        refused = _refused(bootstrap, security)
        if refused is not None:
            raise KafkaRefusalError(f"Kafka at {bootstrap}: {refused}") from error


def _refused(bootstrap: str, security: KafkaSecurity) -> str | None:
    """Return what is wrong with the first broker that answers; None if nothing is, or none answers."""
    for server in bootstrap.split(","):
        host, _, port = server.rpartition(":")
        try:
            with (
                socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS) as plain,
                _context(security).wrap_socket(plain, server_hostname=host.strip("[]")) as secured,
            ):
                return _refused_user(secured, security)
        except ssl.SSLCertVerificationError as error:
            return _words(error, server)
        except ssl.SSLError:
            return f"{server} doesn't use TLS: check {_PROTOCOL}"
        except OSError:
            continue
        except ValueError:  # SCRAM: the server's last message must prove that it knows the password too
            return f"{server} doesn't know the password of {security.username!r}: check {_PASSWORD}"
    return None


def _refused_user(secured: ssl.SSLSocket, security: KafkaSecurity) -> str | None:
    """Return why Kafka refuses the user or the password; None if it accepts them.

    Uses Kafka's protocol: one SaslHandshake, then SaslAuthenticate twice.
    """
    if security.protocol is not KafkaProtocol.SASL_SSL:
        return None
    mechanism = str(security.mechanism).encode()
    answer = _ask(secured, _SASL_HANDSHAKE, 1, struct.pack(">h", len(mechanism)) + mechanism)
    if struct.unpack_from(">h", answer)[0]:
        return f"it doesn't support {security.mechanism}: check {_MECHANISM}"
    proof = ScramClient(security.username, security.password, str(security.mechanism))
    for message, receive in (
        (proof.first_message, proof.process_server_first_message),
        (proof.final_message, proof.process_server_final_message),
    ):
        said = message()
        answer = _ask(secured, _SASL_AUTHENTICATE, 0, struct.pack(">i", len(said)) + said)
        if struct.unpack_from(">h", answer)[0]:
            return f"it refuses the user {security.username!r}: check {_USERNAME} and {_PASSWORD}"
        receive(_bytes_of(answer))
    return None


def _ask(secured: ssl.SSLSocket, key: int, version: int, body: bytes) -> bytes:
    """Send one Kafka request and return the body of the response.

    The header has the API key, the version, correlation id 0 and no client id.
    """
    request = struct.pack(">hhih", key, version, 0, -1) + body
    secured.sendall(struct.pack(">i", len(request)) + request)
    (length,) = struct.unpack(">i", _read(secured, 4))
    return _read(secured, length)[4:]


def _bytes_of(answer: bytes) -> bytes:
    """Return the server's bytes from a SaslAuthenticate response.

    They come after an error code and an error text that may be null.
    """
    (text,) = struct.unpack_from(">h", answer, 2)
    return answer[4 + max(0, text) + 4 :]


def _read(secured: ssl.SSLSocket, length: int) -> bytes:
    found = b""
    while len(found) < length:
        more = secured.recv(length - len(found))
        if not more:
            raise ConnectionResetError("Kafka closed the connection")
        found += more
    return found


def _words(error: ssl.SSLCertVerificationError, server: str) -> str:
    if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
        when = "has expired" if error.verify_code == _EXPIRED else "isn't valid yet"
        return f"the certificate of {server} {when}: it needs a new one, or this machine's clock is wrong"
    if error.verify_code in _OTHER_NAME:
        return f"the certificate of {server} is for another host name: check {_BOOTSTRAP}"
    return (
        f"the certificate of {server} is not signed by an authority in {_CA} ({error.verify_message}): "
        "check that setting"
    )


def _context(security: KafkaSecurity) -> ssl.SSLContext:
    """Return a TLS context that verifies the certificate and the host name."""
    context = ssl.create_default_context(cadata=security.authorities or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
