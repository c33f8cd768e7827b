"""Settings of the dashboard."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from candleflow.settings.checks import address
from candleflow.settings.section import Port, Section


class DashboardSettings(Section):
    port: Port = Field(
        8_501, description="Port of the dashboard, on 127.0.0.1. Change it if another program uses it"
    )
    public_url: str | None = Field(
        None,
        description="Public address of the dashboard, such as https://candles.example.com. Set it when a "
        "reverse proxy serves the dashboard",
    )

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, value: str | None) -> str | None:
        if not value:
            return None
        example = "https://candles.example.com, of ASCII letters, with no path"
        # Must be spelled as browsers send it: they send names with other letters as xn--..., and `*` would
        # allow any host.
        if re.fullmatch(r"[A-Za-z0-9.:/_\[\]-]+", value) is None:
            raise ValueError(f"must be an address such as {example}")
        return address(value, example)
