"""The proxy to the outside that the environment names, read in one place for every client of ours.

curl's variables: ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY``, and ``NO_PROXY`` for hosts that need none.
``WSS_PROXY`` comes before ``HTTPS_PROXY`` for WebSockets. A name in small letters comes before the same in
capitals, and unsets it where it is empty. httpx and websockets would each read these differently, and some
values they answer with exceptions that aren't theirs.

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
    """The proxy's address, with its password, on the way to ``url``; None where there is none.

    There never is one on the way to this machine. Raises SettingError that names the variable where its value
    is no address of an HTTP proxy.
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
    """Whether it is this machine; by the address itself: ``127.example.org`` is a name like any other."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _given() -> dict[str, tuple[str, str]]:
    """By each variable's name in small letters: the name as it is set, and its value."""
    given = {}
    for name in sorted(os.environ, key=str.islower):  # those in small letters last
        if name.lower().endswith("_proxy"):
            given[name.lower()] = name, os.environ[name].strip()
    return {name: found for name, found in given.items() if found[1]}


def _covers(member: str, host: str, port: int) -> bool:
    """Whether a member of NO_PROXY means this host; one that can't be read means none."""
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
    """The address in a form that httpx and websockets both take. No message shows the value: it may hold a
    password."""
    if "://" not in value:
        value = f"http://{value}"
    scheme = value.partition("://")[0].lower()
    if scheme.startswith("socks"):
        raise SettingError(
            f"{variable}: SOCKS proxies aren't supported; it {_EXAMPLE}, an HTTP proxy that takes CONNECT, "
            "or unset"
        )
    if scheme not in ("http", "https"):
        raise SettingError(f"{variable}: {_EXAMPLE}, and begins with neither http:// nor https://")
    try:
        return f"{scheme}://{_authority(value)}"
    except ValueError:
        raise SettingError(
            f"{variable}: {_EXAMPLE}, and its host, port, user or password can't be read; "
            "special characters in a password are written as %40 for @"
        ) from None


def _authority(value: str) -> str:
    """User, password, host and port. Raises ValueError."""
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
