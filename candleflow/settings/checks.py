"""Checks that several sections make of addresses, folders and certificates. Each raises ValueError."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

HTTP_ADDRESS: Final = r"^https?://[^\s/?#]+(/[^\s?#]*)?$"
MEMORY: Final = r"^[1-9][0-9]{0,5}[mg]$"


def has_good_host(url: str) -> bool:
    """Whether the address names a host, and a port in range if any: urlsplit finds out only when asked."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def expanded(path: Path) -> Path:
    """The full path, ``~`` resolved."""
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        raise ValueError("there is no home folder here: set HOME, or name a full path") from None


def full_path(given: Path, without: str) -> Path:
    """The full path, in a form that every program takes that is given it: without ``without``, too."""
    path = expanded(given)
    shown = str(path)
    if any(ord(one) < 32 or 0xD800 <= ord(one) < 0xE000 for one in shown):
        raise ValueError(f"the path {shown!r} has a control character, or is no UTF-8")
    if without and without in shown:
        raise ValueError(f"the path {shown!r} must have no {without!r}: name another folder")
    return path


def certificates_in(file: Path) -> str:
    """The text of a PEM file."""
    try:
        return file.read_text("ascii")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no PEM text"
        raise ValueError(f"can't be read: {reason}") from None


def check_certificates(text: str, what: str) -> None:
    """Raise ValueError where there is no certificate in the text that can be read."""
    if "PRIVATE KEY-----" in text:
        raise ValueError(f"must be certificates only, and {what} has a private key")
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError):
        raise ValueError(f"must be PEM certificates, and {what} has none that can be read") from None
