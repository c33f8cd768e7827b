"""The channels for alerts: Telegram, Discord, and every other service that apprise supports.

A channel's address contains a secret, and apprise and urllib3 log addresses. So their logging is disabled.
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
"""Webhook addresses as Discord's apps show them; apprise accepts only some of the forms."""
_in_memory: Final[Any] = AttachMemory
"""Typed as Any: apprise has no type hints for it."""

TELEGRAM_SECONDS: Final = 1.0
TELEGRAM_GROUP_SECONDS: Final = 3.0
"""Telegram's limits: one message a second in a chat, 20 a minute in a group."""
DISCORD_SECONDS: Final = 0.4
"""Discord's limit by its response headers when this was written: five messages in two seconds."""
OTHER_SECONDS: Final = 1.0


class Channel:
    """One named channel. Its repr and its errors never show the address."""

    def __init__(self, name: str, plugin: Any, address: str, pause_seconds: float) -> None:
        self.name = name
        self.pause_seconds = pause_seconds
        """Minimum time between two messages."""
        self._plugin = plugin
        self._secrets = [part for part in re.split(r"[/:@?&=,]+", address) if len(part) >= _SHORTEST_SECRET]

    @property
    def takes_pictures(self) -> bool:
        """Whether the channel accepts files."""
        return bool(self._plugin.attachment_support)

    def send(self, body: str) -> Answer:
        """Try once to send the text. Blocks for up to some seconds. Never raises."""
        return self._attempt(body, body)

    def send_picture(self, png: bytes) -> Answer:
        """Try once to send a picture without text. Never raises.

        Text and picture are separate messages. With Telegram, apprise would put both into one request, and a
        picture that fails would then lose the text too.
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
        """Send through apprise; return whether it succeeded, and the error's name if its plugin raised."""
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
        except Exception as error:  # noqa: BLE001 - any error of a plugin; its text may contain the address
            return False, type(error).__name__

    @property
    def _is_recorded(self) -> bool:
        """Whether the plugin sends through ``requests`` or ``smtplib``, which ``recorder`` records."""
        package = type(self._plugin).__module__
        return any(hasattr(sys.modules[package], one) for one in ("requests", "smtplib"))

    def _with_moves(self, answer: Answer, moved: Mapping[str, str]) -> Answer:
        """Use the new ids of chats that Telegram moved; name the setting to change in log and answer."""
        if not moved:
            return answer
        targets = self._plugin.targets
        self._plugin.targets = [(moved.get(str(chat), chat), topic) for chat, topic in targets]
        words = "; ".join(
            f"Telegram moved chat {old} to {new}: replace {old} by {new} in CANDLEFLOW_ALERT_CHANNELS"
            for old, new in moved.items()
        )
        _log.warning("channel %s: %s", self.name, words)
        return replace(answer, detail="; ".join(filter(None, (answer.detail, words))))

    def _scrubbed(self, words: str) -> str:
        for secret in self._secrets:
            words = words.replace(secret, "***")
        return words


def channels(settings: Settings) -> Mapping[str, Channel]:
    """Return the configured channels by name. Raises SettingError if apprise doesn't accept an address."""
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
        raise SettingError(
            f"CANDLEFLOW_ALERT_CHANNELS: {name}: apprise does not accept this address; write it as in "
            "https://github.com/caronc/apprise/wiki"
        )
    kind = type(plugin).__module__.rpartition(".")[2]
    if kind in bases:
        plugin.notify_url = bases[kind]
    plugin.throttle = lambda *_, **__: None  # apprise would sleep; ChannelSender limits the rate
    return Channel(name, plugin, address, _pause(kind, plugin))


def _pause(kind: str, plugin: Any) -> float:
    if kind == "telegram":
        is_group = any(str(chat).startswith(("-", "@")) for chat, _ in plugin.targets)
        return TELEGRAM_GROUP_SECONDS if is_group else TELEGRAM_SECONDS
    return DISCORD_SECONDS if kind == "discord" else OTHER_SECONDS


def _prepare() -> None:
    """Record this process's requests to the servers, and disable logging that shows addresses."""
    install()
    for name in _SILENCED:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
