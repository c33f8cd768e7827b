"""A command of the command line, as the room that it belongs to declares it in its ``COMMANDS``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Command:
    """What the command line must know of a command before it imports the module that does the work.

    ``run`` names a function (``module:function``) that takes the Settings and returns the exit status. Where
    ``arguments`` names one too, that one adds arguments to the parser, and ``run`` takes the parsed ones as
    well.
    """

    name: str
    help: str
    run: str
    arguments: str | None = None
    of_what_runs: bool = False
    """Whether the settings of what runs on the data folder are taken: ``up`` may have chosen the exchange.
    An argument of that name stands above it."""
    takes_anything: bool = False
    """Whether all that follows the name is another program's, and taken as it is in ``handed_on``."""
