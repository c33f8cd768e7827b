"""``forecast evaluate``: the same forecasts over files of trades, and the truth in words."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path

import pytest

from candleflow.cli import main
from candleflow.errors import ExchangeError, SettingError
from candleflow.market.window import SECOND_US, Windows
from candleflow.services.forecast_report import candles_of, trades_of
from candleflow.watch.forecast.scores import NO_SKILL
from tests.oracle import ABSENT, TRADES_ONLY

FIVE_SECONDS = Windows.of_seconds(5)
BEGINS_AT_MS = 1_700_006_400_000


def archive_of(file: Path, candles: int, autocorrelation: float) -> Path:
    """An archive's file of a made-up market, one trade a second; of each candle's return some goes on."""
    chance = random.Random(1)
    price, step = 60_000.0, 0.0
    lines = []
    for number in range(candles * 5):
        if number % 5 == 4:
            step = autocorrelation * step + chance.gauss(0, 12)
            price += step
        lines.append(
            f"{number + 1},{price:.2f},0.5,{price / 2:.2f},{BEGINS_AT_MS + number * 1000},"
            f"{chance.choice(['True', 'False'])},True\n"
        )
    file.write_text("".join(lines))
    return file


def test_an_archive_becomes_candles_of_which_the_first_and_the_last_are_not_used(tmp_path: Path) -> None:
    file = archive_of(tmp_path / "BTCUSDT-trades-2023-11-15.csv", 10, 0)
    candles = candles_of(trades_of(file, "BTCUSDT"), FIVE_SECONDS)
    assert [one.is_complete for one in candles] == [False, *[True] * 9]
    assert [one.is_closed for one in candles] == [*[True] * 9, False]
    assert [one.trade_count for one in candles] == [5] * 10
    assert candles[1].open_time - candles[0].open_time == 5 * SECOND_US


def test_a_zip_has_the_trades_of_its_file_and_what_is_no_trade_is_passed_over(tmp_path: Path) -> None:
    file = archive_of(tmp_path / "plain.csv", 3, 0)
    file.write_text("id,price,qty,quote_qty,time,is_buyer_maker,is_best_match\n" + file.read_text() + "1,2\n")
    zipped = tmp_path / "day.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.write(file, "day.csv")
    assert list(trades_of(zipped, "BTCUSDT")) == list(trades_of(file, "BTCUSDT"))
    assert len(list(trades_of(file, "BTCUSDT"))) == 15


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="nowhere"):
        list(trades_of(tmp_path / "nowhere.csv", "BTCUSDT"))
    with pytest.raises(ExchangeError, match="nowhere"):
        list(trades_of(tmp_path / "nowhere.jsonl", "BTCUSDT"))


def evaluated(capsys: pytest.CaptureFixture[str], file: Path, *more: str) -> str:
    assert main(["forecast", "evaluate", "--file", str(file), *more]) == 0
    return capsys.readouterr().out


def test_skill_is_told_where_there_is_some(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = archive_of(tmp_path / "day.csv", 1_500, 0.4)
    assert "Forecast: better than the last price by" in evaluated(capsys, file)


def test_a_random_walk_is_told_to_have_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = evaluated(capsys, archive_of(tmp_path / "day.csv", 1_000, 0.0))
    assert f"Forecast: {NO_SKILL}" in said
    assert "coverage" in said
    assert "a coin" in said


def test_too_few_candles_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing to forecast" in evaluated(capsys, archive_of(tmp_path / "day.csv", 5, 0.0))


@pytest.mark.skipif(not TRADES_ONLY.exists(), reason=ABSENT)
@pytest.mark.parametrize("symbol", ["BTCUSDT", "ETHUSDT"])
def test_the_recording_has_too_little_for_any_skill(symbol: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Eleven minutes of 5-second candles: scored out of sample, and no more is claimed than they show."""
    said = evaluated(capsys, TRADES_ONLY, "--symbol", symbol)
    assert "129 candles" in said
    assert f"Forecast: {NO_SKILL}" in said
    assert "as it should be (80 %)" in said
