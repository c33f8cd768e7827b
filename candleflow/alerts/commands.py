"""``alerts add|list|remove|test``: edit rules, list recent alerts, and test the channels."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, Final

from candleflow.alerts import process
from candleflow.alerts.answers import Outcome
from candleflow.alerts.channels import channels
from candleflow.alerts.message import describe, utc
from candleflow.alerts.rules import (
    NO_CHANNEL,
    Kind,
    Rule,
    check_channels,
    expiry,
    fields,
    rule_of,
)
from candleflow.errors import MarketError, SettingError
from candleflow.market.symbol import upper
from candleflow.settings import Settings, channels_of
from candleflow.store.alerts import AlertEditor, AlertReader, StoredRule

_LATEST: Final = 20
_TEST: Final = "Candleflow test message: this channel works. Alerts will arrive here."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands. Without one, ``alerts`` runs the process that evaluates rules and sends alerts."""
    actions = parser.add_subparsers(dest="action", metavar="action")
    add = actions.add_parser("add", help="add a rule")
    add.add_argument("kind", choices=[str(kind) for kind in Kind])
    add.add_argument(
        "threshold",
        nargs="?",
        default="0",
        help="by kind: a price, percent, standard deviations or seconds",
    )
    add.add_argument("--symbol", help="watch only this symbol (default: all)")
    add.add_argument("--minutes", type=int, default=0, help="move: look back this many minutes")
    add.add_argument("--candles", type=int, default=0, help="volume: compare with this many earlier candles")
    add.add_argument("--closed", action="store_true", help="evaluate closed candles only")
    add.add_argument(
        "--hysteresis",
        default="0",
        help="how far the value must move back before the rule can fire again (default: 0)",
    )
    add.add_argument(
        "--cool-down",
        type=int,
        default=60,
        help="minimum seconds between two alerts of the rule for one symbol (default: 60)",
    )
    add.add_argument("--once", action="store_true", help="fire at most once for each symbol")
    add.add_argument("--until", help="expire at this time, in UTC, such as 2026-12-31T18:00")
    add.add_argument("--note", default="", help="text to add to the message")
    add.add_argument("--to", help="channel names, separated by commas (default: every channel set up)")
    add.add_argument("--incomplete", action="store_true", help="also evaluate incomplete candles")
    actions.add_parser("list", help="list the rules and the latest alerts")
    actions.add_parser("remove", help="remove a rule").add_argument("rule_id", type=int)
    test = actions.add_parser("test", help="send a test message to one channel, or to all")
    test.add_argument("channel", nargs="?")
    for action in actions.choices.values():
        action.set_defaults(uses_running_settings=True)


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Run the subcommand, or the process if none is given; return the exit status.

    Raises StoreError while PostgreSQL can't answer.
    """
    if arguments.action is None:
        return process.run(settings)
    return _ACTIONS[arguments.action](settings, arguments)


def _add(settings: Settings, arguments: argparse.Namespace) -> int:
    rule = _rule(settings, arguments)
    with closing(AlertEditor.from_settings(settings)) as editor:
        rule_id = editor.add(fields(rule))
    print(f"rule {rule_id}: {describe(rule)}")
    if settings.exchange.is_simulated:
        print("the exchange is simulated: this rule watches simulated trades, and its messages say SIMULATED")
    if not channels_of(settings.alert.channels.get_secret_value()):
        print(f"alerts are only stored and shown on the page: {NO_CHANNEL}")
    return 0


def _rule(settings: Settings, arguments: argparse.Namespace) -> Rule:
    names = [name.strip() for name in arguments.to.split(",")] if arguments.to else []
    check_channels(names, list(channels_of(settings.alert.channels.get_secret_value())))
    given: Mapping[str, Any] = {
        "kind": arguments.kind,
        "threshold": arguments.threshold,
        "symbol": upper(arguments.symbol) if arguments.symbol else None,
        "minutes": arguments.minutes,
        "candles": arguments.candles,
        "is_on_closed": arguments.closed,
        "hysteresis": arguments.hysteresis,
        "cool_down_seconds": arguments.cool_down,
        "is_once": arguments.once,
        "expires_at": expiry(arguments.until or ""),
        "note": arguments.note,
        "channels": names,
        "may_be_incomplete": arguments.incomplete,
    }
    return rule_of(given)


def _list(settings: Settings, _: argparse.Namespace) -> int:
    with closing(AlertReader.from_settings(settings)) as reader:
        rules, latest = reader.rules(), reader.latest(_LATEST)
    for stored in rules:
        print(f"rule {stored.rule_id}: {_stored_words(stored)}")
    for alert in latest:
        first = alert.text.splitlines()[0]
        state = f"{alert.state} ({alert.detail})" if alert.detail else alert.state
        print(f"{utc(alert.decided_at)}  {alert.channel}: {state}: {first}")
    print(f"{len(rules)} rules; the latest {len(latest)} deliveries")
    return 0


def _stored_words(stored: StoredRule) -> str:
    try:
        return describe(rule_of(stored.rule, stored.rule_id))
    except MarketError as error:
        return f"ignored, the stored rule is invalid: {error}"


def _remove(settings: Settings, arguments: argparse.Namespace) -> int:
    with closing(AlertEditor.from_settings(settings)) as editor:
        found = editor.remove(arguments.rule_id)
    print(f"rule {arguments.rule_id} removed" if found else f"there is no rule {arguments.rule_id}")
    return 0 if found else 1


def _test(settings: Settings, arguments: argparse.Namespace) -> int:
    known = channels(settings)
    if not known:
        raise SettingError(NO_CHANNEL)
    check_channels([arguments.channel] if arguments.channel else [], list(known))
    status = 0
    for name in [arguments.channel] if arguments.channel else known:
        answer = known[name].send(_TEST)
        outcome = "not sent" if answer.outcome is Outcome.LATER else str(answer.outcome)
        print(f"{name}: {outcome}{f': {answer.detail}' if answer.detail else ''}")
        status = status if answer.outcome is Outcome.SENT else 1
    return status


_ACTIONS: Final[Mapping[str, Callable[[Settings, argparse.Namespace], int]]] = {
    "add": _add,
    "list": _list,
    "remove": _remove,
    "test": _test,
}
