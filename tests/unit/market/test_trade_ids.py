"""Sets of trade ids, against Python's own sets."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candleflow.errors import MarketError
from candleflow.market.trade_ids import TradeIds

IDS = st.lists(st.integers(0, 60), max_size=80)


@given(IDS)
def test_it_holds_what_a_plain_set_would_hold(ids: list[int]) -> None:
    held = TradeIds()
    seen: set[int] = set()
    for trade_id in ids:
        assert held.add(trade_id) is (trade_id not in seen)
        seen.add(trade_id)
        assert len(held) == len(seen)
    assert all((trade_id in held) == (trade_id in seen) for trade_id in range(-1, 62))


@given(IDS)
def test_its_ranges_are_disjoint_in_order_and_never_touch(ids: list[int]) -> None:
    ranges = TradeIds(ids).ranges
    assert all(lower < upper for lower, upper in ranges)
    assert all(upper < lower for (_, upper), (lower, _) in itertools.pairwise(ranges))


@given(IDS)
def test_its_holes_are_the_missing_ids_between_first_and_last(ids: list[int]) -> None:
    missing = {i for lower, upper in TradeIds(ids).holes() for i in range(lower, upper)}
    assert missing == (set(range(min(ids), max(ids) + 1)) - set(ids) if ids else set())


@given(IDS, st.integers(0, 60), st.integers(0, 60))
def test_a_range_added_equals_its_ids_added(ids: list[int], lower: int, upper: int) -> None:
    by_range, one_by_one = TradeIds(ids), TradeIds(ids)
    by_range.add_range(lower, upper)
    for trade_id in range(lower, upper):
        one_by_one.add(trade_id)
    assert by_range == one_by_one


@given(IDS, st.integers(0, 61))
def test_forgetting_drops_only_what_lies_below(ids: list[int], bound: int) -> None:
    held = TradeIds(ids)
    held.forget_below(bound)
    assert held == TradeIds(i for i in ids if i >= bound)


def test_its_text_is_postgresqls_multirange() -> None:
    assert str(TradeIds([1, 2, 3, 9, 7])) == "{[1,4),[7,8),[9,10)}"
    assert str(TradeIds()) == "{}"


@given(IDS, st.integers(0, 60), st.integers(0, 60))
def test_a_range_is_in_where_every_id_of_it_is(ids: list[int], lower: int, upper: int) -> None:
    held = TradeIds(ids)
    assert held.has_range(lower, upper) is set(range(lower, upper)).issubset(ids)
    assert held.has_all(TradeIds(range(lower, upper))) is held.has_range(lower, upper)


@given(IDS)
def test_its_text_is_read_back(ids: list[int]) -> None:
    assert TradeIds.parse(str(TradeIds(ids))) == TradeIds(ids)


@pytest.mark.parametrize(
    "text", ["", "{", "{[1,2]}", "{[1,2)[3,4)}", "{(1,2)}", "[1,2)", "{[-1,2)}", "{[1,2),}"]
)
def test_another_text_is_none(text: str) -> None:
    with pytest.raises(MarketError, match="no set of trade ids"):
        TradeIds.parse(text)
