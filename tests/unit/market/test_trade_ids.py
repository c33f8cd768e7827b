"""Compare sets of trade ids with Python's own sets."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candleflow.errors import MarketError
from candleflow.market import trade_ids
from candleflow.market.trade_ids import TradeIds

IDS = st.lists(st.integers(0, 60), max_size=80)
CHANGES = st.lists(st.tuples(st.booleans(), st.integers(0, 60), st.integers(0, 12)), max_size=60)


@given(CHANGES, st.integers(0, 60), st.integers(0, 60))
def test_ranges_added_and_taken_out_are_what_a_plain_set_has_in_blocks_of_any_size(
    changes: list[tuple[bool, int, int]], lower: int, upper: int
) -> None:
    """Blocks hold one or two ranges, so nearly every change splits or joins blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trade_ids, "_BLOCK", 1)
        held, plain = TradeIds(), set[int]()
        for is_added, begin, length in changes:
            (held.add_range if is_added else held.remove_range)(begin, begin + length)
            those = range(begin, begin + length)
            plain = plain.union(those) if is_added else plain.difference(those)
            assert held.ranges == ranges_of(plain)
            assert [one for one in range(75) if one in held] == sorted(plain)
        assert held.within(lower, upper) == ranges_of(plain.intersection(range(lower, upper)))
        assert held.last_ranges(3) == tuple(reversed(held.ranges))[:3]
        assert (len(held), held.range_count, bool(held)) == (len(plain), len(held.ranges), bool(plain))
        assert list(held.gaps()) == [
            (upper, lower) for (_, upper), (lower, _) in itertools.pairwise(held.ranges)
        ]


def ranges_of(ids: set[int]) -> tuple[tuple[int, int], ...]:
    """Return the maximal runs of consecutive ids."""
    begins = sorted(one for one in ids if one - 1 not in ids)
    ends = sorted(one + 1 for one in ids if one + 1 not in ids)
    return tuple(zip(begins, ends, strict=True))


def test_a_change_takes_no_longer_in_a_set_of_many_ranges() -> None:
    """With one list for all ranges, a change at the first of 200,000 took twenty times as long."""

    def seconds(count: int) -> float:
        held = TradeIds.of_ranges((10 * one, 10 * one + 5) for one in range(count))
        began_at = time.process_time()
        for one in range(2_000):
            held.remove_range(10 * one, 10 * one + 5)
        return time.process_time() - began_at

    assert min(seconds(200_000) for _ in range(3)) < 5 * min(seconds(5_000) for _ in range(3))


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
    missing = {i for lower, upper in TradeIds(ids).gaps() for i in range(lower, upper)}
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
    with pytest.raises(MarketError, match="not a set of trade ids"):
        TradeIds.parse(text)
