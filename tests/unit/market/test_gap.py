"""Compare the state of gaps with plain sets of ids."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candleflow.errors import MarketError
from candleflow.market.gap import GapEvent, GapEventKind, GapState, events_of, gap_state_of
from candleflow.market.trade_ids import TradeIds

EVENTS = st.lists(
    st.builds(
        lambda kind, symbol, ids: GapEvent.of(kind, symbol, TradeIds(ids).ranges, 0, "why"),
        st.sampled_from(GapEventKind),
        st.sampled_from(["BTCUSDT", "ETHUSDT"]),
        st.lists(st.integers(0, 30), min_size=1, max_size=8)
        | st.builds(
            lambda first, more: range(first, first + more + 1), st.integers(0, 30), st.integers(0, 10)
        ),
    )
)


def ids(ranges: dict[str, tuple[tuple[int, int], ...]]) -> set[tuple[str, int]]:
    return {
        (symbol, one)
        for symbol, some in ranges.items()
        for lower, upper in some
        for one in range(lower, upper)
    }


@given(EVENTS)
def test_it_adds_up_to_what_sets_would(events: list[GapEvent]) -> None:
    book = GapState()
    missing: set[tuple[str, int]] = set()
    given_up: set[tuple[str, int]] = set()
    for event in events:
        book.apply(event)
        those = ids({event.symbol: event.ranges})
        assert event.trade_count == len(those)
        match event.kind:
            case GapEventKind.SEEN:
                missing |= those
                given_up -= those
            case GapEventKind.FILLED:
                missing -= those
                given_up -= those
            case GapEventKind.GIVEN_UP:
                given_up |= those
        assert ids(book.open_ranges()) == missing
        assert ids(book.wanted_ranges()) == missing - given_up
        assert (book.open_trades, book.open_gaps) == (
            len(missing),
            sum(map(len, book.open_ranges().values())),
        )


@given(EVENTS, EVENTS)
def test_events_of_many_ranges_add_up_to_what_one_event_a_range_does(
    before: list[GapEvent], events: list[GapEvent]
) -> None:
    """Older versions wrote one event for each range; both kinds are read from the same log."""
    apart = [replace(one, first_trade_id=lower, last_trade_id=upper - 1, ranges=())
             for one in events for lower, upper in one.ranges]  # fmt: skip
    assert gap_state_of([*before, *events]).open_ranges() == gap_state_of([*before, *apart]).open_ranges()
    assert gap_state_of([*before, *events]).wanted_ranges() == gap_state_of([*before, *apart]).wanted_ranges()


@pytest.mark.parametrize("count", [0, 1, 999, 1_000, 1_001, 2_500])
def test_many_ranges_are_recorded_in_few_events(count: int) -> None:
    ranges = tuple((10 * one, 10 * one + 5) for one in range(count))
    events = events_of(GapEventKind.SEEN, "BTCUSDT", ranges, 7, "audit")
    assert len(events) == -(-count // 1_000)
    assert tuple(one for event in events for one in event.ranges) == ranges
    assert all((event.first_trade_id, event.last_trade_id) == (event.ranges[0][0], event.ranges[-1][1] - 1)
               for event in events)  # fmt: skip


@given(EVENTS)
def test_the_same_event_twice_changes_nothing(events: list[GapEvent]) -> None:
    once, twice = GapState(), GapState()
    for event in events:
        once.apply(event)
        twice.apply(event)
        twice.apply(event)
    assert once.open_ranges() == twice.open_ranges()
    assert once.wanted_ranges() == twice.wanted_ranges()


def test_a_range_that_is_none_is_refused() -> None:
    with pytest.raises(MarketError, match="5 to 4"):
        GapEvent(GapEventKind.SEEN, "BTCUSDT", 5, 4, 0, "jump")


@given(st.lists(st.integers(0, 60)), st.integers(0, 60), st.integers(0, 60))
def test_a_range_taken_out_of_a_set_of_ids(held: list[int], lower: int, upper: int) -> None:
    found = TradeIds(held)
    found.remove_range(lower, upper)
    assert found == TradeIds(one for one in held if not lower <= one < upper)
