"""``prove`` as a user runs it, with a local server that has the archive's layout and the oracle's klines."""

from __future__ import annotations

import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from fractions import Fraction
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest

from candleflow.market.window import SECOND_US
from candleflow.simulator.market import SeededMarket
from tests import oracle
from tests.processes import ROOT, environment
from tests.unit.exchange.test_archive import _Quiet, checksum

SYMBOL: Final = "BTCUSDT"
MADE_UP: Final = date(2026, 1, 5)
RECORDED: Final = date(2024, 8, 8)
VALUES: Final = (
    "open", "high", "low", "close", "volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume",
)  # fmt: skip
SECONDS: Final = {"1s": 1, "1m": 60}
CLOSE: Final = 4
"""The column of a kline's close."""

Trade = dict[str, Any]


def seconds_of(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


def text_of(value: Fraction) -> str:
    """Format a number with sixteen decimal places; no sum here needs more."""
    units = value * 10**16
    assert units.denominator == 1
    return f"{units.numerator // 10**16}.{units.numerator % 10**16:016d}"


def klines_of(trades: Sequence[Trade], interval: str, day: date) -> list[dict[str, Any]]:
    """Return a day's klines from its first trade on. One without trades repeats the previous close."""
    size = SECONDS[interval]
    candles = {
        int(key[2].timestamp()): candle for key, candle in oracle.candles(trades, size, interval).items()
    }
    rows = []
    close = Fraction(0)
    for opens in range(seconds_of(day), seconds_of(day) + 86_400, size):
        candle = candles.get(opens)
        close = candle.close if candle else close
        values = {name: getattr(candle, name, Fraction(0)) for name in VALUES}
        if candle is None:
            values |= dict.fromkeys(VALUES[:4], close)
        rows.append({"opens": opens, "count": candle.trade_count if candle else 0, **values})
    return rows


def kline_line(row: Mapping[str, Any], interval: str, unit: int) -> str:
    opens = row["opens"] * 1_000 * unit
    closes = opens + SECONDS[interval] * 1_000 * unit - 1
    first = ",".join(text_of(row[name]) for name in ("open", "high", "low", "close", "volume"))
    taker = ",".join(text_of(row[name]) for name in ("taker_buy_volume", "taker_buy_quote_volume"))
    return f"{opens},{first},{closes},{text_of(row['quote_volume'])},{row['count']},{taker},0\n"


def trade_line(trade: Trade) -> str:
    quote = text_of(Fraction(trade["p"]) * Fraction(trade["q"]))
    return f"{trade['t']},{trade['p']},{trade['q']},{quote},{trade['T']},{trade['m']},True\n"


@dataclass
class Archive:
    """A served folder with the layout of the exchange's archive."""

    folder: Path
    url: str
    files: dict[str, Path] = field(default_factory=dict)

    def has_all(self, day: date, lines: Mapping[str, Sequence[str]]) -> None:
        """Publish a day's trades and klines."""
        for kind, lines_of_kind in lines.items():
            self.has(kind, day, lines_of_kind)

    def has(self, kind: str, day: date, lines: Sequence[str]) -> None:
        """Publish a day's trades, or its klines for an interval."""
        below = f"trades/{SYMBOL}" if kind == "trades" else f"klines/{SYMBOL}/{kind}"
        file = self.folder / "data/spot/daily" / below / f"{SYMBOL}-{kind}-{day}.zip"
        file.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
            out.writestr(f"{file.stem}.csv", "".join(lines))
        checksum(file)
        self.files[kind] = file

    def prove(self, folder: Path, day: date, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "candleflow", "prove", "--symbol", SYMBOL, "--date", f"{day}", *options],
            cwd=ROOT, env=environment(archive_url=self.url, data_dir=folder, kafka_memory="256m"),
            capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    folder = tmp_path / "archive"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Archive(folder, f"http://127.0.0.1:{server.server_address[1]}")
        server.shutdown()


@pytest.fixture(scope="module")
def made_up() -> list[Trade]:
    """A day of the seeded market: 8,600 trades, so most seconds have none; times in microseconds."""
    market = SeededMarket(7, 0.1, [SYMBOL])
    since = seconds_of(MADE_UP) * SECOND_US
    ids = (market.id_at(SYMBOL, since), market.id_at(SYMBOL, since + 86_400 * SECOND_US))
    return [
        {"s": SYMBOL, "t": one.trade_id, "p": f"{one.price:f}", "q": f"{one.quantity:f}",
         "T": one.trade_time, "m": one.buyer_is_maker}
        for one in market.trades(SYMBOL, ids)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def made_up_lines(made_up: list[Trade]) -> Mapping[str, list[str]]:
    """The lines of each file of that day: ``trades``, and the klines of each interval."""
    return lines_of(made_up, MADE_UP, 1_000)


def lines_of(trades: Sequence[Trade], day: date, unit: int) -> Mapping[str, list[str]]:
    return {"trades": [trade_line(one) for one in trades]} | {
        interval: [kline_line(row, interval, unit) for row in klines_of(trades, interval, day)]
        for interval in SECONDS
    }


def counts(done: subprocess.CompletedProcess[str], interval: str) -> list[int]:
    """Return the interval's counts: equal, different, missing, extra, incomplete, not comparable."""
    line = next(line for line in done.stdout.splitlines() if line.split()[:1] == [interval])
    return [int(one.replace(",", "")) for one in line.split()[1:]]


@pytest.mark.timeout(180)
def test_a_whole_day_is_proved_down_to_its_only_daily_candle(
    archive: Archive, made_up: list[Trade], made_up_lines: Mapping[str, list[str]], tmp_path: Path
) -> None:
    archive.has_all(MADE_UP, made_up_lines)
    done = archive.prove(tmp_path / "data", MADE_UP)
    assert done.returncode == 0, done.stderr
    windows = {"5s": 17_280, "1m": 1_440, "5m": 288, "15m": 96, "1h": 24, "1d": 1}
    assert {name: counts(done, name) for name in windows} == {
        name: [count, 0, 0, 0, 0, 0] for name, count in windows.items()
    }
    assert f"{len(made_up):,} trades sent, {len(made_up):,} stored" in done.stdout
    assert done.stdout.splitlines()[-1] == "PROVED: 19,129 candles compared, 19,129 equal, 0 not"
    assert list((tmp_path / "data").iterdir()) == [], "the data folder is removed"


@pytest.mark.timeout(180)
def test_a_wrong_kline_and_a_missing_trade_are_each_found(
    archive: Archive, made_up: list[Trade], made_up_lines: Mapping[str, list[str]], tmp_path: Path
) -> None:
    since = seconds_of(MADE_UP)
    early = [one for one in made_up if one["T"] < (since + 600) * SECOND_US]
    lost, wrong = early[5], early[15]
    seconds = [*made_up_lines["1s"]]
    values = seconds[wrong["T"] // SECOND_US - since].split(",")
    values[CLOSE] = text_of(Fraction(values[CLOSE]) + Fraction(1, 10**8))
    seconds[wrong["T"] // SECOND_US - since] = ",".join(values)
    trades = [one for one in made_up_lines["trades"] if one != trade_line(lost)]
    archive.has_all(MADE_UP, {**made_up_lines, "trades": trades, "1s": seconds})

    done = archive.prove(tmp_path / "data", MADE_UP, "--minutes", "10", "--keep")
    assert done.returncode == 1, done.stderr
    finest = counts(done, "5s")
    assert (sum(finest), finest[0]) == (120, 118), done.stdout
    assert counts(done, "1m")[0] == 9, "only the lost trade's minute differs"
    assert counts(done, "5m")[0] == 1
    window = datetime.fromtimestamp(wrong["T"] // SECOND_US // 5 * 5, UTC).replace(tzinfo=None)
    assert f"5s {window.isoformat()}Z different" in done.stdout
    assert done.stdout.splitlines()[-1] == "NOT PROVED: 132 candles compared, 128 equal, 4 not"
    (kept,) = (tmp_path / "data").iterdir()
    assert f"the data folder is kept: {kept}" in done.stderr
    assert (kept / "data" / "postgres").is_dir()


def test_a_bad_checksum_an_absent_day_and_no_network_are_one_sentence_each(
    archive: Archive, made_up_lines: Mapping[str, list[str]], tmp_path: Path
) -> None:
    archive.has_all(MADE_UP, made_up_lines)
    checksum(archive.files["1m"], "0" * 64)
    absent = archive.prove(tmp_path / "data", date(2026, 1, 4))
    bad = archive.prove(tmp_path / "data", MADE_UP)
    archive.url = "http://127.0.0.1:1"
    away = archive.prove(tmp_path / "data", MADE_UP)
    for done, words in (
        (absent, "doesn't exist: the archive publishes"),
        (bad, "doesn't match its checksum"),
        (away, "can't be fetched"),
    ):
        assert done.returncode == 1
        assert words in done.stderr.splitlines()[-1]
        assert "Starting" not in done.stderr
        assert done.stdout == ""


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_recorded_trades_give_the_klines_that_binance_published(archive: Archive, tmp_path: Path) -> None:
    if not oracle.TRADES_ONLY.exists():
        pytest.skip(oracle.ABSENT)
    midnight = (seconds_of(RECORDED) + 86_400) * 1_000
    trades = [
        one
        for one in oracle.recorded_trades(oracle.TRADES_ONLY)
        if one["s"] == SYMBOL and one["T"] < midnight
    ]
    archive.has_all(RECORDED, lines_of(trades, RECORDED, 1))
    rows = {row["opens"]: row for row in klines_of(trades, "1m", RECORDED)}
    published = {
        int(at.timestamp()): kline
        for (symbol, _, at), kline in oracle.published_klines().items()
        if symbol == SYMBOL and at.date() == RECORDED
    }
    assert len(published) == 5
    for opens, kline in published.items():
        rows[opens] |= kline
    archive.has("1m", RECORDED, [kline_line(row, "1m", 1) for row in rows.values()])

    done = archive.prove(tmp_path / "data", RECORDED, "--from", "23:55", "--to", "24:00")
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.splitlines()[-1] == "PROVED: 66 candles compared, 66 equal, 0 not"
