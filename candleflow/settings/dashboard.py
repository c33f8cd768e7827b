"""Where the page is."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from candleflow.settings.checks import has_good_host
from candleflow.settings.section import Port, Section


class DashboardSettings(Section):
    """``settings.dashboard``."""

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
        url = urlsplit(value)
        is_good = url.scheme in ("http", "https") and has_good_host(value)
        # As browsers send it: a name of other letters comes as xn--..., and `*` would let in any host.
        is_good = is_good and re.fullmatch(r"[A-Za-z0-9.:_\[\]-]+", url.netloc) is not None
        if not is_good or url.query or url.fragment or url.path.strip("/"):
            raise ValueError(
                "must be an address such as https://candles.example.com, of ASCII letters, with no path"
            )
        return value.rstrip("/")
