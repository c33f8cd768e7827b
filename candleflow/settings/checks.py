"""Checks of addresses, folders and certificates that several sections share. They raise ValueError."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from candleflow.proxies import is_loopback

HTTP_ADDRESS: Final = r"^https?://[^\s/?#]+(/[^\s?#]*)?$"
MEMORY: Final = r"^[1-9][0-9]{0,5}[mg]$"


def address(
    value: str, example: str, *, schemes: tuple[str, str] = ("http", "https"), may_have_path: bool = False
) -> str:
    """Return the address without a trailing slash; the error message shows ``example`` as accepted."""
    url = urlsplit(value)
    is_bare = not (url.query or url.fragment or url.username) and (may_have_path or not url.path.strip("/"))
    if url.scheme not in schemes or not has_good_host(value) or not is_bare:
        raise ValueError(f"must be an address such as {example}")
    return value.rstrip("/")


def encrypted(url: str) -> str:
    """Return the address; raise if it would send clear text to another machine."""
    parts = urlsplit(url)
    if parts.scheme in ("ws", "http") and not is_loopback(parts.hostname or ""):
        raise ValueError(f"must be {parts.scheme}s:// unless the host is this machine")
    return url


def has_good_host(url: str) -> bool:
    """Return whether the address has a host and, if it names a port, a valid one.

    urlsplit checks the port only when ``port`` is read.
    """
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def expanded(path: Path) -> Path:
    """Return the full path, with ``~`` resolved."""
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        raise ValueError("this user has no home folder: set HOME, or give a full path") from None


def full_path(given: Path, without: str) -> Path:
    """Return the full path; raise if it has a character that some program can't handle, or ``without``."""
    path = expanded(given)
    shown = str(path)
    if any(ord(one) < 32 or 0xD800 <= ord(one) < 0xE000 for one in shown):
        raise ValueError(f"the path {shown!r} must be UTF-8 without control characters")
    if without and without in shown:
        raise ValueError(f"the path {shown!r} must not contain {without!r}: choose another folder")
    return path


def certificates_in(file: Path) -> str:
    """Return the text of a PEM file."""
    try:
        return file.read_text("ascii")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not PEM text"
        raise ValueError(f"can't be read: {reason}") from None


def check_certificates(text: str, what: str) -> None:
    """Raise ValueError if the text holds a private key, or no readable certificate."""
    if "PRIVATE KEY-----" in text:
        raise ValueError(f"must be certificates only, but {what} has a private key")
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError):
        raise ValueError(f"must be PEM certificates, but {what} has none that can be read") from None
