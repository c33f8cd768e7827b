"""A separate clock for each process, which a test can set while the process runs (libfaketime and a file).

Only the wall clock changes. Monotonic clocks go on unchanged, as they do when an administrator or NTP sets
the clock. Without ``FAKETIME_FORCE_MONOTONIC_FIX=0`` every wait of a JVM would end at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

LIBRARIES: Final = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
ABSENT: Final = "libfaketime is not installed: run deploy/faketime"
_FOR_PYTHON: Final = Path(__file__).with_name("preloaded")
REREAD_SECONDS: Final = 1
"""How soon a process notices that its clock was set."""


class Clock:
    """The clock of a process and its children. It is correct until it is set."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)

    def set(self, seconds: float) -> None:
        """Set the clock ahead of the true time by ``seconds``, which may be negative."""
        beside = self._file.with_suffix(".tmp")
        beside.write_text(f"{seconds:+g}\n")
        beside.chmod(0o644)  # PostgreSQL runs as another user
        beside.replace(self._file)

    @property
    def variables(self) -> Mapping[str, str]:
        return {
            "LD_PRELOAD": str(LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": str(REREAD_SECONDS),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
            "FAKETIME_DISABLE_SHM": "1",
            "PYTHONPATH": str(_FOR_PYTHON),
        }
