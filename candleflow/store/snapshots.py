"""Who has held a snapshot of the database for long: the processor warns, as each of its merges gets slower.

PostgreSQL keeps every version of a row that is newer than the oldest snapshot, and whoever looks for the row
passes them all. A batch updates the same few rows each time, so the cost of a merge grows with each batch.
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
"""A snapshot that is younger is taken for a query's."""
_ASK_EVERY_SECONDS: Final = 30.0


class SnapshotWatch:
    """Asks every 30 s, in a thread of its own, once it is started.

    A session's age is counted from when it was first seen: PostgreSQL shows when a transaction began only to
    roles that may see everybody's queries, and the processor needn't be one.
    """

    def __init__(self, dsn: Dsn) -> None:
        """``dsn`` is the writer's."""
        self._pool = Pool(dsn, 1)
        self._seen: dict[tuple[str, str], float] = {}
        self._told: set[tuple[str, str]] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)
        self.message = ""
        """The sessions that have held a snapshot for longer than LONG_SECONDS, the oldest first."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def ask(self, now: float) -> None:
        """Ask PostgreSQL once, and bring ``message`` up to date; ``now`` in seconds of a steady clock.

        Logs a warning for each holder once. Raises StoreError where PostgreSQL can't answer.
        """
        ((found,),) = self._pool.rows("SELECT snapshot_holders()", {})
        self.note(found, now)

    def note(self, found: Sequence[Mapping[str, str]], now: float) -> None:
        """As ``ask``, given what it answered."""
        remedies = {(one["holder"], one["xmin"]): one["remedy"] for one in found}
        self._seen = {key: self._seen.get(key, now) for key in remedies}
        old = [key for key, since in self._seen.items() if now - since >= LONG_SECONDS]
        old.sort(key=lambda key: self._seen[key])
        minutes = {key: (now - self._seen[key]) / 60 for key in old}
        said = {key: f"{key[0]} has held a snapshot for {minutes[key]:.0f} min" for key in old}
        for key in old:
            if key not in self._told:
                _log.warning(
                    "%s: each batch takes longer to merge until it is gone; if it isn't needed: %s",
                    said[key],
                    remedies[key],
                )
        self._told = set(old)
        self.message = "merges get slower: " + "; ".join(said.values()) if said else ""

    def _run(self) -> None:
        while not self._stop.wait(_ASK_EVERY_SECONDS):
            try:
                self.ask(time.monotonic())
            except StoreError:  # the batch that waits for PostgreSQL says so
                continue
        self._pool.drop_idle()
