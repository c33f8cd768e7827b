"""The declaration of a command. Each package lists its own in ``COMMANDS``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Command:
    """A command, as the command line knows it before it imports the module that does the work.

    ``run`` names a function (``module:function``) that takes the Settings and returns the exit status.
    ``arguments``, if set, names a function that adds arguments to the parser; ``run`` then also takes the
    parsed arguments.
    """

    name: str
    help: str
    run: str
    arguments: str | None = None
    uses_running_settings: bool = False
    """Whether to use the settings of the processes that run on the data folder instead of our own: ``up`` may
    have chosen the exchange. A parsed argument of the same name takes precedence."""
    passes_arguments_on: bool = False
    """Whether all arguments after the name belong to another program; ``run`` gets them in ``passed_on``."""
