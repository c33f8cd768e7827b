"""Old rows, deleted in batches that shrink where PostgreSQL can't delete so many in time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from candleflow.errors import StoreError

_log = logging.getLogger(__name__)

MOST: Final = 1_000
"""Rows in a batch: some tens of milliseconds, in which nothing else of the caller's waits long."""


class Clearing:
    """The deletion of one table's old rows. ``rows``: what they are called in the log."""

    def __init__(self, rows: str, most: int = MOST) -> None:
        self._rows = rows
        self._most = self._batch = most

    def step(self, drop: Callable[[int], int]) -> bool:
        """Delete one batch by ``drop``, which is told the most and returns how many went.

        Returns whether more may be left.
        Where it raises StoreError, a statement timeout above all, the next batch has half as many: what else
        the caller has to do doesn't depend on it.
        """
        try:
            dropped = drop(self._batch)
        except StoreError as error:
            self._batch = max(1, self._batch // 2)
            _log.info("%s can't be deleted now, the next batch has %d: %s", self._rows, self._batch, error)
            return False
        is_full = dropped >= self._batch
        self._batch = min(self._most, 2 * self._batch)
        return is_full
