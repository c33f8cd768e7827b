"""Exponential backoff with jitter, for everything that is retried."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Exponential backoff with "full jitter": a random wait, up to a bound that doubles with each failure.

    The bound starts at ``shortest_seconds`` and grows to at most ``longest_seconds``; ``reset`` sets it back.
    ``random`` returns numbers from 0 to 1.

    Source: aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter.
    """

    __slots__ = ("_failures", "_longest", "_random", "_shortest")

    def __init__(
        self,
        shortest_seconds: float,
        longest_seconds: float,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._shortest = shortest_seconds
        self._longest = longest_seconds
        self._random = random
        self._failures = 0

    def next_delay(self) -> float:
        """Return the seconds to wait before the next attempt. Each call counts as a failure."""
        bound = min(self._longest, self._shortest * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return self._random() * bound

    def reset(self) -> None:
        """Start again at the shortest bound, after an attempt succeeded."""
        self._failures = 0
