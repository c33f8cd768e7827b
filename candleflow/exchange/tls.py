"""TLS to the exchange, the same for its stream, its REST and its archive: who is trusted, and what is said
where it fails. Nothing falls back to plain text: an address with `wss` or `https` is spoken to by TLS or not
at all."""

from __future__ import annotations

import os
import ssl
from typing import Final
from urllib.parse import urlsplit

import certifi

_NAMED: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""OpenSSL's own variables: whoever sets one says who is trusted, and nobody else is."""

# OpenSSL's numbers (x509_vfy.h); the texts differ between its versions.
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_OTHER_NAME: Final = (62, 64)


def context() -> ssl.SSLContext:
    """Verifies certificate and name, whatever a client's own default is.

    Without a word from the environment, trusts what the machine trusts and what certifi does: either alone is
    empty on some machines.
    """
    verifying = ssl.create_default_context()
    if not any(os.environ.get(name) for name in _NAMED):
        verifying.load_verify_locations(certifi.where())
    return verifying


def context_for(url: str) -> ssl.SSLContext | None:
    """The same where ``url`` asks for it by ``wss``: websockets takes none for an address that doesn't."""
    return context() if urlsplit(url).scheme == "wss" else None


def failure(error: BaseException) -> str | None:
    """Why TLS failed, in a few words, where that is what is behind ``error``; None where it is not."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return f"TLS failure: {_words(cause)}"
        cause = cause.__cause__ or cause.__context__
    return None


def _words(error: ssl.SSLError) -> str:
    if not isinstance(error, ssl.SSLCertVerificationError):
        return f"no TLS is spoken there, or none that fits ({getattr(error, 'reason', None) or error})"
    if error.verify_code == _EXPIRED:
        return "its certificate has expired, or this machine's clock is wrong"
    if error.verify_code == _NOT_YET_VALID:
        return "its certificate isn't valid yet, or this machine's clock is wrong"
    if error.verify_code in _OTHER_NAME:
        return f"its certificate is another host's ({error.verify_message})"
    return (
        f"its certificate is signed by nobody whom this machine trusts ({error.verify_message}): "
        "SSL_CERT_FILE can name who is"
    )
