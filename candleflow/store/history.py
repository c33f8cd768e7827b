"""Candles that don't come from the topic, merged into those that do: as the auditor's role.

Each call is one transaction of PostgreSQL's function ``load_history``, behind the same lock as a processor's
batches, and bounded in time like all that the auditor asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final, Self

from candleflow.market.partial import array_text, encode_windows
from candleflow.market.window import Windows
from candleflow.settings import Settings
from candleflow.store import credentials
from candleflow.store.credentials import Dsn, Role
from candleflow.store.pool import QUERY_SECONDS, Pool


class Source(StrEnum):
    """Where candles come from that the topic has no trades of; the names in the column ``source``."""

    KLINE = "kline"
    ARCHIVE = "archive"


class HistoryStore:
    """Loads history; safe to share among threads. A call raises StoreError while PostgreSQL can't answer.

    After UnknownOutcomeError it may have been done: made again, it then answers that all its ids are in.
    """

    def __init__(self, dsn: Dsn, windows: Windows, *, seconds: float = QUERY_SECONDS) -> None:
        """``seconds``: how long a call may take, the processor's batch that it may stand behind included."""
        self._pool = Pool(dsn, 1)
        self._seconds = seconds
        self._windows = encode_windows(windows)

    @classmethod
    def from_settings(cls, settings: Settings, *, seconds: float = QUERY_SECONDS) -> Self:
        """For these settings' database; opens nothing yet."""
        return cls(credentials.dsn(settings, Role.AUDITOR), settings.windows, seconds=seconds)

    def load(self, partials: Sequence[str], source: Source, closes_until: int) -> Mapping[str, str] | None:
        """Merge partial candles, encoded by ``market.partial``, of the finest windows, all of them or none.

        ``closes_until``, in microseconds: up to there the time is over, and the symbols' candles that end by
        then are closed.

        None where it was done; where ids of them are in candles already, those, by symbol, as an
        int8multirange's text: then nothing was changed.
        """
        ((answer,),) = self._pool.rows(
            _LOAD,
            {
                "partials": array_text(partials),
                "windows": self._windows,
                "source": str(source),
                "closes_until": closes_until,
            },
            within_seconds=self._seconds,
        )
        ids: Mapping[str, str] | None = answer.get("ids")
        return ids

    def close(self) -> None:
        """Close the idle connection; the store may still be used."""
        self._pool.drop_idle()


_LOAD: Final = (
    "SELECT load_history(%(partials)s::partial_candle[], %(windows)s, %(source)s, %(closes_until)s)"
)
