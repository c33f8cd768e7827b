"""One answer for all viewers who ask the same, however many: each viewer costs the store nothing more.

An answer is given to every viewer who has not had it yet. So the store is asked again when the first of them
comes for the next, which one viewer alone does just as often; and nobody is given what is older than his own
last refresh. Had an answer an age that it ends at, many viewers would ask more often than one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from candleflow.errors import StoreError

_FIRST_SECONDS: Final = 1.0
"""How old an answer may be that a viewer is given at first."""
_SOONEST_SECONDS: Final = 0.75
"""Nothing is asked again sooner: where the machine is busy, refreshes that were held up come at once."""
_KEPT_SECONDS: Final = 10.0
"""No answer is older; the slowest refresh comes each 5 s."""

T = TypeVar("T")
Clock = Callable[[], float]


@dataclass(slots=True)
class _Answer:
    """What the store said, or why it could not; ``asked_at`` is -inf until it has done either."""

    asked_at: float = float("-inf")
    value: Any = None
    error: StoreError | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class SharedAnswers:
    """The newest answer to each question. Safe to share among threads."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.clock = clock
        self._answers: dict[Hashable, _Answer] = {}
        self._lock = threading.Lock()

    def newer_than(self, moment: float, question: Hashable, ask: Callable[[], T]) -> tuple[float, T]:
        """An answer that was asked for after ``moment``, and when that was.

        Asks where there is none. Who comes meanwhile waits for it, and is told the same StoreError.
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
    """What one viewer has been given; used by one thread at a time."""

    def __init__(self, answers: SharedAnswers) -> None:
        self._answers = answers
        self._given: dict[Hashable, float] = {}
        self._seen: dict[Hashable, float] = {}

    def refresh(self) -> None:
        """From here on, what was given before is too old."""
        self._seen = dict(self._given)

    def ask(self, question: Hashable, ask: Callable[[], T]) -> T:
        """The answer, maybe another viewer's. Raises StoreError."""
        now = self._answers.clock()
        seen = max(self._seen.get(question, now - _FIRST_SECONDS), now - _KEPT_SECONDS)
        try:
            asked_at, answer = self._answers.newer_than(min(seen, now - _SOONEST_SECONDS), question, ask)
        except StoreError:
            self._given[question] = self._answers.clock()
            raise
        self._given[question] = asked_at
        return answer
