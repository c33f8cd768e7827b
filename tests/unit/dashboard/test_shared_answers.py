"""Viewers share query results: any number of viewers cause as many queries as one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from candleflow.dashboard.shared_answers import SharedAnswers, Viewer
from candleflow.errors import StoreError


@dataclass
class Store:
    """A store that returns how often it was queried. ``now`` is the clock, which tests move."""

    now: float = 1_000.0
    asked: int = 0
    is_away: bool = False
    answers: SharedAnswers = field(init=False)

    def __post_init__(self) -> None:
        self.answers = SharedAnswers(lambda: self.now)

    def ask(self) -> int:
        self.asked += 1
        if self.is_away:
            raise StoreError("away")
        return self.asked


def tick(viewer: Viewer, ask: Callable[[], int]) -> int:
    viewer.refresh()
    return viewer.ask("candles", ask)


@pytest.fixture
def store() -> Store:
    return Store()


def test_a_viewer_alone_gets_a_new_answer_at_each_refresh(store: Store) -> None:
    viewer = Viewer(store.answers)
    for expected in range(1, 6):
        store.now += 0.9  # refreshes are not exactly 1 s apart
        assert tick(viewer, store.ask) == expected


def test_within_a_refresh_the_answer_stays(store: Store) -> None:
    viewer = Viewer(store.answers)
    first = tick(viewer, store.ask)
    assert viewer.ask("candles", store.ask) == first
    assert store.asked == 1


@pytest.mark.parametrize("viewers", [1, 2, 7, 50])
def test_many_viewers_ask_as_often_as_one(store: Store, viewers: int) -> None:
    """Each viewer refreshes once a second, at its own instant."""
    all_ = [Viewer(store.answers) for _ in range(viewers)]
    seen: dict[int, list[tuple[int, float]]] = {at: [] for at in range(viewers)}
    for second in range(100):
        for at, viewer in enumerate(all_):
            store.now = 1_000 + second + at / viewers
            seen[at].append((tick(viewer, store.ask), store.now))
    assert store.asked == 100
    for answers in seen.values():
        assert len({answer for answer, _ in answers}) == 100, "no viewer gets the same result twice"
        assert all(store_time(answer) > now - 1 for answer, now in answers)


def store_time(answer: int) -> float:
    """Return when the first viewer's query of that second was made."""
    return 1_000 + answer - 1


def test_delayed_refreshes_that_arrive_at_once_share_a_result(store: Store) -> None:
    viewer = Viewer(store.answers)
    for _ in range(10):
        store.now += 0.1
        tick(viewer, store.ask)
    assert store.asked == 2


def test_a_result_of_one_query_does_not_expire_those_of_others(store: Store) -> None:
    slow, other = Viewer(store.answers), Viewer(store.answers)
    other.ask("symbols", store.ask)
    slow.ask("symbols", store.ask)
    store.now += 1
    other.refresh()
    other.ask("symbols", store.ask)
    store.now += 1
    slow.ask("candles", store.ask)  # in its refresh that began 2 s ago
    asked = store.asked
    slow.refresh()
    slow.ask("symbols", store.ask)  # shares the other viewer's result, which it has not had yet
    assert store.asked == asked


def test_a_new_viewer_gets_a_result_of_at_most_a_second(store: Store) -> None:
    assert tick(Viewer(store.answers), store.ask) == 1
    store.now += 0.9
    assert Viewer(store.answers).ask("candles", store.ask) == 1
    store.now += 0.9
    assert Viewer(store.answers).ask("candles", store.ask) == 2


def test_a_viewer_who_asks_during_the_query_waits_for_its_result(store: Store) -> None:
    may_answer = threading.Event()

    def slow() -> int:
        assert may_answer.wait(10)
        return store.ask()

    with ThreadPoolExecutor(8) as pool:
        found = [pool.submit(tick, Viewer(store.answers), slow) for _ in range(8)]
        may_answer.set()
        assert [one.result(10) for one in found] == [1] * 8


def test_a_failure_is_shared_too_and_retried_at_the_next_refresh(store: Store) -> None:
    """Otherwise fifty viewers would wait for fifty timeouts, one after another."""
    store.is_away = True
    viewers = [Viewer(store.answers) for _ in range(5)]
    for viewer in viewers:
        with pytest.raises(StoreError, match="away"):
            tick(viewer, store.ask)
    assert store.asked == 1
    store.is_away = False
    store.now += 1
    assert [tick(viewer, store.ask) for viewer in viewers] == [2] * 5


def test_other_exceptions_are_not_shared(store: Store) -> None:
    def broken() -> int:
        raise ZeroDivisionError

    viewer = Viewer(store.answers)
    with pytest.raises(ZeroDivisionError):
        tick(viewer, broken)
    assert Viewer(store.answers).ask("candles", store.ask) == 1


def test_results_that_no_viewer_asks_for_are_dropped(store: Store) -> None:
    viewer = Viewer(store.answers)
    for question in range(1_000):
        store.now += 0.1
        viewer.ask(question, store.ask)
    assert len(store.answers._answers) <= 101
