"""Does in plain Python what Spark's sink does with PostgreSQL: claims a topic and merges batches."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812 - a class by psycopg2's naming

from candleflow.market.candle import fold
from candleflow.market.partial import Partial, array_text, encode, of_candle
from candleflow.market.trade import Trade
from candleflow.market.trade_ids import TradeIds
from candleflow.market.window import Windows

MERGE = "SELECT merge_batch(%s, %s, %s, %s, %s::partial_candle[], %s, %s)"


def partials_of(trades: Iterable[Trade], windows: Windows) -> list[Partial]:
    """Return the batch's partial candles."""
    times = {(trade.symbol, trade.trade_id): trade.trade_time for trade in trades}
    return [
        of_candle(candle, times[candle.symbol, candle.last_trade_id])
        for candle in fold(trades, windows).values()
    ]


class Processor:
    """One run of the processor, on a connection of the writer."""

    def __init__(
        self,
        connection: Connection,
        windows: Windows,
        *,
        topic: str = "trades",
        topic_id: str = "made once",
        held_by: str = "a test",
    ) -> None:
        self.cursor = connection.cursor()
        self.windows = windows
        self.topic = topic
        claim = self.call("SELECT claim_topic(%s, %s, %s)", topic, topic_id, held_by)
        self.run_id: str = claim["run_id"]
        self.offsets: dict[str, int] = claim["offsets"]

    def call(self, statement: str, *arguments: object) -> Any:
        self.cursor.execute(statement, arguments)
        row = self.cursor.fetchone()
        assert row is not None
        return row[0]

    def send(
        self,
        expected: dict[str, int],
        reached: dict[str, int],
        partials: Sequence[Partial],
        counts: dict[str, Any] | None = None,
    ) -> Any:
        """Call merge_batch once and return its answer."""
        windows = {
            "interval": self.windows.interval,
            "size_us": self.windows.size_us,
            "slide_us": self.windows.slide_us,
        }
        offsets = [json.dumps(one) for one in (expected, reached)]
        rest = [json.dumps(one) for one in (counts or {}, windows)]
        return self.call(MERGE, self.run_id, self.topic, *offsets, array_text(map(encode, partials)), *rest)

    def merge(self, trades: Sequence[Trade], partition: str = "0") -> int:
        """Merge a batch as the sink does, one record per trade; return how many trades were late.

        If trades are in candles already, merge the others.
        """
        reached = self.offsets | {partition: self.offsets.get(partition, 0) + len(trades)}
        fresh = {(trade.symbol, trade.trade_id): trade for trade in trades}
        while True:
            counts = {"received": len(trades), "duplicate": len(trades) - len(fresh), "rejected": {}}
            partials = partials_of(list(fresh.values()), self.windows)
            answer = self.send(self.offsets, reached, partials, counts)
            if answer["status"] != "overlap":
                break
            known = {symbol: TradeIds.parse(ids) for symbol, ids in answer["ids"].items()}
            left = {
                key: one for key, one in fresh.items() if key[0] not in known or key[1] not in known[key[0]]
            }
            assert len(left) < len(fresh), "an overlap names ids that are in the batch"
            fresh = left
        assert answer["status"] == "merged"
        self.offsets = reached
        return int(answer["late"])

    def close_quiet(self, closes_until: int) -> int:
        return int(self.call("SELECT close_quiet_candles(%s, %s, %s)", self.run_id, self.topic, closes_until))
