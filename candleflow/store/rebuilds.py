"""Read and replace stored candles as the auditor role.

All access goes through the SQL functions that ``roles.py`` lists for the auditor. Times are microseconds
since the epoch, UTC.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Self

from candleflow.market.candle import Candle
from candleflow.market.candle_ids import CandleIds, StrayRollUp
from candleflow.market.partial import array_text, encode, encode_windows, of_candle
from candleflow.market.trade_ids import TradeIds
from candleflow.market.window import Windows
from candleflow.settings import Settings
from candleflow.store import credentials
from candleflow.store.credentials import Dsn, Role
from candleflow.store.pool import Pool

ANSWER_SECONDS: Final = 70.0
"""Deadline of a query, above the role's statement_timeout. A day's candles take one or two seconds, more on a
busy machine."""

_CONNECTIONS: Final = 2


class Replaced(StrEnum):
    """Outcome of a replacement."""

    REPLACED = "replaced"
    CHANGED = "changed"
    """The stored candles had changed since they were read: nothing was done."""
    OVERLAP = "overlap"
    """Some ids of the new candles are in candles outside the stretch: nothing was done."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Result of a replacement.

    ``candles`` is the number of finest candles and roll-ups that were rebuilt. ``kept`` is the number that
    stay because they have trades that the new ones lack. ``overlap`` has the ids found outside the stretch.
    """

    status: Replaced
    candles: int = 0
    kept: int = 0
    overlap: str = ""


@dataclass(frozen=True, slots=True)
class Merged:
    """The topic that is merged, by Kafka's id, and the next offset of each partition."""

    topic_id: str
    offsets: Mapping[int, int]


class CandleRebuilds:
    """Checks and replaces candles; thread-safe. Methods raise StoreError while PostgreSQL can't answer."""

    def __init__(self, dsn: Dsn, windows: Windows) -> None:
        self._pool = Pool(dsn, _CONNECTIONS)
        self._windows = encode_windows(windows)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Create the store for the database in ``settings``; opens no connection yet."""
        return cls(credentials.dsn(settings, Role.AUDITOR), settings.windows)

    def candle_ids(self, symbol: str, since: int, until: int) -> list[CandleIds]:
        """Return the trade ids of each finest candle that opens in [since, until), oldest first."""
        rows = self._rows(
            "SELECT * FROM finest_books(%(symbol)s, %(since)s, %(until)s, %(windows)s)",
            {"symbol": symbol, "since": since, "until": until, "windows": self._windows},
        )
        return [_candle_ids(*row) for row in rows]

    def stray_roll_ups(self, symbol: str, since: int, until: int, longest_us: int) -> list[StrayRollUp]:
        """Return the roll-ups over [since, until) that differ from the aggregate of their finest candles.

        Only roll-ups of up to ``longest_us`` are checked.
        """
        rows = self._rows(
            "SELECT * FROM stray_roll_ups(%(symbol)s, %(since)s, %(until)s, %(longest)s, %(windows)s)",
            {
                "symbol": symbol,
                "since": since,
                "until": until,
                "longest": longest_us,
                "windows": self._windows,
            },
        )
        return [
            StrayRollUp(name, open_time, end_time, _ids(stored), _ids(folded), prices_agree, state)
            for name, open_time, end_time, stored, folded, prices_agree, state in rows
        ]

    def merged(self, topic: str) -> Merged | None:
        """Return how far the topic is merged; None if it was never read."""
        ((found,),) = self._rows("SELECT merged_offsets(%(topic)s)", {"topic": topic})
        if found is None:
            return None
        return Merged(found["topic_id"], {int(number): at for number, at in found["offsets"].items()})

    def replace(
        self,
        symbol: str,
        since: int,
        until: int,
        seen: Mapping[int, TradeIds],
        candles: Sequence[Candle],
        doubtful: Sequence[tuple[int, int]] = (),
    ) -> Answer:
        """Replace all finest candles that open in [since, until) by ``candles``, and rebuild their roll-ups.

        ``seen`` has the stored ids by open time, as the caller read them: if they changed since, nothing is
        done. An empty stretch rebuilds only the roll-ups that contain ``since``. A roll-up that overlaps a
        ``doubtful`` stretch is not rebuilt, because it may hold the only correct data there.
        """
        ((found,),) = self._pool.rows(
            "SELECT replace_candles(%(symbol)s, %(since)s, %(until)s, %(seen)s,"
            " %(partials)s::partial_candle[], %(doubtful)s, %(windows)s)",
            {
                "symbol": symbol,
                "since": since,
                "until": until,
                "seen": json.dumps({str(at): str(ids) for at, ids in seen.items()}),
                "partials": array_text(encode(of_candle(candle, 0)) for candle in candles),
                "doubtful": json.dumps(list(doubtful)),
                "windows": self._windows,
            },
            within_seconds=ANSWER_SECONDS,  # not repeated: the second call would answer CHANGED
        )
        return Answer(
            Replaced(found["status"]), found.get("candles", 0), found.get("kept", 0), found.get("ids", "")
        )

    def repaired(self, symbols: Sequence[str]) -> int:
        """Return how many candles of the symbols were ever rebuilt."""
        ((found,),) = self._rows(
            "SELECT coalesce(sum(repaired), 0) FROM symbols WHERE symbol = ANY(%(symbols)s)",
            {"symbols": list(symbols)},
        )
        return int(found)

    def _rows(self, query: str, arguments: Mapping[str, Any]) -> Sequence[tuple[Any, ...]]:
        """Run a query that only reads."""
        return self._pool.rows(query, arguments, within_seconds=ANSWER_SECONDS, may_repeat=True)

    def close(self) -> None:
        """Close the idle connections; the object stays usable."""
        self._pool.drop_idle()


def _candle_ids(
    open_time: int,
    end_time: int,
    trade_count: int,
    first_trade_id: int,
    last_trade_id: int,
    ids: str,
    is_judged: bool,  # noqa: FBT001 - a row's column
    state: str,
) -> CandleIds:
    return CandleIds(
        open_time, end_time, trade_count, first_trade_id, last_trade_id, TradeIds.parse(ids), is_judged, state
    )


def _ids(text: str | None) -> TradeIds | None:
    return None if text is None else TradeIds.parse(text)
