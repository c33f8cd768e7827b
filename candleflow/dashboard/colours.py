"""The chart's colours.

Blue and orange can be distinguished with all three kinds of colour blindness, red and green can't (Okabe and
Ito, "Color Universal Design", 2008). So can lines that may be drawn together. All colours have a contrast of
at least 3:1 on white and on the dark background.
"""

from __future__ import annotations

from typing import Final

from candleflow.dashboard.looks import Overlay

RISING: Final = "#1a85d6"
FALLING: Final = "#d9650a"
INCOMPLETE: Final = "#c95cb0"
INCOMPLETE_GROUND: Final = "rgba(201,92,176,0.1)"
REPAIRED: Final = "#8a8f98"
FORECAST: Final = "#9b59d0"
FORECAST_GROUND: Final = "rgba(155,89,208,0.12)"
PLAIN: Final = "#8a8f98"
"""Bars without a direction."""
LINES: Final = {
    Overlay.SMA: "#b8860b",
    Overlay.EMA: "#3a8359",
    Overlay.VWAP: "#8578ff",
    Overlay.BOLLINGER: "#7d8aa0",
}
