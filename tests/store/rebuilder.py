"""A Rebuilder that reads trades from a list instead of Kafka; all of them count as merged."""

from __future__ import annotations

from collections.abc import Sequence

from candleflow.audit.consistency import SuspectRange
from candleflow.audit.rebuilding import Rebuilder, Rebuilt
from candleflow.audit.recomputed import RecomputedCandles
from candleflow.market.trade import Trade
from candleflow.settings import Settings
from candleflow.store.rebuilds import CandleRebuilds, Merged


class ListRebuilder(Rebuilder):
    def __init__(self, settings: Settings, store: CandleRebuilds, topic: Sequence[Trade]) -> None:
        super().__init__(settings, store, say=print)
        self.topic = topic

    def repair(self, symbol: str, since: int, until: int) -> list[Rebuilt]:
        """Find and rebuild the suspect ranges, as the ``repair`` command does."""
        found = self.find_suspect_ranges(symbol, since, until)
        return [rebuilt for _, rebuilt in self.rebuild(symbol, found)]

    def _merged(self) -> Merged:
        return Merged("a list", {})

    def _read(
        self, recomputed: RecomputedCandles, symbol: str, suspect: SuspectRange, merged: Merged
    ) -> bool:
        for trade in self.topic:
            recomputed.add(trade)
        return True
