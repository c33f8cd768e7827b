"""Draw the picture for an alert: the candles up to the alert's own, their volume, and the rule's price level.

A PNG of a few kilobytes for phones, with large letters. Chats can be dark or light, so it has its own
background. Candles are placed by their time, so a window without a trade leaves an empty place.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from candleflow.alerts.message import utc
from candleflow.alerts.rules import plain, rule_of
from candleflow.dashboard import colours
from candleflow.dashboard.looks import Overlay
from candleflow.market.stored import Bar
from candleflow.settings import Settings
from candleflow.store.alerts import AlertStore

CANDLES: Final = 60
"""How many windows are drawn; the alert's own is the rightmost."""
SIZE: Final = (800, 450)
PRICES: Final = (12, 56, 672, 326)
"""The price panel: left, top, right and bottom, in pixels."""
VOLUMES: Final = (12, 344, 672, 412)
_LARGE: Final = 26
_MIDDLE: Final = 18
_SMALL: Final = 16
_MARGIN: Final = 8
_WICK: Final = 2
_DASH: Final = 8
_COLOURS: Final = 128
"""Palette size. Candle colours stay exact, letters lose shades; the file is less than half as large."""
RISING: Final = colours.RISING
FALLING: Final = colours.FALLING
INCOMPLETE: Final = colours.INCOMPLETE
LINE: Final = colours.LINES[Overlay.SMA]
FAINT: Final = colours.PLAIN
GROUND: Final = "#0f131a"
TEXT: Final = "#e6e9ef"
"""Background and text colours of the dark theme in ``.streamlit/config.toml``."""
_ROOM: Final = Decimal("0.05")
"""Margin above the highest and below the lowest price, as a share of their difference."""

_Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Chart:
    """The input of ``picture``. Times in microseconds since the epoch, UTC."""

    symbol: str
    words: str
    """The rule's condition as text."""
    at: int
    """When the rule fired."""
    window: int
    """Open time of the alert's own window, the last one drawn."""
    size_us: int
    candles: Sequence[Bar]
    """Candles outside the last CANDLES windows are ignored."""
    line: Decimal | None = None
    """The rule's price level."""
    is_simulated: bool = False


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps prices to pixel heights in the price panel."""

    low: Decimal
    high: Decimal

    def y(self, price: Decimal) -> int:
        """Return the y coordinate of a price; outside the panel if the price is outside the scale."""
        _, top, _, bottom = PRICES
        return top + round((self.high - price) / (self.high - self.low) * (bottom - top))


def picture_of(settings: Settings, store: AlertStore, alert_id: int) -> bytes | None:
    """Draw a stored alert as a PNG; None if there are no candles to draw (``lag`` rules have no symbol).

    Raises StoreError while PostgreSQL is unavailable, MarketError if the stored rule is invalid.
    """
    alert = store.alert(alert_id)
    candles = store.drawn(alert.symbol, alert.window, CANDLES) if alert is not None and alert.symbol else []
    if alert is None or not candles:
        return None
    rule = rule_of(alert.rule)
    chart = Chart(
        symbol=alert.symbol,
        words=rule.words(),
        at=alert.sampled_at,
        window=alert.window,
        size_us=settings.windows.size_us,
        candles=candles,
        line=rule.threshold if rule.kind.is_of_price else None,
        is_simulated=settings.exchange.is_simulated,
    )
    return picture(chart)


def picture(chart: Chart) -> bytes:
    """Draw the chart as a PNG of SIZE. Raises ValueError if there is no candle to draw."""
    shown = [one for one in chart.candles if 0 <= _slot(chart, one) < CANDLES]
    if not shown:
        raise ValueError("there is no candle to draw")
    image = Image.new("RGB", SIZE, GROUND)
    draw = ImageDraw.Draw(image)
    scale = scale_of(shown, chart.line)
    for candle in shown:
        _draw_candle(draw, chart, candle, scale)
    _draw_volumes(draw, chart, shown)
    _draw_prices(draw, chart, shown, scale)
    _draw_words(draw, chart)
    out = io.BytesIO()
    image.quantize(_COLOURS, Image.Quantize.MAXCOVERAGE).save(out, "PNG", optimize=True)
    return out.getvalue()


def scale_of(candles: Sequence[Bar], line: Decimal | None) -> Scale:
    """Fit the candles. Include the level too, unless it is further away than the candles' own range."""
    low, high = min(one.low for one in candles), max(one.high for one in candles)
    span = high - low
    if line is not None and low - span <= line <= high + span:
        low, high = min(low, line), max(high, line)
    room = (high - low) * _ROOM or abs(high) * _ROOM or Decimal(1)
    return Scale(low - room, high + room)


def middle(chart: Chart, candle: Bar) -> int:
    """Return the x coordinate of a candle's middle."""
    left, _, right, _ = PRICES
    return left + (2 * _slot(chart, candle) + 1) * (right - left) // (2 * CANDLES)


def _slot(chart: Chart, candle: Bar) -> int:
    return CANDLES - 1 - (chart.window - candle.open_time) // chart.size_us


def _colour(candle: Bar) -> str:
    """Return the candle's colour; one that closed where it opened counts as rising."""
    return RISING if candle.close >= candle.open else FALLING


def _body(chart: Chart, candle: Bar, top: int, bottom: int) -> _Box:
    half = (PRICES[2] - PRICES[0]) // (3 * CANDLES)
    x = middle(chart, candle)
    return x - half, top, x + half, bottom


def _draw_candle(draw: ImageDraw.ImageDraw, chart: Chart, candle: Bar, scale: Scale) -> None:
    colour, x = _colour(candle), middle(chart, candle)
    draw.rectangle((x, scale.y(candle.high), x + _WICK - 1, scale.y(candle.low)), fill=colour)
    ends = sorted((scale.y(candle.open), scale.y(candle.close)))
    draw.rectangle(_body(chart, candle, ends[0], ends[1]), fill=colour)
    if not candle.is_complete:
        under = PRICES[3] + _MARGIN
        draw.rectangle(_body(chart, candle, under - 3, under), fill=INCOMPLETE)


def _draw_volumes(draw: ImageDraw.ImageDraw, chart: Chart, candles: Sequence[Bar]) -> None:
    _, top, _, bottom = VOLUMES
    most = max(one.volume for one in candles) or Decimal(1)
    for candle in candles:
        height = round(candle.volume / most * (bottom - top))
        draw.rectangle(_body(chart, candle, bottom - height, bottom), fill=_colour(candle))
    draw.text((VOLUMES[2] + _MARGIN, top - 4), "volume", FAINT, _font(_SMALL))


def _draw_prices(draw: ImageDraw.ImageDraw, chart: Chart, candles: Sequence[Bar], scale: Scale) -> None:
    """Draw the level and its price, then the last, highest and lowest price where labels don't overlap."""
    last = candles[-1]
    marks = [(last.close, _colour(last))]
    marks += [
        (max(one.high for one in candles), FAINT),
        (min(one.low for one in candles), FAINT),
    ]
    if chart.line is not None and scale.low <= chart.line <= scale.high:
        _draw_line(draw, scale.y(chart.line), LINE)
        marks.insert(0, (chart.line, LINE))
    taken: list[int] = []
    for price, colour in marks:
        y = scale.y(price)
        if all(abs(y - other) > _SMALL for other in taken):
            taken.append(y)
            draw.text((PRICES[2] + _MARGIN, y), plain(price), colour, _font(_SMALL), anchor="lm")


def _draw_line(draw: ImageDraw.ImageDraw, y: int, colour: str) -> None:
    left, _, right, _ = PRICES
    for x in range(left, right, 2 * _DASH):
        draw.rectangle((x, y, min(x + _DASH, right), y + 1), fill=colour)


def _draw_words(draw: ImageDraw.ImageDraw, chart: Chart) -> None:
    """Draw the heading with symbol, rule and time, and the times of the first and last window below."""
    width, height = SIZE
    x = float(PRICES[0])
    if chart.is_simulated:
        draw.text((x, _MARGIN), "SIMULATED", FALLING, _font(_LARGE))
        x += _font(_LARGE).getlength("SIMULATED ")
    draw.text((x, _MARGIN), chart.symbol, TEXT, _font(_LARGE))
    x += _font(_LARGE).getlength(chart.symbol + " ")
    at = utc(chart.at)
    room = width - _MARGIN - _font(_MIDDLE).getlength(at + " ") - x
    draw.text((x, _MARGIN + 8), _fitted(chart.words, room), LINE, _font(_MIDDLE))
    draw.text((width - _MARGIN, _MARGIN + 8), at, TEXT, _font(_MIDDLE), anchor="ra")
    begin, end = chart.window - (CANDLES - 1) * chart.size_us, chart.window
    y = height - _MARGIN
    draw.text((PRICES[0], y), utc(begin, "%H:%M:%S"), FAINT, _font(_SMALL), anchor="ls")
    draw.text((PRICES[2], y), utc(end, "%H:%M:%S"), FAINT, _font(_SMALL), anchor="rs")


def _fitted(words: str, room: float) -> str:
    """Cut the text to the width ``room``, in pixels."""
    while words and _font(_MIDDLE).getlength(words) > room:
        words = words[:-1]
    return words


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's built-in font, so that no font has to be installed."""
    return ImageFont.load_default(size)
