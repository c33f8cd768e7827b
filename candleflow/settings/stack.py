"""Settings of this machine: folders, and where jars are downloaded from."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field

from candleflow.errors import SettingError
from candleflow.settings.checks import HTTP_ADDRESS, full_path
from candleflow.settings.section import PREFIX, Section


class StackSettings(Section):
    data_dir: Path = Field(
        Path(".data"),
        alias="data_dir",
        description="Folder for the local Kafka's and PostgreSQL's data, passwords and heartbeats. Change "
        "it to use another disk, or a second independent installation",
    )
    cache_dir: Path = Field(
        Path("~/.cache/candleflow"),
        alias="cache_dir",
        description="Folder for downloads: jars and, if the machine has none, Java. Can be shared and "
        "deleted",
    )
    maven_url: str = Field(
        "https://repo1.maven.org/maven2",
        pattern=HTTP_ADDRESS,
        alias="maven_url",
        description="Maven repository that jars are downloaded from, once. Change it to use a mirror",
    )

    @property
    def data_path(self) -> Path:
        return _full_path("data_dir", self.data_dir)

    @property
    def run_dir(self) -> Path:
        """The folder of heartbeat files and of the credentials file."""
        return self.data_path / "run"

    @property
    def cache_path(self) -> Path:
        """The full cache folder, without ``:``: its jars are on class paths, where ``:`` can't be escaped."""
        return _full_path("cache_dir", self.cache_dir, without=os.pathsep)


def _full_path(name: str, given: Path, without: str = "") -> Path:
    """Return the full path. Checked only when used, so that processes that don't need the folder start."""
    try:
        return full_path(given, without)
    except ValueError as error:
        raise SettingError(f"{PREFIX}{name.upper()}={str(given)!r}: {error}") from None
