"""Folders on this machine, and where jars come from."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field

from candleflow.errors import SettingError
from candleflow.settings.checks import HTTP_ADDRESS, full_path
from candleflow.settings.section import PREFIX, Section


class StackSettings(Section):
    """``settings.stack``."""

    data_dir: Path = Field(
        Path(".data"),
        alias="data_dir",
        description="Where the local Kafka and PostgreSQL keep their data",
    )
    cache_dir: Path = Field(
        Path("~/.cache/candleflow"),
        alias="cache_dir",
        description="Where jars, archives of their classes and, if one had to be brought, Java are kept",
    )
    maven_url: str = Field(
        "https://repo1.maven.org/maven2",
        pattern=HTTP_ADDRESS,
        alias="maven_url",
        description="The repository that jars are fetched from, once",
    )

    @property
    def data_path(self) -> Path:
        return _full_path("data_dir", self.data_dir)

    @property
    def run_dir(self) -> Path:
        """Where running processes say who and how they are, and the credentials file lies."""
        return self.data_path / "run"

    @property
    def cache_path(self) -> Path:
        """Its jars are on class paths, which have no way to write a colon in a name."""
        return _full_path("cache_dir", self.cache_dir, without=os.pathsep)


def _full_path(name: str, given: Path, without: str = "") -> Path:
    """Raises SettingError only when it is asked for: a process that opens no such folder needs none."""
    try:
        return full_path(given, without)
    except ValueError as error:
        raise SettingError(f"{PREFIX}{name.upper()}={str(given)!r}: {error}") from None
