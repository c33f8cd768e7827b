"""The channels that alerts go out by: Telegram, Discord, and whatever else apprise speaks to.

Apprise says of an attempt only whether it went well. What became of it is in the HTTP answer, so a witness
stands between apprise and the network: the adapter of ``requests`` that every one of its plugins posts by. It
notes each answer or failure, and lets nothing more out once a request of the attempt has failed (apprise's
plugin for Discord would try again by itself).

An address holds a secret, and apprise and urllib3 log addresses: both are silenced, at every level.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

import apprise
import requests
from apprise.attachment.memory import AttachMemory
from requests.adapters import HTTPAdapter
from urllib3.exceptions import MaxRetryError, NewConnectionError, SSLError

from candleflow.errors import SettingError
from candleflow.notify.answers import Answer, Exchange, judged
from candleflow.settings import Settings, channels_of

_SILENCED: Final = ("apprise", "urllib3", "requests")
_KEPT_BYTES: Final = 4_096
_SHORTEST_SECRET: Final = 6
_PICTURE_NAME: Final = "chart.png"
_in_memory: Final[Any] = AttachMemory
"""Apprise gives it no types."""

TELEGRAM_SECONDS: Final = 1.0
TELEGRAM_GROUP_SECONDS: Final = 3.0
"""Telegram takes one message a second in a chat, and 20 a minute in a group."""
DISCORD_SECONDS: Final = 0.4
"""Discord says by its headers what it takes: five in two seconds, at the time of writing."""
OTHER_SECONDS: Final = 1.0


@dataclass
class _Attempt:
    """What one attempt has met so far."""

    exchanges: list[Exchange] = field(default_factory=list)

    @property
    def has_failed(self) -> bool:
        return any(not one.is_accepted for one in self.exchanges)


_attempt: ContextVar[_Attempt | None] = ContextVar("attempt", default=None)


class _Witness(HTTPAdapter):
    """Sends as ``requests`` does, and notes what came of it for the attempt under way, if any."""

    def send(self, request: requests.PreparedRequest, *args: Any, **more: Any) -> requests.Response:
        attempt = _attempt.get()
        if attempt is None:
            return super().send(request, *args, **more)
        if attempt.has_failed:
            raise requests.ConnectionError("an earlier request of this attempt has failed")
        try:
            response = super().send(request, *args, **more)
        except requests.RequestException as error:
            attempt.exchanges.append(Exchange(None, was_written=not _never_left(error)))
            raise
        attempt.exchanges.append(
            Exchange(response.status_code, dict(response.headers), _beginning(response), was_written=True)
        )
        return response


def _beginning(response: requests.Response) -> bytes:
    try:
        return response.content[:_KEPT_BYTES]
    except requests.RequestException:
        return b""  # the status stands, whatever became of the rest


def _never_left(error: requests.RequestException) -> bool:
    """Whether no connection was made, so that the server can't have taken the message."""
    if isinstance(error, requests.ConnectTimeout):
        return True
    cause = error.args[0] if error.args else None
    reason = cause.reason if isinstance(cause, MaxRetryError) else cause
    return isinstance(reason, NewConnectionError | SSLError)


@contextmanager
def _witnessed() -> Iterator[_Attempt]:
    attempt = _Attempt()
    token = _attempt.set(attempt)
    try:
        yield attempt
    finally:
        _attempt.reset(token)


class Channel:
    """One channel by its name. No repr and no error shows its address."""

    def __init__(self, name: str, plugin: Any, address: str, pause_seconds: float) -> None:
        self.name = name
        self.pause_seconds = pause_seconds
        """So long after one message the next may follow, at the soonest."""
        self._plugin = plugin
        self._secrets = [part for part in re.split(r"[/:@?&=,]+", address) if len(part) >= _SHORTEST_SECRET]

    @property
    def takes_pictures(self) -> bool:
        """Whether files can be sent by it."""
        return bool(self._plugin.attachment_support)

    def send(self, body: str) -> Answer:
        """Try once; takes as long as the server takes, some seconds at most. Never raises."""
        return self._attempt(body)

    def send_picture(self, png: bytes) -> Answer:
        """The same with a picture, and no words.

        Words and picture are two attempts, as apprise would put both into one request at Telegram: then a
        picture that isn't taken, or not answered, would be words that aren't.
        """
        attached = _in_memory(png, name=_PICTURE_NAME, mimetype="image/png")
        return self._attempt("", attached)

    def _attempt(self, body: str, attached: Any = None) -> Answer:
        with _witnessed() as attempt:
            try:
                went_well = bool(
                    self._plugin.notify(
                        body=body,
                        title="",
                        notify_type=apprise.NotifyType.INFO,
                        body_format=apprise.NotifyFormat.TEXT,
                        attach=attached,
                    )
                )
            except Exception as error:  # noqa: BLE001 - a plugin's own: its text may hold the address
                return judged(attempt.exchanges, went_well=False, otherwise=type(error).__name__)
        answer = judged(attempt.exchanges, went_well=went_well)
        return answer.with_detail(self._scrubbed(answer.detail))

    def _scrubbed(self, words: str) -> str:
        for secret in self._secrets:
            words = words.replace(secret, "***")
        return words


def channels(settings: Settings) -> Mapping[str, Channel]:
    """The settings' channels by name. Raises SettingError for an address that apprise can't use."""
    _prepare()
    bases = {
        "telegram": f"{settings.alert_telegram_url}/bot",
        "discord": f"{settings.alert_discord_url}/api/webhooks",
    }
    return {
        name: _channel(name, address, bases)
        for name, address in channels_of(settings.alert_channels.get_secret_value()).items()
    }


def _channel(name: str, address: str, bases: Mapping[str, str]) -> Channel:
    plugin: Any = apprise.Apprise.instantiate(address, suppress_exceptions=True)
    if plugin is None:
        raise SettingError(f"CANDLEFLOW_ALERT_CHANNELS: {name}: apprise can't use such an address")
    kind = type(plugin).__module__.rpartition(".")[2]
    if kind in bases:
        plugin.notify_url = bases[kind]
    plugin.throttle = lambda *_, **__: None  # it would sleep; the sender keeps the pace
    return Channel(name, plugin, address, _pause(kind, plugin))


def _pause(kind: str, plugin: Any) -> float:
    if kind == "telegram":
        is_group = any(str(chat).startswith(("-", "@")) for chat, _ in plugin.targets)
        return TELEGRAM_GROUP_SECONDS if is_group else TELEGRAM_SECONDS
    return DISCORD_SECONDS if kind == "discord" else OTHER_SECONDS


def _prepare() -> None:
    """In the process that sends: every session of ``requests`` gets the witness, nobody logs an address."""
    requests.sessions.HTTPAdapter = _Witness  # type: ignore[attr-defined]
    for name in _SILENCED:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
