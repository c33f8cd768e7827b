"""The book of gaps, against plain sets of ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candleflow.errors import MarketError
from candleflow.market.gap import GapBook, GapEvent, GapEventKind
from candleflow.market.trade_ids import TradeIds

EVENTS = st.lists(
    st.builds(
        lambda kind, symbol, first, more: GapEvent(kind, symbol, first, first + more, 0, "why"),
        st.sampled_from(GapEventKind),
        st.sampled_from(["BTCUSDT", "ETHUSDT"]),
        st.integers(0, 30),
        st.integers(0, 10),
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
    book = GapBook()
    missing: set[tuple[str, int]] = set()
    given_up: set[tuple[str, int]] = set()
    for event in events:
        book.apply(event)
        those = {(event.symbol, one) for one in range(event.first_trade_id, event.last_trade_id + 1)}
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


@given(EVENTS)
def test_the_same_event_twice_changes_nothing(events: list[GapEvent]) -> None:
    once, twice = GapBook(), GapBook()
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
