"""Prepare the environment variables that libraries and child processes read.

Libraries read variables of their own, which the user may have set for other programs. Those that would change
what Candleflow does are removed once, before the process connects to or starts anything. Child processes
inherit the rest. ``CANDLEFLOW_*`` variables are read in ``settings``.
"""

from __future__ import annotations

import os
import ssl
import sys
from pathlib import Path
from typing import Final

from candleflow.errors import SettingError

FOREIGN: Final = (
    "PG",  # libpq's; JDBC ignores them, so they would apply to half of our connections only
    "JAVA_TOOL_OPTIONS",
    "_JAVA_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "CLASSPATH",
    "LOG4J_",  # Spark's and Kafka's logging prefers these to its own options
)
"""Prefixes of the variables that are removed."""

_LOCALE: Final = "C.UTF-8"
_CERTIFICATES: Final = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_KEY_LOG: Final = "SSLKEYLOGFILE"


def prepare() -> None:
    """Remove and set environment variables of this process.

    Raises SettingError, which names the variable, if a certificate or key log file can't be used.
    """
    for name in [*os.environ]:
        if name.startswith(FOREIGN):
            del os.environ[name]
    if sys.platform == "linux":
        # A JVM decodes file names by the locale: without an installed UTF-8 locale it can't open a folder
        # with an accent in its name. In some languages it also formats numbers and lower-cases letters
        # differently.
        os.environ["LC_ALL"] = _LOCALE
    if os.path.expanduser("~") == "~":  # noqa: PTH111 - Path's raises where there is none
        os.environ["HOME"] = (
            "/"  # what containers set for a user id without a name; Streamlit fails without a home folder
        )
    for name in _CERTIFICATES:
        _check_certificates(name, os.environ.get(name, ""))
    _check_key_log(os.environ.get(_KEY_LOG, ""))


def _check_certificates(name: str, path: str) -> None:
    if not path or (name != _CERTIFICATES[0] and Path(path).is_dir()):
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except OSError as error:  # ssl.SSLError is one
        reason = "it has no PEM certificates" if isinstance(error, ssl.SSLError) else error.strerror
        raise SettingError(
            f"{name}={path!r} can't be used: {reason}; set it to a file of certificates, or unset {name}"
        ) from None


def _check_key_log(path: str) -> None:
    try:
        if path:
            Path(path).open("a").close()
    except OSError as error:
        raise SettingError(
            f"{_KEY_LOG}={path!r} can't be written to: {error.strerror}; "
            f"set it to a writable file, or unset {_KEY_LOG}"
        ) from None
