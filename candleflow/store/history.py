"""Merge candles from the exchange's klines or archive into the stored ones, as the auditor role.

Each call is one transaction of the SQL function ``load_history``. It takes the same lock as the processor's
batches, and has a deadline.
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
    """Sources of candles other than Kafka, as named in the column ``source``."""

    KLINE = "kline"
    ARCHIVE = "archive"


class HistoryStore:
    """Loads history; thread-safe. A call raises StoreError while PostgreSQL can't answer.

    After UnknownOutcomeError the call may have been committed. Repeat it: it then returns all its ids as
    already stored.
    """

    def __init__(self, dsn: Dsn, windows: Windows, *, seconds: float = QUERY_SECONDS) -> None:
        """``seconds`` is the deadline of a call, including the wait for a processor's batch to end."""
        self._pool = Pool(dsn, 1)
        self._seconds = seconds
        self._windows = encode_windows(windows)

    @classmethod
    def from_settings(cls, settings: Settings, *, seconds: float = QUERY_SECONDS) -> Self:
        """Create the store for the database in ``settings``; opens no connection yet."""
        return cls(credentials.dsn(settings, Role.AUDITOR), settings.windows, seconds=seconds)

    def load(self, partials: Sequence[str], source: Source, closes_until: int) -> Mapping[str, str] | None:
        """Merge partial candles of the finest windows, encoded by ``market.partial``, in one transaction.

        Then close the symbols' candles that end by ``closes_until`` (microseconds).

        Return None on success. If some ids are in stored candles already, change nothing, and return those
        ids by symbol, as an int8multirange's text.
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
        """Close the idle connection; the object stays usable."""
        self._pool.drop_idle()


_LOAD: Final = (
    "SELECT load_history(%(partials)s::partial_candle[], %(windows)s, %(source)s, %(closes_until)s)"
)
