"""Build the texts of alerts, and combine several alerts into one message. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final
from urllib.parse import quote

from candleflow.alerts.firing import EXACT, Firing
from candleflow.alerts.rules import Kind, Rule, plain

LONGEST_MESSAGE: Final = 1_900
"""In characters. Discord accepts 2,000, Telegram 4,096."""
MOST_AT_ONCE: Final = 30
LONGEST_BRIEF: Final = 60

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS: Final = {Kind.SILENCE: " s", Kind.LAG: " s", Kind.GAP: " trades", Kind.DIFFERS: " candles"}
_DIRECTIONS: Final = {True: "up", False: "down"}


@dataclass(frozen=True, slots=True)
class AlertText:
    """An alert's full text, and a one-line version of at most LONGEST_BRIEF characters."""

    text: str
    brief: str


def alert_text(firing: Firing, page_url: str) -> AlertText:
    """Build the text: symbol, rule, value, time in UTC, the rule's note, and a link to the page."""
    rule, observation = firing.rule, firing.observation
    symbol = observation.symbol or "all symbols"
    marks = "SIMULATED " if observation.is_simulated else ""
    doubt = "" if observation.is_complete else " (incomplete candle)"
    head = f"{marks}{symbol} {_event(firing)}: {_value(firing)} at {utc(observation.at)}{doubt}"
    link = f"{page_url}/?symbol={quote(observation.symbol)}" if observation.symbol else page_url
    brief = f"{marks}{symbol} {_event(firing)}: {plain(observation.value)}"
    return AlertText("\n".join(filter(None, (head, rule.note, link))), brief[:LONGEST_BRIEF])


def _event(firing: Firing) -> str:
    """Describe what happened; a ``crosses`` rule also names the direction."""
    rule = firing.rule
    if rule.kind is Kind.CROSSES:
        return f"crosses {_DIRECTIONS[firing.is_upward]} {plain(rule.threshold)}"
    return rule.words()


def _value(firing: Firing) -> str:
    rule, observation = firing.rule, firing.observation
    if rule.kind is Kind.MOVE:
        percent = plain(firing.measured.quantize(Decimal("0.01"), context=EXACT))
        return f"{percent} %, to {plain(observation.value)}"
    if rule.kind is Kind.VOLUME:
        many = plain(firing.measured.quantize(Decimal("0.1"), context=EXACT))
        return f"{plain(observation.volume)}, {many} above, at a price of {plain(observation.value)}"
    return f"{plain(observation.value)}{_UNITS.get(rule.kind, '')}"


def describe(rule: Rule) -> str:
    """Describe the whole rule in one line, for ``alerts list`` and the page."""
    marks = [
        "on closed candles" if rule.is_on_closed else "",
        f"hysteresis {plain(rule.hysteresis)}" if rule.hysteresis else "",
        f"cool-down {rule.cool_down_seconds} s",
        "once" if rule.is_once else "",
        f"until {utc(rule.expires_at)}" if rule.expires_at is not None else "",
        "also incomplete candles" if rule.may_be_incomplete else "",
        rule.note,
    ]
    said = ", ".join(filter(None, marks))
    channels = ", ".join(rule.channels) or "every channel"
    return f"{rule.symbol or 'every symbol'} {rule.words()}, to {channels} ({said})"


def utc(at: int, form: str = "%Y-%m-%d %H:%M:%S UTC") -> str:
    """Format a time in microseconds, such as ``2026-11-22 10:00:05 UTC``."""
    return (_EPOCH + timedelta(microseconds=at)).strftime(form)


def combined_message(alerts: Sequence[AlertText]) -> str:
    """Combine alerts into one message: the first ones in full as far as they fit, the rest as one line each.

    ``alerts``: at most MOST_AT_ONCE, so that all the one-line versions fit.
    """
    room = LONGEST_MESSAGE - sum(len(one.brief) + 1 for one in alerts)
    full = 0
    for one in alerts:
        room -= len(one.text) + 1 - len(one.brief)
        if room < 0:
            break
        full += 1
    parts = [one.text + "\n" for one in alerts[:full]] + [one.brief for one in alerts[full:]]
    return "\n".join(parts).strip()
