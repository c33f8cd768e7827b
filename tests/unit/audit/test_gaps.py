"""``gaps``: from events to a list of gaps."""

from __future__ import annotations

from candleflow.audit.gaps import Gap, gaps
from candleflow.market.gap import GapEvent, GapEventKind

SEEN, FILLED, GIVEN_UP = GapEventKind.SEEN, GapEventKind.FILLED, GapEventKind.GIVEN_UP


def test_each_gap_has_its_current_state() -> None:
    events = [
        GapEvent(SEEN, "BTCUSDT", 10, 19, 1, "restart"),
        GapEvent(SEEN, "ETHUSDT", 10, 19, 2, "jump"),
        GapEvent(FILLED, "BTCUSDT", 10, 14, 3, "stream"),
        GapEvent(FILLED, "BTCUSDT", 15, 17, 4, "historicalTrades"),
        GapEvent(GIVEN_UP, "BTCUSDT", 18, 19, 5, "older than 6 h"),
    ]
    assert gaps(events) == [
        Gap("BTCUSDT", 10, 19, 1, "restart", 2, 5, "stream, historicalTrades, older than 6 h"),
        Gap("ETHUSDT", 10, 19, 2, "jump", 10, None, ""),
    ]


def test_a_gap_that_was_reported_twice_is_filled_in_both() -> None:
    events = [
        GapEvent(SEEN, "BTCUSDT", 10, 19, 1, "jump"),
        GapEvent(FILLED, "BTCUSDT", 10, 19, 2, "historicalTrades"),
        GapEvent(SEEN, "BTCUSDT", 12, 12, 3, "audit"),
    ]
    assert [(gap.reason, gap.missing, gap.how) for gap in gaps(events)] == [
        ("jump", 1, "historicalTrades"),
        ("audit", 1, ""),
    ]


def test_without_events_there_are_none() -> None:
    assert gaps([]) == []
