"""Compare alert rules with a simple reference that sees all prices at once."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from candleflow.alerts.firing import Observation, State, deviations, evaluate
from candleflow.alerts.rules import Kind, Rule, fields, rule_of
from candleflow.market.stored import Bar
from candleflow.market.window import SECOND_US

LINE = 100
PRICES = st.lists(st.integers(95, 105), max_size=40)
SLACKS = st.integers(0, 4)


def fired(rule: Rule, prices: Sequence[int], every_seconds: int = 5) -> list[int]:
    """Return the indexes of the prices, one per window, at which the rule fires."""
    state, found = State(), []
    for at, price in enumerate(prices):
        time = at * every_seconds * SECOND_US
        observation = Observation("BTCUSDT", time, time, Decimal(price))
        state, firing = evaluate(rule, State(**asdict(state)), observation, time)  # as after a restart
        assert evaluate(rule, state, observation, time)[1] is None, "the same observation again fires nothing"
        if firing is not None:
            found.append(at)
    return found


def crossings_up(prices: Sequence[int], slack: int) -> list[int]:
    """For each price at or past the level, look back to the last price that armed the rule."""
    found: list[int] = []
    for at in range(1, len(prices)):
        before = prices[:at]
        if prices[at] < LINE or before[-1] >= LINE:
            continue
        # Since the last price at or past the level, one must have been below it by the hysteresis.
        past = max((i for i, price in enumerate(before) if price >= LINE), default=None)
        since = before if past is None else before[past + 1 :]
        if past is None or slack == 0 or min(since) < LINE - slack:
            found.append(at)
    return found


def rule(kind: Kind, slack: int = 0, **more: object) -> Rule:
    return Rule(kind, Decimal(LINE), hysteresis=Decimal(slack), cool_down_seconds=0, **more)  # type: ignore[arg-type]


@given(PRICES, SLACKS)
def test_a_crossing_up_is_from_below_to_the_line_or_past_it(prices: list[int], slack: int) -> None:
    assert fired(rule(Kind.CROSSES_UP, slack), prices) == crossings_up(prices, slack)


@given(PRICES, SLACKS)
def test_a_crossing_down_is_the_mirror_of_one_up(prices: list[int], slack: int) -> None:
    mirrored = [2 * LINE - price for price in prices]
    assert fired(rule(Kind.CROSSES_DOWN, slack), mirrored) == crossings_up(prices, slack)


@given(PRICES, SLACKS)
def test_either_way_is_both(prices: list[int], slack: int) -> None:
    up = crossings_up(prices, slack)
    down = crossings_up([2 * LINE - price for price in prices], slack)
    assert fired(rule(Kind.CROSSES, slack), prices) == sorted({*up, *down})


def stretches_above(prices: Sequence[int], slack: int) -> list[int]:
    """Return where each alerting period begins; it ends when the price is back by the hysteresis."""
    found, at = [], 0
    while at < len(prices):
        if prices[at] > LINE:
            found.append(at)
            at = next((i for i in range(at, len(prices)) if prices[i] <= LINE - slack), len(prices))
        at += 1
    return found


@given(PRICES, SLACKS)
def test_above_is_a_state_that_fires_where_it_begins_even_at_the_start(prices: list[int], slack: int) -> None:
    assert fired(rule(Kind.ABOVE, slack), prices) == stretches_above(prices, slack)


@given(PRICES, SLACKS)
def test_below_is_the_mirror_of_above(prices: list[int], slack: int) -> None:
    mirrored = [2 * LINE - price for price in prices]
    assert fired(rule(Kind.BELOW, slack), mirrored) == stretches_above(prices, slack)


@given(PRICES, st.integers(0, 60))
def test_within_the_cool_down_nothing_is_said_nor_put_off(prices: list[int], cool_down: int) -> None:
    always = fired(rule(Kind.ABOVE), prices)
    expected: list[int] = []
    for at in always:
        if not expected or (at - expected[-1]) * 5 >= cool_down:
            expected.append(at)
    calm = rule_of(fields(rule(Kind.ABOVE)) | {"cool_down_seconds": cool_down, "channels": ["phone"]})
    assert fired(calm, prices) == expected


@given(PRICES)
def test_once_is_the_first_of_always(prices: list[int]) -> None:
    assert fired(rule(Kind.CROSSES, is_once=True), prices) == fired(rule(Kind.CROSSES), prices)[:1]


@given(PRICES, st.integers(1, 40))
def test_a_window_has_one_alert_however_often_the_price_crosses_in_it(prices: list[int], size: int) -> None:
    state, windows = State(), []
    for at, price in enumerate(prices):
        observation = Observation("BTCUSDT", at, at // size, Decimal(price))
        state, firing = evaluate(rule(Kind.CROSSES), state, observation, at)
        windows += [observation.window] if firing else []
    assert len(windows) == len(set(windows))
    assert set(windows) <= {at // size for at in fired(rule(Kind.CROSSES), prices)}


@given(st.lists(st.integers(0, 10**9), min_size=2, max_size=40), st.integers(0, 10**9))
def test_deviations_are_those_of_statistics(volumes: list[int], volume: int) -> None:
    found = deviations(Decimal(volume), [Decimal(one) for one in volumes])
    spread = statistics.pstdev(volumes)
    if len(set(volumes)) == 1:
        assert found is None
    else:
        assert found is not None
        expected = (volume - statistics.fmean(volumes)) / spread
        assert abs(float(found) - expected) <= 1e-6 * max(1.0, abs(expected))


@given(st.lists(st.integers(1, 1_000), min_size=1, max_size=30), st.integers(1, 1_000), st.integers(1, 100))
def test_a_move_is_from_the_lowest_or_the_highest_price(lows: list[int], price: int, percent: int) -> None:
    bars = [
        Bar(at * SECOND_US, Decimal(low), Decimal(low + 5), Decimal(low), Decimal(low), Decimal(1), True)
        for at, low in enumerate(lows)
    ]
    observation = Observation("BTCUSDT", 60 * SECOND_US, 60 * SECOND_US, Decimal(price), history=bars)
    moves = Rule(Kind.MOVE, Decimal(percent), minutes=1, cool_down_seconds=0)
    low, high = min(*lows, price), max(*(one + 5 for one in lows), price)
    expected = 100 * (price - low) >= percent * low or 100 * (high - price) >= percent * high
    assert (evaluate(moves, State(), observation, 0)[1] is not None) == expected
