"""The record clock, with wall and monotonic clocks that the test sets."""

from __future__ import annotations

from candleflow.engine.record_clock import PATIENCE_SECONDS, SPAN_SECONDS, RecordClock

NOON_US = 1_795_348_800_000_000
HOUR = 3_600


class Time:
    """This machine's two clocks; the wall clock starts an hour ahead of the records' time."""

    def __init__(self) -> None:
        self.passed = 0.0

    def wall(self) -> float:
        return NOON_US / 1e6 + HOUR + self.passed

    def steady(self) -> float:
        return 50 + self.passed


def test_a_record_sets_the_time_and_a_monotonic_clock_continues_it() -> None:
    time = Time()
    clock = RecordClock(time.wall, time.steady)
    clock.note(NOON_US)
    assert clock.at(time.steady()) == NOON_US
    time.passed = 30
    assert clock.at(time.steady()) == NOON_US + 30_000_000
    assert clock.at(time.steady() - 2) == NOON_US + 28_000_000
    clock.note(NOON_US + 29_000_000)  # read late: it must not set the clock back
    assert clock.at(time.steady()) == NOON_US + 30_000_000


def test_one_wrong_record_is_forgotten_after_a_while() -> None:
    time = Time()
    clock = RecordClock(time.wall, time.steady)
    clock.note(NOON_US + 10**12)
    for passed in (SPAN_SECONDS + 1, 2 * SPAN_SECONDS + 2):
        time.passed = passed
        clock.note(NOON_US + round(passed * 1e6))
    assert clock.at(time.steady()) == NOON_US + round(time.passed * 1e6)


def test_without_a_record_it_is_this_machines_time_after_a_while() -> None:
    time = Time()
    clock = RecordClock(time.wall, time.steady)
    assert clock.at(time.steady()) is None
    time.passed = PATIENCE_SECONDS
    assert clock.at(time.steady() - 2) == round((time.wall() - 2) * 1e6)
