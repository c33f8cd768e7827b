"""Stretches of time and the klines that prove them. tests/property checks that the candles are right."""

from __future__ import annotations

from itertools import pairwise

import pytest

from candleflow.history.kline_ids import CHUNK_US, Stretch, newest_chunk
from candleflow.market.window import SECOND_US

MINUTE_US = 60 * SECOND_US
AT = 1_700_006_400 * SECOND_US


def pieces(stretch: Stretch) -> list[Stretch]:
    """Return all stretches that a stretch can be cut into."""
    middle = stretch.middle
    if middle is None:
        return [stretch]
    halves = Stretch(stretch.since, middle, 0, 0), Stretch(middle, stretch.until, 0, 0)
    return [piece for half in halves for piece in pieces(half)]


@pytest.mark.parametrize("begins", [0, 7, 59])
@pytest.mark.parametrize("seconds", [1, 59, 60, 61, 119, 120, 121, 893, 900])
def test_a_stretch_is_cut_at_whole_minutes_down_to_one(begins: int, seconds: int) -> None:
    since = AT + begins * SECOND_US
    stretch = Stretch(since, since + seconds * SECOND_US, 0, 0)
    found = pieces(stretch)
    assert found[0].since == stretch.since
    assert found[-1].until == stretch.until
    assert all(one.until == other.since for one, other in pairwise(found))
    assert all(0 < one.until - one.since <= MINUTE_US for one in found)
    assert all(one.until % MINUTE_US == 0 for one in found[:-1])


def test_chunks_begin_at_whole_quarters_of_an_hour_the_newest_first() -> None:
    since, until = AT + 100 * SECOND_US, AT + CHUNK_US + 5 * SECOND_US
    assert newest_chunk(since, until) == AT + CHUNK_US
    assert newest_chunk(since, AT + CHUNK_US) == since
    assert newest_chunk(AT, AT + CHUNK_US) == AT
