"""How long to wait before trying again: the one rule, for whatever is tried again."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Waits between attempts: at random up to a bound that doubles with each failure ("full jitter").

    Source: aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter. ``random`` gives numbers from 0
    to 1. The bound begins at ``shortest_seconds``, never passes ``longest_seconds``, and begins anew after
    ``reset``.
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
        """Seconds to wait before the next attempt; each call counts as a failure."""
        bound = min(self._longest, self._shortest * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return self._random() * bound

    def reset(self) -> None:
        """An attempt succeeded."""
        self._failures = 0
