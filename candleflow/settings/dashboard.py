"""Where the page is."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from candleflow.settings.checks import address
from candleflow.settings.section import Port, Section


class DashboardSettings(Section):
    port: Port = Field(8_501, description="The page's port, on 127.0.0.1")
    public_url: str | None = Field(
        None,
        description="The page's address behind a reverse proxy, such as https://candles.example.com",
    )

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, value: str | None) -> str | None:
        if not value:
            return None
        example = "https://candles.example.com, of ASCII letters, with no path"
        # As browsers send it: a name of other letters comes as xn--..., and `*` would let in any host.
        if re.fullmatch(r"[A-Za-z0-9.:/_\[\]-]+", value) is None:
            raise ValueError(f"must be an address such as {example}")
        return address(value, example)
