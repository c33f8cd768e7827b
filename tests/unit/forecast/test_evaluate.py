"""``forecast evaluate`` over files of trades, and its report."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path

import pytest

from candleflow.cli import main
from candleflow.errors import ExchangeError, SettingError
from candleflow.forecast.evaluate import Unread, candles_of, trades_of
from candleflow.forecast.scores import NO_SKILL
from candleflow.market.window import SECOND_US, Windows
from tests.oracle import ABSENT, TRADES_ONLY

FIVE_SECONDS = Windows.of_seconds(5)
BEGINS_AT_MS = 1_700_006_400_000


def archive_of(file: Path, candles: int, autocorrelation: float) -> Path:
    """Write an archive file of a simulated market, one trade a second, with autocorrelated returns."""
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
    candles = candles_of(trades_of(file, "BTCUSDT", Unread()), FIVE_SECONDS)
    assert [one.is_complete for one in candles] == [False, *[True] * 9]
    assert [one.is_closed for one in candles] == [*[True] * 9, False]
    assert [one.trade_count for one in candles] == [5] * 10
    assert candles[1].open_time - candles[0].open_time == 5 * SECOND_US


def test_a_zip_has_the_trades_of_its_file_and_what_is_no_trade_is_counted(tmp_path: Path) -> None:
    file = archive_of(tmp_path / "plain.csv", 3, 0)
    file.write_text("id,price,qty,quote_qty,time,is_buyer_maker,is_best_match\n" + file.read_text() + "1,2\n")
    zipped = tmp_path / "day.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.write(file, "day.csv")
    assert list(trades_of(zipped, "BTCUSDT", Unread())) == list(trades_of(file, "BTCUSDT", Unread()))
    unread = Unread()
    assert len(list(trades_of(file, "BTCUSDT", unread))) == 15
    assert unread == Unread(1, "'1,2' has 2 columns")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="nowhere"):
        list(trades_of(tmp_path / "nowhere.csv", "BTCUSDT", Unread()))
    with pytest.raises(ExchangeError, match="nowhere"):
        list(trades_of(tmp_path / "nowhere.jsonl", "BTCUSDT", Unread()))


def evaluated(capsys: pytest.CaptureFixture[str], file: Path, *more: str) -> str:
    assert main(["forecast", "evaluate", "--file", str(file), *more]) == 0
    return capsys.readouterr().out


def test_existing_skill_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = archive_of(tmp_path / "day.csv", 1_500, 0.4)
    assert "Forecast: better than the last price by" in evaluated(capsys, file)


def test_no_skill_is_reported_for_a_random_walk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = evaluated(capsys, archive_of(tmp_path / "day.csv", 1_000, 0.0))
    assert f"Forecast: {NO_SKILL}" in said
    assert "coverage" in said
    assert "a coin" in said


def test_too_few_candles_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forecast", "evaluate", "--file", str(archive_of(tmp_path / "day.csv", 5, 0.0))]) == 1
    assert "nothing to forecast" in capsys.readouterr().out


RECORDED = '{"e":"trade","E":1,"s":"%s","t":1,"p":"1","q":"1","T":1723161255342,"m":true,"M":true}\n'
UNREADABLE = {
    "aggTrades.csv": ("1,1.0,1.0,1,1,1723075200000,True,True\n" * 9, "8 columns, as spot aggTrades have"),
    "empty.csv": ("", "it is empty"),
    "words.jsonl": (
        "hello\n" * 9,
        "has no trade of BTCUSDT; 9 lines can't be read, the first: 'hello' is rejected",
    ),
    "another.jsonl": (RECORDED % "ETHUSDT", "has no trade of BTCUSDT"),
    "refused.csv": ("1,0.0,1.0,1.0,1723075200000,True,True\n", "is rejected: price not a finite positive"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_unreadable_file_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    content, says = UNREADABLE[name]
    (tmp_path / name).write_text(content)
    assert main(["forecast", "evaluate", "--file", str(tmp_path / name), "--symbol", "BTCUSDT"]) == 1
    said = capsys.readouterr()
    assert says in " ".join((said.out + said.err).split())


def test_unreadable_lines_are_counted_and_set_the_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = archive_of(tmp_path / "day.csv", 1_000, 0.0)
    file.write_text(file.read_text().replace("0.5,", "half,", 3))
    assert main(["forecast", "evaluate", "--file", str(file)]) == 1
    said = capsys.readouterr()
    assert "3 lines can't be read; the first: '1," in said.err
    assert "has 'half' in column 3 (qty)" in said.err
    assert "Forecast:" in said.out


@pytest.mark.skipif(not TRADES_ONLY.exists(), reason=ABSENT)
@pytest.mark.parametrize("symbol", ["BTCUSDT", "ETHUSDT"])
def test_the_recording_has_too_little_for_any_skill(symbol: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Eleven minutes of 5-second candles: too few for a claim of skill."""
    said = evaluated(capsys, TRADES_ONLY, "--symbol", symbol)
    assert "129 candles" in said
    assert f"Forecast: {NO_SKILL}" in said
    assert "on target (80 %)" in said
