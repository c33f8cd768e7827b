"""``prove``: arguments, recording and verdict. tests/pipeline/test_prove.py runs the whole pipeline."""

from __future__ import annotations

import argparse
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from candleflow.audit.klines import Comparison, Verdict
from candleflow.audit.verify_report import Asked
from candleflow.errors import ExchangeError, SettingError
from candleflow.exchange.messages import TradeMessage, decode
from candleflow.market.trade import TIME_LIMIT_US
from candleflow.settings import load
from candleflow.simulator.recording import _line
from candleflow.stack import prove

DAY_US = 1_723_075_200_000_000
MINUTE_US = 60_000_000


def asked(**given: object) -> Asked:
    arguments = {"symbol": None, "date": date(2024, 8, 8), "since": 0, "until": 1_440, "minutes": None}
    return prove._asked(load(), argparse.Namespace(**(arguments | given)))


def test_the_time_range_is_the_day_or_what_the_options_select() -> None:
    assert asked() == Asked("BTCUSDT", DAY_US, DAY_US + 1_440 * MINUTE_US)
    assert asked(since=600, minutes=10) == Asked(
        "BTCUSDT", DAY_US + 600 * MINUTE_US, DAY_US + 610 * MINUTE_US
    )
    for wrong in ({"since": 600, "until": 600}, {"minutes": 0}, {"since": 1_439, "minutes": 2}):
        with pytest.raises(SettingError, match="at least one minute of the day"):
            asked(**wrong)


@pytest.mark.parametrize(("text", "minutes"), [("00:00", 0), ("09:30", 570), ("24:00", 1_440)])
def test_a_time_of_day_is_read(text: str, minutes: int) -> None:
    assert prove._minute(text) == minutes


@pytest.mark.parametrize("text", ["24:01", "9:30", "09:60", "noon"])
def test_another_time_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="from 00:00 to 24:00"):
        prove._minute(text)


def test_only_a_day_that_is_over_is_accepted() -> None:
    today = datetime.now(UTC).date()
    assert prove._day(f"{today - timedelta(days=1)}") == today - timedelta(days=1)
    for text in (f"{today}", "yesterday"):
        with pytest.raises(argparse.ArgumentTypeError):
            prove._day(text)


def test_each_trade_of_the_range_is_sent_in_the_exchanges_format(tmp_path: Path) -> None:
    times = [(DAY_US + n * MINUTE_US) // 1_000 for n in range(4)]
    trades = tmp_path / "trades.csv"
    trades.write_text("".join(f"{n},2.50,0.1,0.25,{at},True,False\n" for n, at in enumerate(times)))
    day = prove._Day(Asked("BTCUSDT", DAY_US + MINUTE_US, DAY_US + 3 * MINUTE_US), trades, {})
    assert day.write_recording(tmp_path / "a.jsonl") == 2
    sent = [_line(text) for text in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [one.stream for one in sent] == ["btcusdt@trade"] * 2
    for one, number in zip(sent, (1, 2), strict=True):
        message = decode(one.data.encode(), {"BTCUSDT"}, TIME_LIMIT_US, 0)
        assert isinstance(message, TradeMessage)
        trade = message.trade
        assert (trade.symbol, trade.trade_id, trade.buyer_is_maker) == ("BTCUSDT", number, True)
        assert (trade.price, trade.quantity) == (Decimal("2.5"), Decimal("0.1"))
        assert trade.trade_time == one.event_time == DAY_US + number * MINUTE_US
    quiet = prove._Day(Asked("BTCUSDT", 0, MINUTE_US), trades, {})
    with pytest.raises(ExchangeError, match="has no trade in the requested time range"):
        quiet.write_recording(tmp_path / "b.jsonl")


@pytest.mark.parametrize(
    ("counts", "stored", "is_proved"),
    [
        ({Verdict.EQUAL: 3}, 5, True),
        ({Verdict.EQUAL: 3}, 4, False),
        ({Verdict.EQUAL: 2, Verdict.DIFFERENT: 1}, 5, False),
        ({Verdict.EQUAL: 2, Verdict.INCOMPLETE: 1}, 5, False),
        ({Verdict.EQUAL: 2, Verdict.NOT_COMPARABLE: 1}, 5, False),
        ({}, 5, False),
    ],
)
def test_it_is_proved_only_where_all_is_stored_and_all_is_equal(
    counts: dict[Verdict, int], stored: int, capsys: pytest.CaptureFixture[str], *, is_proved: bool
) -> None:
    assert prove._print_verdict([Comparison("5s", counts)], 5, stored, 1.0) == (0 if is_proved else 1)
    assert capsys.readouterr().out.splitlines()[-1].startswith("PROVED" if is_proved else "NOT PROVED")
