"""A clock of each process's own, which a test sets while the process runs: libfaketime, told by a file.

Only what tells the date is changed. Steady clocks go on as they are, as they do when an administrator or NTP
sets the clock. (``FAKETIME_FORCE_MONOTONIC_FIX=0``: without it every wait of a JVM would end at once.)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

LIBRARIES: Final = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
ABSENT: Final = "no libfaketime here: deploy/faketime installs it"
_FOR_PYTHON: Final = Path(__file__).with_name("preloaded")
REREAD_SECONDS: Final = 1
"""So soon a process notices that its clock was set."""


class Clock:
    """One process's, and that of all it starts; right until it is set."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)

    def set(self, seconds: float) -> None:
        """Ahead of the true time by so much."""
        beside = self._file.with_suffix(".tmp")
        beside.write_text(f"{seconds:+g}\n")
        beside.chmod(0o644)  # PostgreSQL's user reads it too
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
