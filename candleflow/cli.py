"""The command line: ``python -m candleflow <command>``. Each package declares its own commands.

``main`` checks the settings first, and exits with status 2 if one is wrong, before it imports anything that
could open a file or a connection. It imports only what the chosen command needs: ``status`` needs no Kafka
client.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pkgutil import resolve_name
from typing import Any, Final

from candleflow import (
    alerts,
    audit,
    dashboard,
    environment,
    forecast,
    history,
    processor,
    producer,
    simulator,
    stack,
)
from candleflow import settings as settings_module
from candleflow.command import Command
from candleflow.errors import CandleflowError, StackError
from candleflow.settings import Settings

PACKAGES: Final = (stack, producer, processor, dashboard, alerts, forecast, audit, history, simulator)
COMMANDS: Final[dict[str, Command]] = {
    command.name: command
    for command in (
        *(command for package in PACKAGES for command in package.COMMANDS),
        Command("settings", "print the settings in force, secrets hidden", f"{__name__}:print_settings"),
    )
}


def print_settings(settings: Settings) -> int:
    """Print each setting with its value and meaning, and return exit status 0."""
    rows = settings_module.describe(settings)
    widest = max(len(name) for name, _, _ in rows)
    for name, value, meaning in rows:
        print(f"{name:<{widest}}  {value:<40}  {meaning}".rstrip())
    return 0


def build_parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """Build the parser; only the chosen command gets its arguments, because they may need imports."""
    parser = argparse.ArgumentParser(
        prog="candleflow",
        description="Live trades as exact candles. Settings come from CANDLEFLOW_* variables or a .env file.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, command in COMMANDS.items():
        one = commands.add_parser(name, help=command.help, description=command.help)
        if name == chosen and command.arguments is not None:
            _resolved(command.arguments)(one)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0 after success or a stop by a signal, 2 for a wrong setting or argument, else 1.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        environment.prepare()
        chosen = next((one for one in argv if one in COMMANDS), None)
        if chosen is None:
            build_parser().parse_args(argv)  # prints the help or an error, and exits
        settings = settings_module.load()
        ours, passed_on = _split(argv, chosen)
        arguments = build_parser(chosen).parse_args(ours)
        arguments.passed_on = passed_on
        for sentence in settings_module.unknown_names():
            print(f"warning: {sentence}", file=sys.stderr)
        return _run(COMMANDS[arguments.command], settings, arguments)
    except CandleflowError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 0


def _run(command: Command, settings: Settings, arguments: argparse.Namespace) -> int:
    if getattr(arguments, "uses_running_settings", command.uses_running_settings):
        settings = _resolved("candleflow.stack.status:running_settings")(settings)
    given = (arguments,) if command.arguments or command.passes_arguments_on else ()
    return int(_resolved(command.run)(settings, *given))


def _resolved(function: str) -> Any:
    """Return the function with this name, ``module:name``.

    Raises StackError if a package is missing: candleflow installed without extras can only read candles.
    """
    try:
        return resolve_name(function)
    except ModuleNotFoundError as error:
        raise StackError(
            f"the package {error.name} is not installed: pip install 'candleflow[all]', "
            "or in a clone of the repository: pip install -r requirements.txt"
        ) from error


def _split(argv: list[str], chosen: str | None) -> tuple[list[str], list[str]]:
    """Split into our arguments and those passed through to another program.

    ``psql`` has options that argparse would take for ours.
    """
    if chosen is None or not COMMANDS[chosen].passes_arguments_on:
        return argv, []
    after = argv.index(chosen) + 1
    return argv[:after], argv[after:]
