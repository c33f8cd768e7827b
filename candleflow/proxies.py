"""Reads the proxy from the environment, in one place for all HTTP and WebSocket clients.

The variables are curl's: ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY``, and ``NO_PROXY`` for hosts to reach
directly. For WebSockets, ``WSS_PROXY`` takes precedence over ``HTTPS_PROXY``. A lower-case name takes
precedence over the same name in capitals; if it is empty, it unsets it.

httpx and websockets would each interpret these variables differently, and for some values they raise
exceptions from other modules.

Source: everything.curl.dev/usingcurl/proxies/env.html; docs of websockets, "Proxies".
"""

from __future__ import annotations

import os
import re
from ipaddress import ip_address, ip_network
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from candleflow.errors import SettingError

_VARIABLES: Final = {
    "https": ("https_proxy", "all_proxy"),
    "wss": ("wss_proxy", "https_proxy", "all_proxy"),
    "http": ("http_proxy", "all_proxy"),
    "ws": ("ws_proxy", "http_proxy", "all_proxy"),
}
_PORTS: Final = {"http": 80, "ws": 80, "https": 443, "wss": 443}
_EXAMPLE: Final = "must be such as http://127.0.0.1:3128"


def proxy_for(url: str) -> str | None:
    """Return the address of the proxy for ``url``, with its password, or None to connect directly.

    This machine's own addresses are always reached directly. Raises SettingError, which names the variable,
    if its value isn't the address of an HTTP proxy.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    given = _given()
    name = next((one for one in _VARIABLES[parts.scheme] if one in given), None)
    if name is None or is_loopback(host):
        return None
    _, excepted = given.get("no_proxy", ("", ""))
    port = parts.port or _PORTS[parts.scheme]
    if any(_covers(member, host, port) for member in re.split(r"[,\s]+", excepted.lower())):
        return None
    return _checked(*given[name])


def is_loopback(host: str) -> bool:
    """Return whether ``host`` is ``localhost`` or a loopback address; ``127.example.org`` is neither."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _given() -> dict[str, tuple[str, str]]:
    """Return, by each variable's name in lower case, the name as it was set and its value."""
    given = {}
    for name in sorted(os.environ, key=str.islower):  # lower-case names last, so that they take precedence
        if name.lower().endswith("_proxy"):
            given[name.lower()] = name, os.environ[name].strip()
    return {name: found for name, found in given.items() if found[1]}


def _covers(member: str, host: str, port: int) -> bool:
    """Return whether a member of NO_PROXY matches this host and port. An unreadable one matches nothing."""
    member = member.rpartition("://")[2]
    name, _, only_port = member.rpartition(":")
    if only_port.isdecimal() and (name.endswith("]") or (name and ":" not in name)):
        if only_port != str(port):
            return False
        member = name
    try:
        return ip_address(host) in ip_network(member.strip("[]"), strict=False)
    except ValueError:
        suffix = member.removeprefix("*").strip(".")
        return member == "*" or (bool(suffix) and f".{host}".endswith(f".{suffix}"))


def _checked(variable: str, value: str) -> str:
    """Return the address in a form that httpx and websockets both accept.

    No error message shows the value, as it may contain a password.
    """
    if "://" not in value:
        value = f"http://{value}"
    scheme = value.partition("://")[0].lower()
    if scheme.startswith("socks"):
        raise SettingError(
            f"{variable}: SOCKS proxies aren't supported; it {_EXAMPLE}, an HTTP proxy that allows CONNECT, "
            "or unset"
        )
    if scheme not in ("http", "https"):
        raise SettingError(f"{variable}: {_EXAMPLE}; it starts with neither http:// nor https://")
    try:
        return f"{scheme}://{_authority(value)}"
    except ValueError:
        raise SettingError(
            f"{variable}: {_EXAMPLE}; its host, port, user or password can't be read: write special "
            "characters in a password in percent encoding, such as %40 for @"
        ) from None


def _authority(value: str) -> str:
    """Return user, password, host and port as one text. Raises ValueError."""
    parts = urlsplit(value)
    host, port = parts.hostname or "", parts.port
    after = f"{parts.path}{parts.query}{parts.fragment}"
    if port == 0 or parts.netloc.endswith(":") or "@" in after or re.search(r"[\s\\]", value):
        raise ValueError
    host = f"[{ip_address(host)}]" if ":" in host else host.encode("idna").decode()
    if not re.fullmatch(r"\[[0-9a-f:.%]+\]|[a-z0-9._-]+", host):
        raise ValueError
    user = "".join(f"{_quoted(one)}{end}" for one, end in ((parts.username, ":"), (parts.password, "@")))
    return f"{user if parts.username is not None else ''}{host}{'' if port is None else f':{port}'}"


def _quoted(text: str | None) -> str:
    return quote(unquote(text or "", errors="strict"), safe="")
