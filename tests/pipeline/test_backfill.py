"""``backfill`` with real PostgreSQL and Spark, from a local HTTP server or file, checked by the oracle."""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from candleflow.engine import archive as lines_module
from candleflow.engine.archive import NOT_A_LINE
from candleflow.engine.folding import BatchFold
from candleflow.engine.trades import REASON
from candleflow.errors import ExchangeError, SettingError
from candleflow.history import backfill
from candleflow.market.payload import decode_payload
from candleflow.market.trade import Trade
from candleflow.stack.spark import run_backfill
from tests import oracle
from tests.processes import ROOT, environment
from tests.store.processor import Processor
from tests.store.trades import FIVE_SECONDS
from tests.store_fixtures import Database
from tests.unit.exchange.test_archive import _Quiet, checksum

DAY = date(2024, 8, 8)
SINCE_MS = 1_723_075_200_000


@dataclass
class Archive:
    """A folder served like the exchange's archive, and a database to load into."""

    folder: Path
    url: str
    database: Database

    def has(self, symbol: str, trades: Iterable[dict[str, Any]], unit: int = 1, day: date = DAY) -> Path:
        """Add a day's file; times in milliseconds times ``unit``."""
        file = self.folder / f"data/spot/daily/trades/{symbol}/{symbol}-trades-{day}.zip"
        file.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
            out.writestr(file.with_suffix(".csv").name, "".join(line_of(one, unit) for one in trades))
        checksum(file)
        return file

    def backfill(
        self,
        symbol: str,
        file: Path | None = None,
        day: date = DAY,
        *,
        is_month: bool = False,
        **settings: Any,
    ) -> int:
        loaded = self.database.settings_with(archive_url=self.url, **settings)
        return run_backfill(loaded, argparse.Namespace(symbol=symbol, date=(day, is_month), file=file))

    def candles(self) -> dict[tuple[Any, ...], oracle.OracleCandle]:
        return oracle.stored_candles(self.database.reader())

    def asked(self, query: str) -> list[tuple[Any, ...]]:
        with self.database.reader().cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()


def line_of(trade: dict[str, Any], unit: int = 1) -> str:
    return f"{trade['t']},{trade['p']},{trade['q']},0.0,{trade['T'] * unit},{trade['m']},True\n"


def made_up(count: int, symbol: str = "BTCUSDT") -> list[dict[str, Any]]:
    """Make ``count`` trades, one every three seconds."""
    return [
        {"s": symbol, "t": 1_000 + n, "p": f"{60_000 + n % 97}.5", "q": f"0.{n % 9 + 1:05}",
         "T": SINCE_MS + 3_000 * n, "m": n % 3 == 0}
        for n in range(count)
    ]  # fmt: skip


@pytest.fixture
def archive(
    tmp_path: Path, database: Database, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Archive]:
    """Use the test session's Spark instead of starting one per command."""

    @contextmanager
    def session(*_: object) -> Iterator[SparkSession]:
        yield spark

    monkeypatch.setattr(backfill, "_session", session)
    folder = tmp_path / "archive"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Archive(folder, f"http://127.0.0.1:{server.server_address[1]}", database)
        server.shutdown()


@pytest.mark.slow
def test_a_recorded_day_is_exact_in_milliseconds_and_in_microseconds(
    archive: Archive, capsys: pytest.CaptureFixture[str]
) -> None:
    if not oracle.TRADES_ONLY.exists():
        pytest.skip(oracle.ABSENT)
    trades = list(oracle.recorded_trades(oracle.TRADES_ONLY))
    midnight = SINCE_MS + 86_400_000
    for symbol, unit in (("BTCUSDT", 1), ("ETHUSDT", 1_000)):
        for day in (DAY, DAY + timedelta(days=1)):
            its = [one for one in trades if one["s"] == symbol and (one["T"] < midnight) == (day == DAY)]
            archive.has(symbol, its, unit, day)
            assert archive.backfill(symbol, day=day) == 0
    assert oracle.differences(oracle.all_intervals(trades), archive.candles()) == []
    assert archive.asked("SELECT DISTINCT source, is_closed, revision FROM candles") == [("archive", True, 0)]
    found = archive.candles()
    for key, kline in oracle.published_klines().items():
        assert {name: getattr(found[key], name) for name in kline} == kline, key

    # A second run changes nothing, and reports that.
    before = archive.asked("SELECT * FROM candles ORDER BY 1, 2, 3")
    capsys.readouterr()
    assert archive.backfill("BTCUSDT") == 0
    assert archive.asked("SELECT * FROM candles ORDER BY 1, 2, 3") == before
    count = f"{sum(one['s'] == 'BTCUSDT' and one['T'] < midnight for one in trades):,}"
    assert capsys.readouterr().out.split()[-7:-1] == [str(DAY), count, "0", count, "0", "0"]
    assert list(archive.database.settings.stack.data_path.glob("backfill-*")) == []


@pytest.mark.parametrize(
    "slide", [pytest.param(5, id="tumbling"), pytest.param(1, id="sliding", marks=pytest.mark.slow)]
)
def test_with_existing_candles_each_trade_counts_once(archive: Archive, slide: int) -> None:
    """With live trades before, between and after those of the file, and with duplicate lines."""
    trades = made_up(3_000)
    windows = archive.database.settings_with(slide_seconds=slide).windows
    live = Processor(archive.database.writer(), windows)
    live.merge([trade_of(one) for one in trades if one["t"] % 700 < 50])
    archive.has("BTCUSDT", sorted([*trades, *trades[100:130]], key=lambda one: one["t"]))
    assert archive.backfill("BTCUSDT", slide_seconds=slide) == 0
    found = archive.candles()
    expected = oracle.all_intervals(trades)
    if slide == 5:
        assert oracle.differences(expected, found) == []
    else:
        tiled = {k: replace(c, is_complete=False) for k, c in expected.items() if k[1] == "5s"}
        ours = {
            (s, "5s", at): replace(c, interval="5s", is_complete=False)
            for (s, name, at), c in found.items()
            if name == "5s/1s" and (s, "5s", at) in tiled
        }
        assert oracle.differences(tiled, ours) == []
        rest = [{k: c for k, c in one.items() if not k[1].startswith("5s")} for one in (expected, found)]
        assert oracle.differences(*rest) == []
        sliding = [c for k, c in found.items() if k[1] == "5s/1s"]
        assert sum(one.trade_count for one in sliding) == 5 * len(trades)


def trade_of(payload: dict[str, Any]) -> Trade:
    text = (
        f'{{"e":"trade","E":1,"s":"{payload["s"]}","t":{payload["t"]},"p":"{payload["p"]}",'
        f'"q":"{payload["q"]}","T":{payload["T"]},"m":{str(payload["m"]).lower()},"M":true}}'
    )
    found = decode_payload(text.encode(), SINCE_MS * 1_000 + 10**12, 0)
    assert isinstance(found, Trade)
    return found


def test_live_trades_after_a_backfill_count_once(archive: Archive) -> None:
    trades = made_up(1_000)
    archive.has("BTCUSDT", trades[:600])
    assert archive.backfill("BTCUSDT") == 0
    Processor(archive.database.writer(), FIVE_SECONDS).merge([trade_of(one) for one in trades[500:]])
    assert oracle.differences(oracle.all_intervals(trades), archive.candles()) == []


def test_a_wrong_checksum_loads_nothing(archive: Archive) -> None:
    file = archive.has("BTCUSDT", made_up(10))
    checksum(file, hashlib.sha256(b"another").hexdigest())
    with pytest.raises(ExchangeError, match="nothing was loaded"):
        archive.backfill("BTCUSDT")
    assert archive.candles() == {}


def test_a_day_missing_in_the_archive_is_an_error(archive: Archive) -> None:
    with pytest.raises(ExchangeError, match="some hours after the day's end"):
        archive.backfill("BTCUSDT")


@pytest.mark.parametrize("name", ["mine.csv", "mine.zip"])
def test_a_local_file_is_loaded(archive: Archive, tmp_path: Path, name: str) -> None:
    trades = made_up(100)
    text = "id,price,qty,quoteQty,time,isBuyerMaker,isBestMatch\n" + "".join(map(line_of, trades))
    file = tmp_path / name
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w") as out:
            out.writestr("mine.csv", text)
    else:
        file.write_text(text)
    assert archive.backfill("BTCUSDT", file) == 0
    assert oracle.differences(oracle.all_intervals(trades), archive.candles()) == []


def test_invalid_lines_are_reported_and_the_rest_is_loaded(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trades = made_up(100)
    rows = [line_of(one) for one in trades]
    rows[50] = "1050,60050.5,0.00001,nonsense\n"
    rows[60] = rows[60].replace(str(trades[60]["T"]), str(trades[60]["T"] + 86_400_000))
    file = tmp_path / "mine.csv"
    file.write_text("".join(rows))
    assert archive.backfill("BTCUSDT", file) == 1
    kept = [one for number, one in enumerate(trades) if number not in (50, 60)]
    assert oracle.differences(oracle.all_intervals(kept), archive.candles()) == []
    said = capsys.readouterr().err
    assert "1 lines rejected: trade time on another day" in said
    assert "the first one: '1050,60050.5,0.00001,nonsense'" in said
    assert "not a line of spot trades (id,price,qty,quote_qty,time,is_buyer_maker,is_best_match)" in said
    assert "it has 4 columns" in said


AWKWARD = [
    "plain", "a b", "josé", "币安", "a,b", "{a,b}", "[ab]", "what?", "st*r", "back\\slash", "100%41", "a#b",
    "a:b", "a\ttab", "'quoted'", '"twice"', "$HOME", "-dash", "trailing ",
]  # fmt: skip
"""Valid folder names with characters that are special to Hadoop, Spark, a URI or a shell."""


def test_lines_are_read_below_a_folder_of_any_name(spark: SparkSession, tmp_path: Path) -> None:
    files = {name: tmp_path / name / "part-00000.csv" for name in AWKWARD}
    for name, file in files.items():
        file.parent.mkdir()
        file.write_text(f"{name}\n")
    found = {name: lines_module.read_lines(spark, file).first() for name, file in files.items()}
    assert {name: row and row["line"] for name, row in found.items()} == {name: name for name in AWKWARD}


@pytest.mark.parametrize("is_month", [False, True])
def test_an_unusual_but_valid_file_is_loaded(archive: Archive, tmp_path: Path, *, is_month: bool) -> None:
    """A month's file zipped on macOS, hours unsorted, below oddly named folders: one day or all of it."""
    trades = made_up(3_000)
    another_day = [{**one, "t": one["t"] + 3_000, "T": one["T"] + 86_400_000} for one in trades]
    rows = [line_of(one) for one in trades]
    rows[0] = rows[0].replace(trades[0]["q"], f"{float(trades[0]['q']):.1E}")
    mixed = [row for start in range(500) for row in rows[start::500]]
    file = tmp_path / "from, [josé] {a b}" / "BTCUSDT-trades-2024-08.zip"
    file.parent.mkdir()
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("BTCUSDT-trades-2024-08.csv", "".join([*mixed, *map(line_of, another_day)]))
        out.writestr("__MACOSX/._BTCUSDT-trades-2024-08.csv", b"\x00\x05\x16\x07")
        out.writestr(".DS_Store", b"\x00\x00\x00\x01Bud1")
    data_dir = tmp_path / "data, [josé] {a b}"
    shutil.copytree(archive.database.settings.stack.data_path, data_dir)  # including the passwords
    day = DAY.replace(day=1) if is_month else DAY
    assert archive.backfill("BTCUSDT", file, day, is_month=is_month, data_dir=data_dir) == 0
    expected = trades + (another_day if is_month else [])
    assert oracle.differences(oracle.all_intervals(expected), archive.candles()) == []


def test_a_file_of_another_format_or_day_is_rejected_at_once(archive: Archive, tmp_path: Path) -> None:
    file = tmp_path / "BTCUSDT-aggTrades-2024-08-08.csv"
    file.write_text("1,1.0,1.0,1,1,1723075200000,True,True\n")
    with pytest.raises(
        ExchangeError, match=r"aggTrades-2024-08-08.csv.*id,price,qty.*8 columns, as spot aggT"
    ):
        archive.backfill("BTCUSDT", file)
    month = tmp_path / "mine.csv"
    month.write_text("".join(map(line_of, made_up(100))))
    with pytest.raises(ExchangeError, match=r"begins at 2024-08-08 00:00 UTC.*BTCUSDT-trades-2024-08.zip"):
        archive.backfill("BTCUSDT", month, DAY + timedelta(days=1))


ANOTHERS_RECORD = (
    '{"e":"trade","E":1,"s":"ETHUSDT","t":1,"p":"1","q":"1","T":1723075200000,"m":true,"M":true}'
)
"""A valid record of the topic. As a line of BTCUSDT's archive it must not become a trade of ETHUSDT."""
LINES = {
    "1,61837.63,0.02,1236.7526,1723075200000,True,True": None,
    "1,61837.63,0.02,1236.7526,1723075200000123,false,true\r": None,
    "": NOT_A_LINE,
    "1,61837.63,0.02,1236.7526,1723075200000,True": NOT_A_LINE,
    "1,61837.63,0.02,1236.7526,1723075200000,True,True,1": NOT_A_LINE,
    "-1,61837.63,0.02,1236.7526,1723075200000,True,True": NOT_A_LINE,
    "1,6.1e4,0.02,1236.7526,1723075200000,True,True": NOT_A_LINE,
    "1,61837.63,0.02,1236.7526,1723075200000,maybe,True": NOT_A_LINE,
    ANOTHERS_RECORD: NOT_A_LINE,
    "9223372036854775807,61837.63,0.02,1.0,1723075200000,True,True": "trade id out of range",
    "1,0.0,0.02,1.0,1723075200000,True,True": "price not a finite positive decimal",
    "1,1.0,0.000000001,1.0,1723075200000,True,True": "quantity has more than 8 decimal places",
    "1,100000000000,1,1.0,1723075200000,True,True": "price out of range",
    "1,99999999999,999999999999,1.0,1723075200000,True,True": "notional out of range",
    "1,1.0,1.0,1.0,1723161600000,True,True": lines_module.ANOTHER_DAY,
    "1,1.0,1.0,1.0,1723075199999,True,True": lines_module.ANOTHER_DAY,
    "1,1.0,1.0,1.0,9999999999999999999,True,True": "trade time out of range",
}


def test_each_line_is_accepted_or_rejected_with_its_reason(spark: SparkSession) -> None:
    given = spark.createDataFrame(list(enumerate(LINES)), "offset long, line string")
    day = backfill.Day("BTCUSDT", DAY)
    fold = BatchFold(FIVE_SECONDS)
    judged, folded = lines_module.read(lines_module.records(given, "BTCUSDT"), day.since, day.until, fold)
    assert folded.rejected == Counter(reason for reason in LINES.values() if reason is not None)
    assert folded.sound == 2
    rows = judged.orderBy("offset").collect()
    assert {line: row[REASON] for line, row in zip(LINES, rows, strict=True)} == LINES
    assert [row["trade_time"] for row in rows[:2]] == [day.since, day.since + 123]
    assert [row["is_taker_buy"] for row in rows[:2]] == [False, True]
    assert lines_module.first_rejected(judged, given) == ("", NOT_A_LINE)


def test_trades_of_another_market_are_rejected(archive: Archive) -> None:
    for exchange in ("simulator", "binance-us"):
        with pytest.raises(SettingError, match="CANDLEFLOW_EXCHANGE"):
            archive.backfill("BTCUSDT", exchange=exchange)
    for name, says in ((f"ETHUSDT-trades-{DAY}.zip", "not ETHUSDT on"), ("mine.zip", "no such file")):
        with pytest.raises(SettingError, match=says):
            archive.backfill("BTCUSDT", Path(name))


@pytest.mark.slow
def test_the_command_as_a_separate_process(archive: Archive, tmp_path: Path) -> None:
    trades = made_up(2_000)
    archive.has("BTCUSDT", trades)
    settings = archive.database.settings
    variables = environment(
        postgres_url=settings.postgres.url.get_secret_value(),
        postgres_password=archive.database.owner_password,
        data_dir=settings.stack.data_dir,
        archive_url=archive.url,
        spark_memory="500m",
    )
    done = subprocess.run(
        [sys.executable, "-m", "candleflow", "backfill", "--symbol", "btcusdt", "--date", str(DAY)],
        cwd=ROOT, env=variables, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2,000" in done.stdout
    assert oracle.differences(oracle.all_intervals(trades), archive.candles()) == []
    assert "ERROR" not in done.stderr
