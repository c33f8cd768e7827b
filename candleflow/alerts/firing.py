"""Decide when alert rules fire. No I/O; times are arguments, in microseconds.

There are two kinds of rules, which differ at the first observation:

- ``crosses`` rules fire on an event: the price was on one side of the level and has now reached it. If the
  price is already past the level at the first observation, the rule stays disarmed until the price is back.
- ``above``, ``below`` and all others fire on a state. If the state holds at the first observation, the rule
  fires at once. It fires again only after the state has ended.

Hysteresis: with a level of 100 and a hysteresis of 2, a rule that fired upwards is armed again below 98. So a
price that oscillates around 100 fires once. A firing within the cool-down is dropped, not delayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Context, Decimal
from typing import Final

from candleflow.alerts.rules import Kind, Rule
from candleflow.market.stored import Bar
from candleflow.market.window import SECOND_US

EXACT: Final = Context(prec=60)
"""Decimal precision: sums of squared volumes need up to 47 digits."""
_CROSSINGS: Final = (Kind.CROSSES_UP, Kind.CROSSES_DOWN, Kind.CROSSES)
_HUNDRED: Final = Decimal(100)
_ZERO: Final = Decimal(0)


@dataclass(frozen=True, slots=True)
class Observation:
    """One observation of a symbol's market or of the pipeline.

    ``value``: the price; for pipeline rules a number of seconds, trades or candles. ``window``: the open time
    of the candle that it belongs to. ``history``: the candles before that one, oldest first.
    """

    symbol: str
    at: int
    window: int
    value: Decimal
    is_closed: bool = False
    is_complete: bool = True
    is_simulated: bool = False
    volume: Decimal = _ZERO
    history: Sequence[Bar] = ()


@dataclass(frozen=True, slots=True)
class State:
    """The state of a rule for one symbol between two evaluations. The default is a new rule's state.

    Stored as JSON, field by field.
    """

    has_begun: bool = False
    is_armed_up: bool = False
    is_armed_down: bool = False
    is_active: bool = False
    fired_at: int | None = None
    fired_window: int | None = None


@dataclass(frozen=True, slots=True)
class Firing:
    """The firing of a rule: the observation that caused it, and the measured value."""

    rule: Rule
    observation: Observation
    measured: Decimal
    is_upward: bool = True


def evaluate(rule: Rule, state: State, observation: Observation, now: int) -> tuple[State, Firing | None]:
    """Return the rule's next state, and the firing if it fires. ``now`` is for expiry and cool-down.

    An observation that the rule doesn't accept (``takes``) changes nothing.
    """
    if not takes(rule, observation) or rule.has_expired(now) or (rule.is_once and state.fired_at is not None):
        return state, None
    measured = measure(rule, observation)
    if measured is None:
        return state, None
    after, is_upward = (
        _crossing(rule, state, measured) if rule.kind in _CROSSINGS else _state(rule, state, measured)
    )
    if is_upward is None or _is_held_back(rule, state, observation, now):
        return after, None
    after = replace(after, fired_at=now, fired_window=observation.window)
    return after, Firing(rule, observation, measured, is_upward)


def takes(rule: Rule, observation: Observation) -> bool:
    """Whether the rule accepts the observation: its symbol, and closed or complete candles."""
    if rule.symbol is not None and rule.kind is not Kind.LAG and rule.symbol != observation.symbol:
        return False
    if rule.is_on_closed and rule.kind.is_of_market and not observation.is_closed:
        return False
    return rule.may_be_incomplete or not rule.kind.is_of_market or _is_complete(rule, observation)


def _is_complete(rule: Rule, observation: Observation) -> bool:
    return observation.is_complete and all(bar.is_complete for bar in _considered(rule, observation))


def _considered(rule: Rule, observation: Observation) -> Sequence[Bar]:
    """Return the earlier candles that the rule compares with."""
    if rule.kind is Kind.MOVE:
        since = observation.at - rule.minutes * 60 * SECOND_US
        return [bar for bar in observation.history if bar.open_time >= since]
    return observation.history[-rule.candles :] if rule.kind is Kind.VOLUME else ()


def measure(rule: Rule, observation: Observation) -> Decimal | None:
    """Return the value to compare with the threshold; None if there is too little history."""
    if rule.kind is Kind.MOVE:
        return _move(observation.value, _considered(rule, observation))
    if rule.kind is Kind.VOLUME:
        volumes = [bar.volume for bar in _considered(rule, observation)]
        return deviations(observation.volume, volumes) if len(volumes) == rule.candles else None
    return observation.value


def _move(price: Decimal, bars: Sequence[Bar]) -> Decimal:
    """Return the larger of the rise from the lowest and the fall from the highest price, in percent."""
    low = min((bar.low for bar in bars), default=price)
    high = max((bar.high for bar in bars), default=price)
    up = EXACT.divide(_HUNDRED * (price - min(low, price)), min(low, price))
    down = EXACT.divide(_HUNDRED * (max(high, price) - price), max(high, price))
    return max(up, down)


def deviations(volume: Decimal, volumes: Sequence[Decimal]) -> Decimal | None:
    """Return how many population standard deviations ``volume`` is above the mean of ``volumes``.

    None if all of ``volumes`` are equal: their standard deviation is 0.
    """
    count, total, squares = Decimal(len(volumes)), _ZERO, _ZERO
    for one in volumes:
        total = EXACT.add(total, one)
        squares = EXACT.fma(one, one, squares)
    spread = EXACT.subtract(EXACT.multiply(count, squares), EXACT.multiply(total, total))
    if spread <= 0:
        return None
    above = EXACT.subtract(EXACT.multiply(count, volume), total)
    return EXACT.divide(above, EXACT.sqrt(spread))


Outcome = tuple[State, bool | None]
"""The next state, and how the rule fires: True upward, False downward, None if it doesn't fire."""


def _crossing(rule: Rule, state: State, price: Decimal) -> Outcome:
    """Evaluate a ``crosses`` rule. Reaching the level exactly counts as crossing it."""
    line, slack = rule.threshold, rule.hysteresis
    if not state.has_begun:
        return replace(state, has_begun=True, is_armed_up=price < line, is_armed_down=price > line), None
    rises, falls = state.is_armed_up and price >= line, state.is_armed_down and price <= line
    after = replace(
        state,
        is_armed_up=price < line and (state.is_armed_up or price < line - slack or slack == 0),
        is_armed_down=price > line and (state.is_armed_down or price > line + slack or slack == 0),
    )
    if rises and rule.kind is not Kind.CROSSES_DOWN:
        return after, True
    return after, False if falls and rule.kind is not Kind.CROSSES_UP else None


def _state(rule: Rule, state: State, measured: Decimal) -> Outcome:
    """Evaluate a state rule: it starts past the threshold, and ends once it is back by the hysteresis."""
    sign = -1 if rule.kind is Kind.BELOW else 1
    past = sign * (measured - rule.threshold)
    reaches = past >= 0 if rule.kind is Kind.MOVE else past > 0
    ends = past < -rule.hysteresis if rule.kind is Kind.MOVE else past <= -rule.hysteresis
    is_active = not ends if state.is_active else reaches
    after = replace(state, has_begun=True, is_active=is_active)
    return after, sign > 0 if is_active and not state.is_active else None


def _is_held_back(rule: Rule, state: State, observation: Observation, now: int) -> bool:
    """Whether the rule already fired in this window, or is within its cool-down."""
    if state.fired_at is None:
        return False
    return (
        state.fired_window == observation.window or now < state.fired_at + rule.cool_down_seconds * SECOND_US
    )
