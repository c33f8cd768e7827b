"""Alert rules, and when they fire. No I/O, and no clock of its own: times are arguments, microseconds.

Two kinds of meaning, and they differ at the start:

- *Crossing* is an event. The price was on one side at the observation before, and has reached the line now. A rule
  that begins with the price past the line doesn't fire until the price has been back.
- *Above*, *below* and all the others are states. A state that holds at the first observation fires at once, and
  again only after it has ended.

The line of 100 with a hysteresis of 2: once fired upwards, it is armed again below 98; so a price that
trembles at 100 fires once. What comes within a rule's cool-down is passed over, not put off.
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
"""Sums of squares of volumes need 47 digits."""
_CROSSINGS: Final = (Kind.CROSSES_UP, Kind.CROSSES_DOWN, Kind.CROSSES)
_HUNDRED: Final = Decimal(100)
_ZERO: Final = Decimal(0)


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at a symbol's market, or at the pipeline.

    ``value`` is the price, or for rules of the pipeline what they are about: seconds, trades, candles.
    ``window`` is when the candle opened that it belongs to, ``history`` the candles before, oldest first.
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
    """What a rule remembers of one symbol between two looks; the default is that of a rule just made.

    Kept as JSON, field by field.
    """

    has_begun: bool = False
    is_armed_up: bool = False
    is_armed_down: bool = False
    is_active: bool = False
    fired_at: int | None = None
    fired_window: int | None = None


@dataclass(frozen=True, slots=True)
class Firing:
    """A rule has fired: the observation by which it did, and what it measured then."""

    rule: Rule
    observation: Observation
    measured: Decimal
    is_upward: bool = True


def evaluate(rule: Rule, state: State, observation: Observation, now: int) -> tuple[State, Firing | None]:
    """The rule's next state, and its firing if it fires. ``now`` decides of expiry and cool-down.

    an observation that the rule doesn't take (``takes``) is as if it had not been.
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
    """Whether the rule looks at such an observation at all: of its symbol, and of candles as it wants them."""
    if rule.symbol is not None and rule.kind is not Kind.LAG and rule.symbol != observation.symbol:
        return False
    if rule.is_on_closed and rule.kind.is_of_market and not observation.is_closed:
        return False
    if observation.is_simulated and not rule.may_be_simulated:
        return False
    return rule.may_be_incomplete or not rule.kind.is_of_market or _is_complete(rule, observation)


def _is_complete(rule: Rule, observation: Observation) -> bool:
    return observation.is_complete and all(bar.is_complete for bar in _considered(rule, observation))


def _considered(rule: Rule, observation: Observation) -> Sequence[Bar]:
    """The candles before the observation's own that the rule compares with."""
    if rule.kind is Kind.MOVE:
        since = observation.at - rule.minutes * 60 * SECOND_US
        return [bar for bar in observation.history if bar.open_time >= since]
    return observation.history[-rule.candles :] if rule.kind is Kind.VOLUME else ()


def measure(rule: Rule, observation: Observation) -> Decimal | None:
    """What the rule holds against its threshold; None where there is too little to say."""
    if rule.kind is Kind.MOVE:
        return _move(observation.value, _considered(rule, observation))
    if rule.kind is Kind.VOLUME:
        volumes = [bar.volume for bar in _considered(rule, observation)]
        return deviations(observation.volume, volumes) if len(volumes) == rule.candles else None
    return observation.value


def _move(price: Decimal, bars: Sequence[Bar]) -> Decimal:
    """Percent up from the lowest or down from the highest price, whichever is more."""
    low = min((bar.low for bar in bars), default=price)
    high = max((bar.high for bar in bars), default=price)
    up = EXACT.divide(_HUNDRED * (price - min(low, price)), min(low, price))
    down = EXACT.divide(_HUNDRED * (max(high, price) - price), max(high, price))
    return max(up, down)


def deviations(volume: Decimal, volumes: Sequence[Decimal]) -> Decimal | None:
    """By how many standard deviations (of the population) the volume is above the others' mean.

    None where all of those are the same: then there is no deviation to count in.
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
"""The state after, and whether it fires: upward, downward, or (None) not."""


def _crossing(rule: Rule, state: State, price: Decimal) -> Outcome:
    """Reaching the line counts, from where the price was not on it."""
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
    """It begins past the threshold, and ends no sooner than it is back by the hysteresis."""
    sign = -1 if rule.kind is Kind.BELOW else 1
    past = sign * (measured - rule.threshold)
    reaches = past >= 0 if rule.kind is Kind.MOVE else past > 0
    ends = past < -rule.hysteresis if rule.kind is Kind.MOVE else past <= -rule.hysteresis
    is_active = not ends if state.is_active else reaches
    after = replace(state, has_begun=True, is_active=is_active)
    return after, sign > 0 if is_active and not state.is_active else None


def _is_held_back(rule: Rule, state: State, observation: Observation, now: int) -> bool:
    """Once a window, whatever the cool-down."""
    if state.fired_at is None:
        return False
    return (
        state.fired_window == observation.window or now < state.fired_at + rule.cool_down_seconds * SECOND_US
    )
