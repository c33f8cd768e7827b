"""Where alerts go."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from candleflow.proxies import is_loopback
from candleflow.settings.checks import HTTP_ADDRESS, has_good_host
from candleflow.settings.section import Section


class AlertSettings(Section):
    """``settings.alert``."""

    channels: SecretStr = Field(
        SecretStr(""),
        description="Where alerts go, by commas: a name, =, and an address of apprise's that is a secret",
    )
    pictures: bool = Field(
        default=True,
        description="Whether a picture of the chart follows an alert, where the channel takes files",
    )
    telegram_url: str = Field(
        "https://api.telegram.org", description="Base address of Telegram's Bot API, or of one of your own"
    )
    discord_url: str = Field("https://discord.com", description="Base address of Discord's webhooks")
    page_url: str | None = Field(
        None,
        pattern=HTTP_ADDRESS,
        description="The page's address in alerts; if not given, the public one or http://localhost",
    )

    @field_validator("channels")
    @classmethod
    def _check_channels(cls, value: SecretStr) -> SecretStr:
        channels_of(value.get_secret_value())
        return value

    @field_validator("telegram_url", "discord_url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        """A token goes there: so in clear text to this machine only."""
        url = urlsplit(value)
        is_good = url.scheme in ("http", "https") and has_good_host(value)
        if not is_good or url.query or url.fragment or url.username or url.path.strip("/"):
            raise ValueError("must be an address such as https://api.telegram.org, with no path")
        if url.scheme == "http" and not is_loopback(url.hostname or ""):
            raise ValueError("must be https:// unless the host is this machine")
        return value.rstrip("/")


def channels_of(text: str) -> dict[str, str]:
    """The channels of alerts: names and addresses. A comma ends an address where ``name=scheme://`` follows.

    Raises ValueError, without the text, as that is a secret.
    """
    found: dict[str, str] = {}
    for part in re.split(r",(?=\s*[A-Za-z0-9_-]+=[a-z0-9]+://)", text) if text.strip() else ():
        name, _, address = part.strip().partition("=")
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,30}", name) or not re.match(r"[a-z0-9]+://\S+$", address):
            raise ValueError(
                "must be such as phone=tgram://token/chat, several by commas; names of small letters"
            )
        if name in found:
            raise ValueError(f"must name each channel once, and names {name} twice")
        found[name] = address
    return found
