"""What the shell hands to every process: made the same everywhere, or refused in a sentence.

Libraries and programs beneath read variables of their own, which a user has set for other work. Those that
would change what ours do are taken out here, once, before anything is connected to or started; children
inherit the rest. Our own settings are ``settings``' business.
"""

from __future__ import annotations

import os
import ssl
import sys
from pathlib import Path
from typing import Final

from candleflow.errors import SettingError

FOREIGN: Final = (
    "PG",  # libpq's; JDBC reads none of them, so half of our connections would follow them
    "JAVA_TOOL_OPTIONS",
    "_JAVA_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "CLASSPATH",
    "LOG4J_",  # where Spark's and Kafka's logging looks before their own options
)
"""Beginnings of the names of variables that no process of ours, and no child of one, gets to see."""

_LOCALE: Final = "C.UTF-8"
_CERTIFICATES: Final = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_KEY_LOG: Final = "SSLKEYLOGFILE"


def prepare() -> None:
    """Make this process's environment ours. Raises SettingError naming a variable that can't be followed."""
    for name in [*os.environ]:
        if name.startswith(FOREIGN):
            del os.environ[name]
    if sys.platform == "linux":
        # A JVM reads file names by the locale: in any that isn't UTF-8, or isn't installed, it finds no
        # folder with an accent. In some languages its numbers and small letters are others, too.
        os.environ["LC_ALL"] = _LOCALE
    if os.path.expanduser("~") == "~":  # noqa: PTH111 - Path's raises where there is none
        os.environ["HOME"] = (
            "/"  # as containers have it for a user id without a name; Streamlit ends without one
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
            f"{name}={path!r} can't be used: {reason}; name a file of certificates, or unset {name}"
        ) from None


def _check_key_log(path: str) -> None:
    try:
        if path:
            Path(path).open("a").close()
    except OSError as error:
        raise SettingError(
            f"{_KEY_LOG}={path!r} can't be written to: {error.strerror}; "
            f"name a file that can, or unset {_KEY_LOG}"
        ) from None
