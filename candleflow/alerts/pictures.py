"""Makes the picture of an alert from what is stored, in the page's colours on its dark ground."""

from __future__ import annotations

from typing import Final

from candleflow.alerts.picture import CANDLES, Chart, Palette, picture
from candleflow.alerts.rules import rule_of
from candleflow.dashboard import colours
from candleflow.dashboard.looks import Overlay
from candleflow.settings import Settings
from candleflow.store.alerts import AlertBook

PALETTE: Final = Palette(
    rising=colours.RISING,
    falling=colours.FALLING,
    incomplete=colours.INCOMPLETE,
    line=colours.LINES[Overlay.SMA],
    ground="#0f131a",
    text="#e6e9ef",
    faint=colours.PLAIN,
)
"""Ground and letters are those of the dark theme in ``.streamlit/config.toml``."""


class Pictures:
    """Of the alerts in one book; safe to share among threads."""

    def __init__(self, settings: Settings, book: AlertBook) -> None:
        self._size_us = settings.windows.size_us
        self._is_simulated = settings.exchange.is_simulated
        self._book = book

    def of(self, alert_id: int) -> bytes | None:
        """The alert's picture as a PNG; None where there is nothing to draw: a lag has no symbol.

        Raises StoreError while PostgreSQL is away, MarketError for a rule that can't be read any more.
        """
        alert = self._book.alert(alert_id)
        if alert is None or not alert.symbol:
            return None
        candles = self._book.drawn(alert.symbol, alert.window, CANDLES)
        if not candles:
            return None
        rule = rule_of(alert.rule)
        chart = Chart(
            symbol=alert.symbol,
            words=rule.words(),
            at=alert.sampled_at,
            window=alert.window,
            size_us=self._size_us,
            candles=candles,
            line=rule.threshold if rule.kind.is_of_price else None,
            is_simulated=self._is_simulated,
        )
        return picture(chart, PALETTE)
