"""The browser always shows the value last sent, whichever messages it missed, and messages are small."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from candleflow.dashboard.delivery import Delivery, encoded
from tests.unit.dashboard.receiving import Receiver

CANDLES = 2_000
SECONDS = 600
_SEEN_OF = 5
"""A browser that sees one of this many messages in a row keeps up."""


def chart(second: int) -> dict[str, Any]:
    """A live chart at a second: one candle more every 5 seconds, and every second another close and title."""
    last = second // 5
    times = range(last - CANDLES + 1, last + 1)
    closes = [(7 * time) % 1_000 / 8 for time in times]
    closes[-1] += second % 5
    return {
        "x": [5_000 * time for time in times],
        "close": closes,
        "volume": [(11 * time) % 97 for time in times],
        "words": f"{second:04} " * 300,
    }


def deliver(seen: list[bool]) -> tuple[list[int], int]:
    """Deliver to a browser that sees the messages in ``seen``; return their sizes, and its whole requests."""
    delivery, receiver = Delivery("view"), Receiver()
    sizes, lost = [], 0
    for second, is_seen in enumerate(seen):
        value = chart(second)
        message = delivery.message(value)
        sizes.append(len(encoded(message)))
        if not is_seen:
            continue
        try:
            found = receiver.received(json.loads(encoded(message)))
        except LookupError:
            lost += 1
            delivery = Delivery("view")
            found = receiver.received(delivery.message(value))
        assert found == value
    return sizes, lost


@settings(max_examples=30)
@given(st.lists(st.booleans(), max_size=150))
def test_what_the_browser_shows_is_what_was_sent_whatever_it_missed(seen: list[bool]) -> None:
    deliver(seen)


@settings(max_examples=30)
@given(st.lists(st.integers(0, _SEEN_OF - 1), max_size=40))
def test_a_browser_that_sees_one_message_of_five_never_asks_for_the_whole(missed: list[int]) -> None:
    seen = [True] + [at == gap for gap in missed for at in range(gap + 1)]
    _, lost = deliver(seen)
    assert lost == 0


def test_the_whole_is_sent_once_and_what_follows_stays_small() -> None:
    sizes, _ = deliver([True] * SECONDS)
    least = min(sizes[1:])
    assert sizes[0] > 4 * max(sizes[1:])
    assert sum(sizes[1:]) / len(sizes[1:]) < 2 * least, "differences must not grow from message to message"


def test_a_completely_different_value_is_sent_whole() -> None:
    delivery = Delivery("view")
    delivery.message(chart(0))
    assert "whole" in delivery.message(chart(51_234))
    assert "patch" in delivery.message(chart(51_235))
