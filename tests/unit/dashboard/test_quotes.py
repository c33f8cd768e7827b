from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from candleflow.dashboard.quotes import SLOT_SECONDS, STALE_SECONDS, Sparkline, quotes, sparkline
from candleflow.market.stored import DayOfSymbol, SymbolState
from candleflow.market.window import SECOND_US
from tests.unit.dashboard.examples import NOON, symbol_state

SLOT = SLOT_SECONDS * SECOND_US
DAY_SECONDS = 86_400


def state(
    symbol: str, price: str, change: str | None, *, seconds_ago: int = 0, over: int = DAY_SECONDS - 30
) -> SymbolState:
    """Return a symbol's state: its last trade's age at noon, in seconds, and its change over a period
    before."""
    last = NOON - seconds_ago * SECOND_US
    if change is None:
        return symbol_state(symbol, last, price)
    return symbol_state(symbol, last, price, Decimal(price) / (1 + Decimal(change)), last - over * SECOND_US)


def line_of(open_times: Sequence[int], first_open: str, closes: Sequence[str]) -> Sparkline:
    return sparkline(
        DayOfSymbol("AUSDT", tuple(open_times), tuple(map(Decimal, closes)), Decimal(first_open))
    )


def test_a_line_goes_from_the_first_open_over_every_close() -> None:
    line = line_of([NOON, NOON + SLOT, NOON + 2 * SLOT], "100", ["110", "90", "125"])
    assert line.heights == "ak0z"


def test_a_quarter_of_an_hour_without_a_candle_keeps_the_price_before_it() -> None:
    line = line_of([NOON, NOON + 3 * SLOT], "1", ["1", "2"])
    assert line.heights == "0000z"


def test_a_constant_price_is_a_line_in_the_middle() -> None:
    assert line_of([NOON], "7", ["7"]).heights == "ii"


def test_every_price_of_the_day_is_shown_with_as_many_places() -> None:
    line = line_of([NOON], "0.10", ["0.1234"])
    shown = quotes(["AUSDT"], [state("AUSDT", "0.12", None)], {"AUSDT": line}, NOON)
    assert shown["prices"] == ["0.1200"]


def test_only_symbols_of_the_settings_are_shown_in_their_order() -> None:
    states = [
        state("AUSDT", "1.5", "0.01234"),
        state("BUSDT", "61234.5", "-0.5"),
        state("OLDUSDT", "1", None),
    ]
    line = line_of([NOON], "1", ["2"])
    shown = quotes(["BUSDT", "CUSDT", "AUSDT"], states, {"BUSDT": line}, NOON)
    assert shown == {
        "symbols": ["BUSDT", "CUSDT", "AUSDT"],
        "prices": ["61,234.50", "", "1.50"],
        "changes": [-5000, None, 123],
        "spans": ["1 day", "", "1 day"],
        "ages": ["", "", ""],
        "heights": ["0z", "", ""],
    }


def test_a_change_over_less_than_a_day_has_its_period() -> None:
    young = state("AUSDT", "2", "1", over=6 * 3_600)
    assert quotes(["AUSDT"], [young], {}, NOON)["spans"] == ["6 hours"]


def test_only_an_old_last_trade_has_an_age() -> None:
    states = [
        state("AUSDT", "1", None, seconds_ago=STALE_SECONDS),
        state("BUSDT", "1", None, seconds_ago=STALE_SECONDS + 1),
    ]
    assert quotes(["AUSDT", "BUSDT"], states, {}, NOON)["ages"] == ["", "5 minutes ago"]


def test_without_a_symbol_every_list_is_empty() -> None:
    assert set(map(len, quotes([], [], {}, NOON).values())) == {0}
