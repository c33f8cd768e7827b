"""The command line: ``python -m candleflow <command>``.

The settings are read, and a wrong one ends it with status 2, before anything else is imported that could open
a file or a connection. What a command needs is imported when it is chosen: ``status`` needs no Kafka client.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from candleflow import environment
from candleflow import settings as settings_module
from candleflow.errors import CandleflowError
from candleflow.settings import Settings

Run = Callable[[Settings, argparse.Namespace], int]
AddArguments = Callable[[argparse.ArgumentParser], None]


@dataclass(frozen=True, slots=True)
class Command:
    """One command: what it does in a line, how to run it, and its arguments where it has any."""

    help: str
    run: Run
    add_arguments: AddArguments | None = None


def service(name: str) -> Any:
    """The module of a service; which service exists is the packages' business, not the command line's."""
    return importlib.import_module(f"candleflow.services.{name}")


def _add_services(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--detach", action="store_true", help="start them in the background and come back")


def _add_status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs; holds the reader's password")


def _add_latency(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=30, help="how long to watch (30)")


def _add_gaps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--open", action="store_true", help="only those that miss trades still")


def _add_simulate(parser: argparse.ArgumentParser) -> None:
    service("simulator").add_arguments(parser, "simulate")


def _add_replay(parser: argparse.ArgumentParser) -> None:
    service("simulator").add_arguments(parser, "replay")


def _add_verify(parser: argparse.ArgumentParser) -> None:
    service("verify").add_arguments(parser)


def _add_backfill(parser: argparse.ArgumentParser) -> None:
    service("backfill").add_arguments(parser)


def _add_forecast(parser: argparse.ArgumentParser) -> None:
    service("forecast_report").add_arguments(parser)


def _add_repair(parser: argparse.ArgumentParser) -> None:
    service("verify").add_times(parser)


def _add_alerts(parser: argparse.ArgumentParser) -> None:
    service("alert_commands").add_arguments(parser)


def _alerts(settings: Settings, arguments: argparse.Namespace) -> int:
    if arguments.action is None:
        return int(service("alerts").run(settings))
    return int(service("alert_commands").run(_running(settings), arguments))


def _services(settings: Settings, arguments: argparse.Namespace) -> int:
    up = service("up")
    return int(up.detach(settings) if arguments.detach else up.run(settings, "services"))


def _psql(settings: Settings, arguments: argparse.Namespace) -> int:
    return int(service("status").psql(settings, arguments.handed_on))


def _running(settings: Settings) -> Settings:
    """The settings of what runs here: ``up`` may have chosen the exchange."""
    found: Settings = service("status").running_settings(settings)
    return found


def _settings(settings: Settings, _: argparse.Namespace) -> int:
    rows = settings_module.describe(settings)
    widest = max(len(name) for name, _, _ in rows)
    for name, value, meaning in rows:
        print(f"{name:<{widest}}  {value:<40}  {meaning}".rstrip())
    return 0


COMMANDS: Final[dict[str, Command]] = {
    "up": Command(
        "start everything on this machine and show how it is, until Ctrl-C",
        lambda settings, _: service("up").run(settings),
    ),
    "services": Command(
        "start only Kafka and PostgreSQL, in place of docker compose", _services, _add_services
    ),
    "status": Command(
        "what runs on the data folder",
        lambda settings, arguments: service("status").run_status(settings, as_json=arguments.json),
        _add_status,
    ),
    "down": Command("stop what up or services started", lambda settings, _: service("status").down(settings)),
    "producer": Command(
        "the exchange's trades into Kafka (as producer.py)",
        lambda settings, _: service("producer").run(settings),
    ),
    "processor": Command(
        "Kafka's trades into candles (as processor.py)",
        lambda settings, _: service("processor").run(settings),
    ),
    "dashboard": Command(
        "the page (as streamlit run dashboard.py)", lambda settings, _: service("dashboard").run(settings)
    ),
    "simulate": Command(
        "an exchange of made-up trades, on this machine",
        lambda settings, arguments: service("simulator").run(settings, arguments),
        _add_simulate,
    ),
    "replay": Command(
        "an exchange that serves a recording, on this machine",
        lambda settings, arguments: service("simulator").run(settings, arguments),
        _add_replay,
    ),
    "latency": Command(
        "measure trade-to-row latency of what runs",
        lambda settings, arguments: service("latency").run(_running(settings), arguments),
        _add_latency,
    ),
    "audit": Command(
        "look for holes and wrong candles, and have them filled and folded anew (part of up)",
        lambda settings, _: service("audit").run(settings),
    ),
    "alerts": Command(
        "decide and send alerts (part of up, as alerts.py); add, list, remove: its rules; test: its channels",
        _alerts,
        _add_alerts,
    ),
    "repair": Command(
        "fold a symbol's wrong candles anew from the topic, and have every hole filled, however old",
        lambda settings, arguments: service("repair").run(_running(settings), arguments),
        _add_repair,
    ),
    "backfill": Command(
        "load a day's or a month's trades from the exchange's public archive, or a file of it",
        lambda settings, arguments: service("backfill").run(_running(settings), arguments),
        _add_backfill,
    ),
    "gaps": Command(
        "which trades were missing, why, and what became of them",
        lambda settings, arguments: service("gaps").run(_running(settings), arguments),
        _add_gaps,
    ),
    "verify": Command(
        "stored candles against the exchange's own klines, field by field",
        lambda settings, arguments: service("verify").run(_running(settings), arguments),
        _add_verify,
    ),
    "forecaster": Command(
        "forecasts of the next close, scored as candles close (as forecaster.py; part of up)",
        lambda settings, _: service("forecaster").run(settings),
    ),
    "forecast": Command(
        "evaluate: what forecasts were worth, over stored candles or a file of trades",
        lambda settings, arguments: service("forecast_report").run(_running(settings), arguments),
        _add_forecast,
    ),
    "adopt-topic": Command(
        "accept a topic that was made anew: its offsets begin at its beginning",
        lambda settings, _: service("adopt_topic").run(_running(settings)),
    ),
    "settings": Command("the settings in force, secrets hidden", _settings),
    "psql": Command("psql in the database, as the page's read-only role; what follows is psql's", _psql),
}


def build_parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """The parser; only the chosen command has its arguments, as they may need imports."""
    parser = argparse.ArgumentParser(
        prog="python -m candleflow",
        description="Live trades as exact candles. Settings come from CANDLEFLOW_* variables or a .env file.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, command in COMMANDS.items():
        one = commands.add_parser(name, help=command.help, description=command.help)
        if name == chosen and command.add_arguments is not None:
            command.add_arguments(one)
    return parser


def _split(argv: list[str], chosen: str | None) -> tuple[list[str], list[str]]:
    """Our arguments, and those of another program: ``psql`` has options that argparse would take for ours."""
    if chosen != "psql":
        return argv, []
    after = argv.index("psql") + 1
    return argv[:after], argv[after:]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 done or stopped by a signal, 2 a bad setting or argument, else 1."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        environment.prepare()
        chosen = next((one for one in argv if one in COMMANDS), None)
        settings = settings_module.load() if chosen is not None else None
        ours, handed_on = _split(argv, chosen)
        arguments = build_parser(chosen).parse_args(ours)
        arguments.handed_on = handed_on
        if settings is None:
            settings = settings_module.load()
        for sentence in settings_module.unknown_names():
            print(f"warning: {sentence}", file=sys.stderr)
        return int(COMMANDS[arguments.command].run(settings, arguments))
    except CandleflowError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 0
