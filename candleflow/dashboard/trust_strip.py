"""The trust strip: a component of our own, one row of items, each of which opens to its details.

``assets/trust_strip.js`` keeps its buttons and what is open through all refreshes. Where no refresh comes, as
when the page's server stands still or the viewer has paused it, the browser itself takes every item for
unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    """The strip for one symbol; ``refresh_seconds`` is None while the viewer has paused the page.

    ``slot`` is the place of its chart on the page, from 1.
    """

    source: PageSource
    symbol: str
    is_followed: bool
    is_simulated: bool
    refresh_seconds: int | None
    slot: int

    def draw(self, shown: View | Nothing | None, now: int) -> None:
        """Draw it for what the page shows, None while the store is away. ``now`` is in microseconds."""
        about = {
            "slot": self.slot,
            "at": now // 1_000,
            "good_for_ms": round(1_000 * (trust.SILENT_SECONDS + (self.refresh_seconds or 0))),
            "is_paused": self.refresh_seconds is None,
        }
        items = trust.plain(trust.items(self._facts(shown, now)))
        _STRIP.draw(items, key=f"trust{self.slot}", view=self.symbol, about=about)

    def _facts(self, shown: View | Nothing | None, now: int) -> Facts:
        away = Facts(
            self.symbol,
            now,
            is_followed=self.is_followed,
            is_store_away=True,
            heartbeats=self.source.heartbeats(),
        )
        if shown is None:
            return away
        candles = shown.candles if isinstance(shown, View) else ()
        try:
            states = {state.symbol: state for state in self.source.symbols()}
            gaps = self._gaps(shown) if isinstance(shown, View) else None
            scores = self.source.scores(self.symbol)
        except StoreError:
            return away  # which the strip then says
        state = states.get(self.symbol)
        return Facts(
            self.symbol,
            now,
            is_followed=self.is_followed,
            last_trade_time=None if state is None else state.last_trade_time,
            candles=candles,
            gaps=gaps,
            heartbeats=away.heartbeats,
            scores=scores,
            is_simulated=self.is_simulated,
        )

    def _gaps(self, view: View) -> OpenGaps | None:
        """The holes among the candles shown. Where their ids have none, nobody has to be asked."""
        if not words.missing_trades(view.candles):
            return None
        choice, first = view.choice, view.candles[0].open_time
        return self.source.open_gaps(choice.symbol, choice.bucket_seconds, first, CANDLE_LIMIT)
