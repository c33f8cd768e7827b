"""A cache of query results shared by all viewers: more viewers of one view cause no more queries.

A result is given to each viewer once. The first viewer who asks a second time causes the next query, so any
number of viewers cause as many queries as one. No viewer gets a result older than their last refresh.
With an expiry time instead, many viewers would cause more queries than one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from candleflow.errors import StoreError

_FIRST_SECONDS: Final = 1.0
"""Maximum age of the first result that a viewer gets."""
_SOONEST_SECONDS: Final = 0.75
"""Minimum time between two equal queries: on a busy machine, delayed refreshes arrive all at once."""
_KEPT_SECONDS: Final = 10.0
"""Maximum age of any result. The slowest refresh interval is 5 s."""

T = TypeVar("T")
Clock = Callable[[], float]


@dataclass(slots=True)
class _Answer:
    """The last result or error of one query; ``asked_at`` is -inf before the first."""

    asked_at: float = float("-inf")
    value: Any = None
    error: StoreError | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class SharedAnswers:
    """The newest result of each query. Thread-safe."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.clock = clock
        self._answers: dict[Hashable, _Answer] = {}
        self._lock = threading.Lock()

    def newer_than(self, moment: float, question: Hashable, ask: Callable[[], T]) -> tuple[float, T]:
        """Return when the query was run, later than ``moment``, and its result.

        Calls ``ask`` if the cached result is older. Other threads with the same question wait for it, and get
        the same result or StoreError.
        """
        answer = self._place(question)
        with answer.lock:
            if answer.asked_at <= moment:
                asked_at = self.clock()
                try:
                    answer.value, answer.error = ask(), None
                except StoreError as error:
                    answer.value, answer.error = None, error
                answer.asked_at = asked_at
            if answer.error is not None:
                raise StoreError(str(answer.error)) from answer.error
            value: T = answer.value
            return answer.asked_at, value

    def _place(self, question: Hashable) -> _Answer:
        with self._lock:
            found = self._answers.get(question)
            if found is None:
                self._drop_old()
                found = self._answers[question] = _Answer()
            return found

    def _drop_old(self) -> None:
        oldest = self.clock() - _KEPT_SECONDS
        for question, answer in [*self._answers.items()]:
            if answer.asked_at < oldest and not answer.lock.locked():
                del self._answers[question]


class Viewer:
    """One viewer's access to the shared results; used by one thread at a time."""

    def __init__(self, answers: SharedAnswers) -> None:
        self._answers = answers
        self._given: dict[Hashable, float] = {}
        self._seen: dict[Hashable, float] = {}

    def refresh(self) -> None:
        """Begin a refresh: results that this viewer already has are too old from now on."""
        self._seen = dict(self._given)

    def ask(self, question: Hashable, ask: Callable[[], T]) -> T:
        """Return the result of ``ask``, or one that another viewer's query returned. Raises StoreError."""
        now = self._answers.clock()
        seen = max(self._seen.get(question, now - _FIRST_SECONDS), now - _KEPT_SECONDS)
        try:
            asked_at, answer = self._answers.newer_than(min(seen, now - _SOONEST_SECONDS), question, ask)
        except StoreError:
            self._given[question] = self._answers.clock()
            raise
        self._given[question] = asked_at
        return answer
