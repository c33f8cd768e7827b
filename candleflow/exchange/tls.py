"""TLS settings and error texts for all connections to the exchange: its stream, REST and archive.

An address with ``wss`` or ``https`` is connected to by TLS only; nothing falls back to plain text.
"""

from __future__ import annotations

import os
import ssl
from typing import Final
from urllib.parse import urlsplit

import certifi

_NAMED: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""OpenSSL's variables. If one is set, only the authorities that it names are trusted."""

# OpenSSL's error numbers (x509_vfy.h). Its error texts differ between versions.
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_OTHER_NAME: Final = (62, 64)


def context() -> ssl.SSLContext:
    """Return a TLS context that verifies the certificate and the host name.

    Unless OpenSSL's variables are set, it trusts the machine's authorities and certifi's: on some machines,
    one of the two is empty.
    """
    verifying = ssl.create_default_context()
    if not any(os.environ.get(name) for name in _NAMED):
        verifying.load_verify_locations(certifi.where())
    return verifying


def context_for(url: str) -> ssl.SSLContext | None:
    """Return ``context()`` for a ``wss`` URL, otherwise None: websockets accepts no context for ``ws``."""
    return context() if urlsplit(url).scheme == "wss" else None


def failure(error: BaseException) -> str | None:
    """Return in a few words why TLS failed, if that caused ``error``; otherwise None."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return f"TLS failure: {_words(cause)}"
        cause = cause.__cause__ or cause.__context__
    return None


def _words(error: ssl.SSLError) -> str:
    if not isinstance(error, ssl.SSLCertVerificationError):
        return f"the server offers no TLS, or no usable version ({getattr(error, 'reason', None) or error})"
    if error.verify_code == _EXPIRED:
        return "its certificate has expired, or this machine's clock is wrong"
    if error.verify_code == _NOT_YET_VALID:
        return "its certificate isn't valid yet, or this machine's clock is wrong"
    if error.verify_code in _OTHER_NAME:
        return f"its certificate is for another host name ({error.verify_message})"
    return (
        f"its certificate is not signed by an authority that this machine trusts ({error.verify_message}): "
        "to trust another authority, set SSL_CERT_FILE to its certificate"
    )
