"""The windows that contain a trade: edges, alignment, sliding windows."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candleflow.errors import MarketError
from candleflow.market.window import ROLL_UPS, WINDOW_SECONDS, Windows, roll_up_windows

MIDNIGHT = 1_723_161_600_000_000  # 2024-08-09 00:00:00 UTC


@pytest.mark.parametrize(
    ("time", "open_time"),
    [
        (MIDNIGHT - 1, MIDNIGHT - 5_000_000),
        (MIDNIGHT, MIDNIGHT),
        (MIDNIGHT + 4_999_999, MIDNIGHT),
        (MIDNIGHT + 5_000_000, MIDNIGHT + 5_000_000),
        (0, 0),
    ],
)
def test_a_window_is_half_open_and_aligned_to_utc(time: int, open_time: int) -> None:
    assert list(Windows.of_seconds(5).open_times(time)) == [open_time]


@given(
    st.integers(10**12, 10**16),
    st.sampled_from([(5, 1), (10, 5), (60, 10), (5, 5), (30, 3)]),
)
def test_sliding_windows_are_all_those_that_hold_the_trade(time: int, sizes: tuple[int, int]) -> None:
    windows = Windows.of_seconds(*sizes)
    found = list(windows.open_times(time))
    assert len(found) == windows.size_us // windows.slide_us
    assert all(open_time <= time < open_time + windows.size_us for open_time in found)
    assert all(open_time % windows.slide_us == 0 for open_time in found)


def test_intervals_are_named_as_the_store_names_them() -> None:
    assert Windows.of_seconds(5).interval == "5s"
    assert Windows.of_seconds(5, 1).interval == "5s/1s"
    assert Windows.of_seconds(60).interval == "60s"


@pytest.mark.parametrize(("size", "slide"), [(5, 2), (5, 10), (5, -1)])
def test_a_slide_that_does_not_divide_its_window_is_refused(size: int, slide: int) -> None:
    with pytest.raises(MarketError, match="does not divide"):
        Windows.of_seconds(size, slide)


def test_every_window_size_divides_every_roll_up_and_each_roll_up_the_next() -> None:
    sizes = list(ROLL_UPS.values())
    assert all(seconds % size == 0 for seconds in sizes for size in WINDOW_SECONDS)
    assert all(coarse % fine == 0 for fine, coarse in itertools.pairwise(sizes))
    assert roll_up_windows("1m") == Windows.of_seconds(60)
