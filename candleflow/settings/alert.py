"""Settings of alert channels."""

from __future__ import annotations

import re

from pydantic import Field, SecretStr, field_validator

from candleflow.settings.checks import HTTP_ADDRESS, address, encrypted
from candleflow.settings.section import Section


class AlertSettings(Section):
    channels: SecretStr = Field(
        SecretStr(""),
        description="Channels that alerts are sent to, separated by commas: name=address, such as "
        "phone=tgram://token/chat. Addresses are Apprise URLs and are kept secret. Empty: alerts are only "
        "stored and shown on the page",
    )
    pictures: bool = Field(
        default=True,
        description="Send a picture of the chart after each alert, to channels that accept files. Turn it "
        "off to save data",
    )
    telegram_url: str = Field(
        "https://api.telegram.org",
        description="Base address of Telegram's Bot API. Change it to use your own Bot API server",
    )
    discord_url: str = Field(
        "https://discord.com",
        description="Base address of Discord's webhooks. Change it to send through your own relay",
    )
    page_url: str | None = Field(
        None,
        pattern=HTTP_ADDRESS,
        description="Dashboard address that alerts link to. Unset: CANDLEFLOW_DASHBOARD_PUBLIC_URL, else "
        "localhost",
    )

    @field_validator("channels")
    @classmethod
    def _check_channels(cls, value: SecretStr) -> SecretStr:
        channels_of(value.get_secret_value())
        return value

    @field_validator("telegram_url", "discord_url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        """Require TLS: the channel's token is sent to this address."""
        return encrypted(address(value, "https://api.telegram.org, with no path"))


def channels_of(text: str) -> dict[str, str]:
    """Parse alert channels into addresses by name. A comma ends an address if ``name=scheme://`` follows it.

    Raises ValueError; its message leaves out the text, because addresses are secret.
    """
    found: dict[str, str] = {}
    for part in re.split(r",(?=\s*[A-Za-z0-9_-]+=[a-z0-9]+://)", text) if text.strip() else ():
        name, _, address = part.strip().partition("=")
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,30}", name) or not re.match(r"[a-z0-9]+://\S+$", address):
            raise ValueError(
                "must be name=address, such as phone=tgram://token/chat, several separated by commas; "
                "names begin with a lower-case letter and have only a-z, 0-9, '_' and '-'"
            )
        if name in found:
            raise ValueError(f"must name each channel once, but names {name} twice")
        found[name] = address
    return found
