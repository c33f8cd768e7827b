"""The trust strip: a row of items on data quality and health; a click on one opens its details.

``assets/trust_strip.js`` keeps the buttons and the open panel through all refreshes. Without refreshes
(server down, or page paused) the browser shows every item as unknown.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from candleflow.dashboard import trust, words
from candleflow.dashboard.choice import CANDLE_LIMIT
from candleflow.dashboard.component import LiveComponent
from candleflow.dashboard.source import PageSource
from candleflow.dashboard.trust import Facts
from candleflow.dashboard.view import Nothing, View
from candleflow.errors import StoreError
from candleflow.market.stored import OpenGaps

_STRIP: Final = LiveComponent(
    "candleflow_trust", html='<div class="cf-trust"></div>', script="trust_strip.js"
)


@dataclass(frozen=True, slots=True)
class TrustStrip:
    """The strip of one chart; ``refresh_seconds`` is None while the viewer has paused the page.

    ``slot`` is the chart's number on the page, from 1.
    """

    source: PageSource
    symbol: str
    is_followed: bool
    is_simulated: bool
    refresh_seconds: int | None
    slot: int

    def draw(self, shown: View | Nothing | None, now: int) -> None:
        """Draw the strip for the view; None while PostgreSQL is away. ``now`` is in microseconds."""
        about = {
            "slot": self.slot,
            "at": now // 1_000,
            "good_for_ms": round(1_000 * (trust.SILENT_SECONDS + (self.refresh_seconds or 0))),
            "is_paused": self.refresh_seconds is None,
        }
        items = trust.as_json(trust.items(self._facts(shown, now)))
        _STRIP.draw(items, key=f"trust{self.slot}", view=self.symbol, about=about)

    def _facts(self, shown: View | Nothing | None, now: int) -> Facts:
        facts = Facts(
            self.symbol,
            now,
            is_followed=self.is_followed,
            is_simulated=self.is_simulated,
            heartbeats=self.source.heartbeats(),
        )
        if shown is None:
            return replace(facts, is_store_away=True)
        view = shown if isinstance(shown, View) else None
        try:
            times = {state.symbol: state.last_trade_time for state in self.source.symbols()}
            return replace(
                facts,
                last_trade_time=times.get(self.symbol),
                candles=() if view is None else view.candles,
                gaps=None if view is None else self._gaps(view),
                scores=self.source.scores(self.symbol),
            )
        except StoreError:
            return replace(facts, is_store_away=True)

    def _gaps(self, view: View) -> OpenGaps | None:
        """Return the gaps among the candles shown; None, without a query, if no trade id is missing."""
        if not words.missing_trades(view.candles):
            return None
        choice, first = view.choice, view.candles[0].open_time
        return self.source.open_gaps(choice.symbol, choice.bucket_seconds, first, CANDLE_LIMIT)
