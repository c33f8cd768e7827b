"""A patch of two figures turns the first into the second, and is small."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from candleflow.dashboard.choice import Period
from candleflow.dashboard.figure import figure
from candleflow.dashboard.patch import difference
from candleflow.market.window import SECOND_US
from tests.unit.dashboard.examples import NOON, candle
from tests.unit.dashboard.receiving import apply

PLAIN = st.none() | st.booleans() | st.integers(0, 3) | st.floats(0, 3, width=16) | st.text("ab", max_size=2)
POINTS = st.lists(PLAIN, max_size=8)
VALUES = st.recursive(
    PLAIN | POINTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner)
)


def same(one: Any, other: Any) -> bool:
    """Return whether both are the same JSON: in Python ``True == 1 == 1.0``, in JSON not."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@example([1], [True])
@example({"x": [[0]]}, {"x": [[False]]})
@given(VALUES, VALUES)
def test_a_patch_applied_gives_the_new_value(before: Any, after: Any) -> None:
    was = json.dumps(before)
    patch = difference(before, after)
    assert same(apply(before, json.loads(json.dumps(patch))), after)
    assert json.dumps(before) == was


@given(VALUES)
def test_where_nothing_differs_there_is_no_patch(value: Any) -> None:
    assert difference(value, json.loads(json.dumps(value))) is None


def test_if_points_move_on_only_the_new_one_is_sent() -> None:
    before = {"x": list(range(1_000)), "y": [one % 7 for one in range(1_000)], "color": {"of": [1] * 1_000}}
    after = {
        "x": list(range(2, 1_003)),
        "y": [one % 7 for one in range(2, 1_003)],
        "color": {"of": [1] * 1_001},
    }
    patch = difference(before, after)
    assert patch == [
        "keys",
        {
            "x": ["points", 2, 1_001, [[998, [1_000, 1_001, 1_002]]]],
            "y": ["points", 2, 1_001, [[998, [6, 0, 1]]]],
            "color": ["keys", {"of": ["points", 0, 1_001, [[1_000, [1]]]]}, []],
        },
        [],
    ]


def test_a_refresh_is_a_fraction_of_the_figure() -> None:
    period = Period(None, NOON + 3_600 * SECOND_US, is_past=False)
    shown = [candle(at) for at in range(722)]
    before, after = figure(shown[:720], 5, period, 2), figure(shown[2:], 5, period, 2)
    patch = difference(before, after)
    assert same(apply(before, patch), after)
    assert len(json.dumps(patch)) < len(json.dumps(after)) / 20


def test_an_invalid_patch_is_rejected() -> None:
    with pytest.raises(ValueError, match="no patch"):
        apply({}, ["sort"])
