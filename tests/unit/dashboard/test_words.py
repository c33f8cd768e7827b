from __future__ import annotations

from decimal import Decimal

import pytest

from candleflow.dashboard import words
from candleflow.market.window import SECOND_US
from tests.unit.dashboard.examples import NOON, candle


def test_times_are_in_utc() -> None:
    assert words.utc(NOON + 999_999) == "2024-08-08 12:00:00 UTC"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 seconds"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "1 minute"),
        (7_199, "1 hour"),
        (7_200, "2 hours"),
        (604_800, "7 days"),
        (86_400 * 1_200, "1,200 days"),
    ],
)
def test_a_span_is_in_its_largest_unit(seconds: int, text: str) -> None:
    assert words.span(seconds) == text


@pytest.mark.parametrize(
    ("ahead_us", "text"),
    [
        (-300_000, "now"),
        (900_000, "now"),  # the exchange's clock is a little ahead, which is normal
        (-SECOND_US, "1 second ago"),
        (-90 * SECOND_US, "1 minute ago"),
        (5 * SECOND_US, "5 seconds ahead of this machine's clock"),
    ],
)
def test_an_age_says_when_a_clock_is_wrong(ahead_us: int, text: str) -> None:
    assert words.age(NOON + ahead_us, NOON) == text


def test_prices_show_every_significant_digit_and_at_least_two_places() -> None:
    assert words.places([candle(0)]) == 2
    assert words.places([candle(0, close=Decimal("100.12300000"))]) == 3
    assert words.places([candle(0, low=Decimal("0.00001234"))]) == 8
    assert words.places([candle(0, high=Decimal("1E+5"))]) == 2
    assert words.price(Decimal("61234.5"), 2) == "61,234.50"


@pytest.mark.parametrize(
    ("first", "last", "text"),
    [
        ("100", "101.25", ("+1.25 (+1.25 %)", 1)),
        ("100", "98.5", ("\N{MINUS SIGN}1.50 (\N{MINUS SIGN}1.50 %)", -1)),
        ("100", "100.00", ("0.00 (0.00 %)", 0)),
    ],
)
def test_the_change_goes_from_the_first_open_to_the_last_close(
    first: str, last: str, text: tuple[str, int]
) -> None:
    shown = [candle(0, open=Decimal(first)), candle(1), candle(2, close=Decimal(last))]
    assert words.change(shown, 2) == text


def test_missing_trades_are_counted_inside_candles_and_between_them() -> None:
    holed = candle(1, trade_count=7, is_complete=False)
    after_a_gap = candle(4, is_complete=False)  # candles 2 and 3, with ten trades each, are missing
    shown = [candle(0), holed, after_a_gap]
    assert words.missing_trades(shown) == 23


def test_escaped_text_is_shown_literally_by_markdown() -> None:
    assert words.escape_markdown("401: a_b *[c](d)* <e>") == r"401\: a\_b \*\[c\]\(d\)\* \<e\>"
