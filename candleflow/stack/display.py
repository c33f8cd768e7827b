"""Show the state of each process: a live table on a terminal, otherwise a line for each change."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

_QUIET_COUNTS: Final = ("loop_lag_ms", "connected")
_STYLES: Final = {
    "running": "green", "starting": "yellow", "waiting": "dim", "restarting": "bold red",
    "failed": "bold red", "stopping": "yellow", "stopped": "dim",
}  # fmt: skip
SIMULATED: Final = "SIMULATED: made-up trades, no market, no real prices"


@dataclass(frozen=True, slots=True)
class PartLine:
    """What the display shows of one process."""

    name: str
    state: str
    message: str = ""
    problem: str = ""
    """Why it isn't running, by the supervisor."""


def counted(counts: Mapping[str, int | float]) -> str:
    """Format the counts except zeros and ``_QUIET_COUNTS``, such as ``published 1,204  missing 3``."""
    shown = ((name, value) for name, value in counts.items() if value and name not in _QUIET_COUNTS)
    return "  ".join(f"{name} {value:,}" for name, value in shown)


class Display:
    """The console output of ``up`` and ``services``: messages, and below them the state of each process."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[str, tuple[str, str]] = {}
        self._live: Live | None = None
        self.is_simulated = False

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, transient=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, sentence: str, style: str = "") -> None:
        # The output may be a file on a full disk, which must not stop the processes.
        with suppress(OSError):
            self._console.print(Text(sentence, style=style), soft_wrap=True)

    def show(self, parts: Sequence[PartLine]) -> None:
        if self._live is not None:
            self._live.update(self._table(parts))
            return
        for part in parts:
            # Counts change all the time. Without a terminal, print a line only for a new state or a new
            # problem.
            if self._shown.get(part.name) != (part.state, part.problem):
                self._shown[part.name] = (part.state, part.problem)
                self.say(_plain(part))

    def _table(self, parts: Sequence[PartLine]) -> Table:
        mark = Text(f" {SIMULATED} ", style="bold white on red") if self.is_simulated else None
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), title=mark, title_justify="left")
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis")
        for part in parts:
            table.add_row(part.name, Text(part.state, style=_STYLES.get(part.state, "")), Text(part.message))
        return table


def _plain(part: PartLine) -> str:
    now = time.strftime("%H:%M:%S", time.gmtime())
    return f"{now}Z {part.name:<10} {part.state}" + (f" ({part.problem})" if part.problem else "")
