"""Delete old rows in batches, and in smaller batches if PostgreSQL is too slow."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from candleflow.errors import StoreError

_log = logging.getLogger(__name__)

MOST: Final = 1_000
"""Rows per batch: they take some tens of milliseconds, so the caller's other work is not delayed."""


class Clearing:
    """Deletes one table's old rows, batch by batch. ``rows`` is what the log calls them."""

    def __init__(self, rows: str, most: int = MOST) -> None:
        self._rows = rows
        self._most = self._batch = most

    def step(self, drop: Callable[[int], int]) -> bool:
        """Delete one batch by calling ``drop(most)``, which returns the number of deleted rows.

        Return whether more may be left. If ``drop`` raises StoreError, such as for a statement timeout, log
        it and halve the next batch: the caller's other work must not fail for it.
        """
        try:
            dropped = drop(self._batch)
        except StoreError as error:
            self._batch = max(1, self._batch // 2)
            _log.info("can't delete old %s now, will retry with %d rows: %s", self._rows, self._batch, error)
            return False
        is_full = dropped >= self._batch
        self._batch = min(self._most, 2 * self._batch)
        return is_full
