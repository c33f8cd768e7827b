"""The channels that alerts go out by: Telegram, Discord, and whatever else apprise speaks to.

An address holds a secret, and apprise and urllib3 log addresses: both are silenced, at every level.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import apprise
from apprise.attachment.memory import AttachMemory

from candleflow.alerts.answers import Answer, interpret
from candleflow.alerts.recorder import install, recorded_attempt
from candleflow.errors import SettingError
from candleflow.settings import Settings, channels_of

_log = logging.getLogger(__name__)

_SILENCED: Final = ("apprise", "urllib3", "requests")
_SHORTEST_SECRET: Final = 6
_PICTURE_NAME: Final = "chart.png"
_DISCORDS: Final = re.compile(
    r"^https://(?:(?:ptb|canary)\.)?discord(?:app)?\.com/api/(?:v[0-9]+/)?webhooks/", re.IGNORECASE
)
"""Webhook addresses as Discord's applications give them; apprise knows only some."""
_in_memory: Final[Any] = AttachMemory
"""Apprise gives it no types."""

TELEGRAM_SECONDS: Final = 1.0
TELEGRAM_GROUP_SECONDS: Final = 3.0
"""Telegram takes one message a second in a chat, and 20 a minute in a group."""
DISCORD_SECONDS: Final = 0.4
"""Discord says by its headers what it takes: five in two seconds, at the time of writing."""
OTHER_SECONDS: Final = 1.0


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
        return self._attempt(body, body)

    def send_picture(self, png: bytes) -> Answer:
        """The same with a picture, and no words.

        Words and picture are two attempts, as apprise would put both into one request at Telegram: then a
        picture that isn't taken, or not answered, would be words that aren't.
        """
        attached = _in_memory(png, name=_PICTURE_NAME, mimetype="image/png")
        return self._attempt(png, "", attached)

    def _attempt(self, message: str | bytes, body: str, attached: Any = None) -> Answer:
        with recorded_attempt(message) as attempt:
            went_well, otherwise = self._notify(body, attached)
        answer = interpret(
            attempt.exchanges, went_well=went_well, otherwise=otherwise, is_recorded=self._is_recorded
        )
        return self._with_moves(replace(answer, detail=self._scrubbed(answer.detail)), attempt.moved)

    def _notify(self, body: str, attached: Any) -> tuple[bool, str]:
        """What apprise says: whether it went well; and, where its plugin failed, by which error."""
        try:
            return bool(
                self._plugin.notify(
                    body=body,
                    title="",
                    notify_type=apprise.NotifyType.INFO,
                    body_format=apprise.NotifyFormat.TEXT,
                    attach=attached,
                )
            ), ""
        except Exception as error:  # noqa: BLE001 - a plugin's own: its text may hold the address
            return False, type(error).__name__

    @property
    def _is_recorded(self) -> bool:
        """Whether the plugin sends by HTTP or e-mail, so that the witnesses see all that leaves."""
        package = type(self._plugin).__module__
        return any(hasattr(sys.modules[package], one) for one in ("requests", "smtplib"))

    def _with_moves(self, answer: Answer, moved: Mapping[str, str]) -> Answer:
        """Write to the new chats from here on, and say which setting to change."""
        if not moved:
            return answer
        targets = self._plugin.targets
        self._plugin.targets = [(moved.get(str(chat), chat), topic) for chat, topic in targets]
        words = "; ".join(
            f"Telegram moved chat {old} to {new}: write {new} in its place in CANDLEFLOW_ALERT_CHANNELS"
            for old, new in moved.items()
        )
        _log.warning("channel %s: %s", self.name, words)
        return replace(answer, detail="; ".join(filter(None, (answer.detail, words))))

    def _scrubbed(self, words: str) -> str:
        for secret in self._secrets:
            words = words.replace(secret, "***")
        return words


def channels(settings: Settings) -> Mapping[str, Channel]:
    """The settings' channels by name. Raises SettingError for an address that apprise can't use."""
    _prepare()
    bases = {
        "telegram": f"{settings.alert.telegram_url}/bot",
        "discord": f"{settings.alert.discord_url}/api/webhooks",
    }
    return {
        name: _channel(name, address, bases)
        for name, address in channels_of(settings.alert.channels.get_secret_value()).items()
    }


def _channel(name: str, address: str, bases: Mapping[str, str]) -> Channel:
    plugin: Any = apprise.Apprise.instantiate(
        _DISCORDS.sub("https://discord.com/api/webhooks/", address), suppress_exceptions=True
    )
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
    """In the process that sends: attempts are recorded_attempt, and nobody logs an address."""
    install()
    for name in _SILENCED:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
