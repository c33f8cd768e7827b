"""The picture for an alert, checked by its pixels."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from PIL import Image

from candleflow.alerts.picture import (
    CANDLES,
    FALLING,
    GROUND,
    INCOMPLETE,
    LINE,
    PRICES,
    RISING,
    SIZE,
    VOLUMES,
    Chart,
    middle,
    picture,
    scale_of,
)
from candleflow.market.stored import Bar
from candleflow.market.window import SECOND_US

FIVE_SECONDS = 5 * SECOND_US
WINDOW = 1_700_006_400 * SECOND_US
LARGEST_BYTES = 20_000


def candle(ago: int, open_: object, close: object, wick: object = 0, **more: Any) -> Bar:
    """Make the candle ``ago`` windows before the last; its wicks reach ``wick`` above and below its body."""
    first, last, beyond = (Decimal(str(one)) for one in (open_, close, wick))
    high, low = max(first, last) + beyond, min(first, last) - beyond
    one = Bar(WINDOW - ago * FIVE_SECONDS, first, high, low, last, volume=Decimal(1), is_complete=True)
    return one._replace(**more)


def chart(*candles: Bar, line: str | None = None, **more: object) -> Chart:
    made = Chart(
        "BTCUSDT", "crosses up 105", WINDOW + 3 * SECOND_US, WINDOW, FIVE_SECONDS, candles,
        None if line is None else Decimal(line),
    )  # fmt: skip
    return replace(made, **more)  # type: ignore[arg-type]


def drawn(what: Chart) -> Image.Image:
    with Image.open(io.BytesIO(picture(what))) as image:
        assert (image.format, image.size) == ("PNG", SIZE)
        return image.convert("RGB")


def colour(image: Image.Image, x: int, y: int) -> str:
    red, green, blue = image.getpixel((x, y))  # type: ignore[misc]
    return f"#{red:02x}{green:02x}{blue:02x}"


def rows_of(image: Image.Image, x: int, wanted: str) -> list[int]:
    """Return the rows of the price panel's column ``x`` that have the colour."""
    return [y for y in range(PRICES[1], PRICES[3]) if colour(image, x, y) == wanted]


RISES, FALLS = candle(1, 100, 110, 2), candle(0, 110, 104, 2)


def test_a_candles_body_has_the_pages_colour() -> None:
    what = chart(RISES, FALLS)
    image, scale = drawn(what), scale_of(what.candles, None)
    for one, wanted in ((RISES, RISING), (FALLS, FALLING)):
        beside = middle(what, one) - 3
        ends = sorted((scale.y(one.open), scale.y(one.close)))
        assert rows_of(image, beside, wanted) == list(range(ends[0], ends[1] + 1))
        wick = rows_of(image, middle(what, one), wanted)
        assert (min(wick), max(wick)) == (scale.y(one.high), scale.y(one.low))


def test_the_alerts_window_is_the_last_and_older_ones_keep_their_places() -> None:
    oldest, too_old = candle(CANDLES - 1, 100, 110), candle(CANDLES, 1, 2)
    what = chart(too_old, oldest, RISES, FALLS)
    image = drawn(what)
    assert middle(what, FALLS) == PRICES[2] - (PRICES[2] - PRICES[0]) // (2 * CANDLES) - 1
    assert rows_of(image, middle(what, oldest), RISING), "older candles don't compress the scale"
    empty = middle(what, candle(7, 1, 1))
    assert rows_of(image, empty, GROUND) == list(range(PRICES[1], PRICES[3]))


@pytest.mark.parametrize("line", ["105", "100.5", "118", "95"])
def test_the_rules_level_is_drawn_at_its_price_within_or_near_the_candles(line: str) -> None:
    what = chart(RISES, FALLS, line=line)
    image, scale = drawn(what), scale_of(what.candles, what.line)
    y = scale.y(Decimal(line))
    assert PRICES[1] <= y <= PRICES[3]
    assert rows_of(image, PRICES[0] + 2, LINE) == [y, y + 1]


def test_a_distant_level_does_not_change_the_scale() -> None:
    what = chart(RISES, FALLS, line="1000")
    assert scale_of(what.candles, what.line) == scale_of(what.candles, None)
    assert rows_of(drawn(what), PRICES[0] + 2, LINE) == []


def test_a_volume_bars_height_is_its_share_of_the_largest() -> None:
    half = RISES._replace(volume=Decimal("1.5"))
    what = chart(half, FALLS._replace(volume=Decimal(3)))
    image = drawn(what)
    _, top, _, bottom = VOLUMES
    bar = [y for y in range(top, bottom) if colour(image, middle(what, half), y) == RISING]
    assert (min(bar), max(bar)) == (top + (bottom - top) // 2, bottom - 1)
    assert colour(image, middle(what, FALLS), top) == FALLING


def test_an_incomplete_candle_is_marked() -> None:
    what = chart(RISES._replace(is_complete=False), FALLS)
    image = drawn(what)
    x, under = middle(what, RISES), PRICES[3] + 6
    assert colour(image, x, under) == INCOMPLETE
    assert colour(image, middle(what, FALLS), under) == GROUND


def test_simulated_trades_are_marked_at_the_top() -> None:
    def oranges(what: Chart) -> int:
        head = drawn(what).crop((0, 0, SIZE[0], PRICES[1]))
        return sum(colour(head, x, y) == FALLING for x in range(200) for y in range(head.height))

    assert oranges(chart(RISES)) == 0
    assert oranges(chart(RISES, is_simulated=True)) > 100


def test_a_long_text_is_cut_before_the_time() -> None:
    image = drawn(chart(RISES, words="is above 1" * 30))
    columns = [x for x in range(SIZE[0]) if any(colour(image, x, y) == LINE for y in range(PRICES[1]))]
    assert SIZE[0] / 2 < max(columns) < SIZE[0] - 210


def busy() -> Iterator[Bar]:
    for ago in range(CANDLES):
        price = 104_235.12 + 97.31 * (ago * 37 % 23) - 55.7 * (ago * 11 % 13)
        yield candle(ago, price, price + (ago * 29 % 17 - 8) * 31.07, 12.9, volume=Decimal(1 + ago * 7 % 31))


def test_a_full_picture_is_small() -> None:
    made = picture(chart(*busy(), line="104300", words="crosses up 104300", is_simulated=True))
    assert len(made) < LARGEST_BYTES


@pytest.mark.parametrize(
    "one",
    [
        candle(0, 0, 0),
        candle(0, "0.00001234", "0.00001234"),
        candle(0, "99999999999", "99999999999", volume=Decimal(0)),
        candle(0, "1E-8", "999999999999", "0"),
    ],
    ids=["zero", "flat", "no volume", "wide"],
)
def test_every_price_can_be_drawn(one: Bar) -> None:
    assert drawn(chart(one, line="1"))


def test_without_a_candle_there_is_no_picture() -> None:
    with pytest.raises(ValueError, match="no candle"):
        picture(chart(candle(CANDLES, 1, 2)))
