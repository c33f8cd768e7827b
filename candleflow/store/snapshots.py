"""Warn about sessions that hold an old snapshot, because they slow down every merge.

PostgreSQL can't remove a dead row version while a snapshot may still need it, and every lookup of the row
passes all its versions. Each batch updates the same few rows, so each merge takes longer than the one before.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final

from candleflow.errors import StoreError
from candleflow.store.credentials import Dsn
from candleflow.store.pool import Pool

_log = logging.getLogger(__name__)

LONG_SECONDS: Final = 300.0
"""Younger snapshots are ignored: they belong to ordinary queries."""
_ASK_EVERY_SECONDS: Final = 30.0


class SnapshotWatch:
    """Checks every 30 s in its own thread, once it is started.

    A snapshot's age counts from the first check that saw it: PostgreSQL shows the start of a transaction only
    to roles with pg_read_all_stats, which the processor doesn't need otherwise.
    """

    def __init__(self, dsn: Dsn) -> None:
        """``dsn`` must be the writer's."""
        self._pool = Pool(dsn, 1)
        self._seen: dict[tuple[str, str], float] = {}
        self._warned: set[tuple[str, str]] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)
        self.message = ""
        """Which sessions hold a snapshot for longer than LONG_SECONDS, oldest first; empty if none."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def ask(self, now: float) -> None:
        """Query PostgreSQL once and update ``message``; ``now`` is in seconds of a monotonic clock.

        Logs one warning per holder. Raises StoreError if PostgreSQL can't answer.
        """
        ((found,),) = self._pool.rows("SELECT snapshot_holders()", {})
        self.note(found, now)

    def note(self, found: Sequence[Mapping[str, str]], now: float) -> None:
        """Update ``message`` from the holders that ``snapshot_holders`` returned."""
        remedies = {(one["holder"], one["xmin"]): one["remedy"] for one in found}
        self._seen = {key: self._seen.get(key, now) for key in remedies}
        old = [key for key, since in self._seen.items() if now - since >= LONG_SECONDS]
        old.sort(key=lambda key: self._seen[key])
        minutes = {key: (now - self._seen[key]) / 60 for key in old}
        said = {key: f"{key[0]} has held a snapshot for {minutes[key]:.0f} min" for key in old}
        for key in old:
            if key not in self._warned:
                _log.warning(
                    "%s: each batch takes longer to merge until it ends; if you don't need it, run: %s",
                    said[key],
                    remedies[key],
                )
        self._warned = set(old)
        self.message = "merges get slower: " + "; ".join(said.values()) if said else ""

    def _run(self) -> None:
        while not self._stop.wait(_ASK_EVERY_SECONDS):
            try:
                self.ask(time.monotonic())
            except StoreError:  # the batch that waits for PostgreSQL reports it
                continue
        self._pool.drop_idle()
