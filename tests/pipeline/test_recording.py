"""The whole pipeline with recorded trades: every candle must be exact.

The simulator replays the recording over a real WebSocket. ``candleflow up`` runs the real producer, Kafka,
Spark and PostgreSQL. The oracle computes the expected candles from the recording's text and shares no code
with Candleflow.
"""

from __future__ import annotations

import gzip
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from candleflow import settings as settings_module
from candleflow.market.symbol import lower
from candleflow.store.reader import CandleReader
from tests import oracle
from tests.processes import ROOT, STOP_SECONDS, awaited, environment, started

CATCH_UP_SECONDS = 150
CHINESE = "币安人生USDT"
SYMBOLS = ("BTCUSDT", "ETHUSDT", CHINESE)


@dataclass(frozen=True)
class Run:
    """A running ``candleflow up``: its process, environment and log."""

    process: subprocess.Popen[bytes]
    environment: dict[str, str]
    log: Path

    def status(self) -> dict[str, Any]:
        """Return what ``status --json`` prints; an empty dict while nothing runs."""
        done = subprocess.run(
            [sys.executable, "-m", "candleflow", "status", "--json"],
            cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        return dict(json.loads(done.stdout)) if done.returncode == 0 else {}

    def said(self) -> str:
        return self.log.read_text()[-6_000:]


def free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def pipeline_on(
    recording: Path, folder: Path, *replay_options: str, symbols: Sequence[str] = SYMBOLS, **settings: str
) -> Iterator[Run]:
    """Run ``candleflow up`` with a recording that is replayed at full speed."""
    exchange, kafka, postgres, page = free_ports(4)
    variables = environment(
        symbols=",".join(symbols),
        exchange_ws_url=f"ws://127.0.0.1:{exchange}",
        exchange_rest_url=f"http://127.0.0.1:{exchange}",
        kafka_bootstrap=f"127.0.0.1:{kafka}",
        postgres_url=f"postgresql://candleflow@127.0.0.1:{postgres}/candleflow",
        dashboard_port=page,
        data_dir=folder / "data",
        **settings,
    )
    ours = [sys.executable, "-m", "candleflow"]
    replay = [*ours, "replay", str(recording), "--port", str(exchange), "--speed", "0", *replay_options]
    with (
        started(replay, variables, folder / "replay.log"),
        started([*ours, "up"], variables, folder / "up.log") as process,
    ):
        yield Run(process, variables, folder / "up.log")


def trades_in(status: dict[str, Any], interval: str) -> int:
    try:
        connection = psycopg2.connect(status["postgres_url"])
    except psycopg2.OperationalError:
        return 0
    with connection.cursor() as cursor:
        cursor.execute("SELECT coalesce(sum(trade_count), 0) FROM candles WHERE interval = %s", (interval,))
        (count,) = cursor.fetchone() or (0,)
    connection.close()
    return int(count)


def stored_when_all_are_in(
    run: Run, trades: int, interval: str = "5s"
) -> dict[tuple[Any, ...], oracle.OracleCandle]:
    """Return the stored candles once those of ``interval`` contain ``trades`` trades."""
    status = awaited(run.status, 90, run.said)

    awaited(lambda: trades_in(status, interval) >= trades, CATCH_UP_SECONDS, run.said)
    connection = psycopg2.connect(status["postgres_url"])
    try:
        return oracle.stored_candles(connection)
    finally:
        connection.close()


def with_a_symbol_beyond_ascii(recording: Path, folder: Path) -> Path:
    """Copy the recording; repeat its first trades of ETHUSDT as those of a symbol with a non-ASCII name."""
    named = folder / recording.name
    with gzip.open(recording, "rt") as lines, gzip.open(named, "wt", 1, encoding="utf-8") as out:
        left = 500
        for line in lines:
            out.write(line)
            if left and '"stream":"ethusdt@trade"' in line:
                out.write(line.replace("ethusdt", lower(CHINESE)).replace("ETHUSDT", CHINESE))
                left -= 1
    return named


def shown_on_the_page(run: Run, symbol: str) -> set[tuple[Any, ...]]:
    """Return the symbol's candles from the page's reader: open time, open, close, volume, trades."""
    given = {name: run.environment[f"CANDLEFLOW_{name.upper()}"] for name in ("postgres_url", "data_dir")}
    reader = CandleReader.from_settings(settings_module.load(**given))
    try:
        assert symbol in {one.symbol for one in reader.symbols()}
        return {
            (
                datetime.fromtimestamp(one.open_time / 1_000_000, UTC),
                one.open,
                one.close,
                one.volume,
                one.trade_count,
            )
            for one in reader.candles(symbol, 5, None, 2_000)
            if one.trade_count
        }
    finally:
        reader.close()


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("recording", "options"),
    [
        pytest.param(oracle.TRADES_ONLY, (), id="trades only"),
        pytest.param(
            oracle.ALL_STREAMS, ("--all-streams",), id="with every other stream", marks=pytest.mark.slow
        ),
    ],
)
def test_every_candle_of_a_recording_is_exact_the_whole_way(
    recording: Path, options: tuple[str, ...], tmp_path: Path
) -> None:
    if not recording.exists():
        pytest.skip(oracle.ABSENT)
    recording = with_a_symbol_beyond_ascii(recording, tmp_path)
    trades = list(oracle.recorded_trades(recording))
    expected = oracle.all_intervals(trades)
    with pipeline_on(recording, tmp_path, *options) as run:
        found = stored_when_all_are_in(run, len(trades))
        assert shown_on_the_page(run, CHINESE) == {
            (at, one.open, one.close, one.volume, one.trade_count)
            for (symbol, name, at), one in expected.items()
            if (symbol, name) == (CHINESE, "5s")
        }
        assert oracle.differences(expected, found) == []
        for key, kline in oracle.published_klines().items():
            assert {name: getattr(found[key], name) for name in kline} == kline, key

        counts = awaited(lambda: _settled_counts(run, len(trades)), 20, run.said)
        assert counts["received"] == counts["published"] + counts["duplicate"] + counts["rejected"]
        assert (counts["duplicate"], counts["rejected"]) == (0, 0)

        # Without the simulator: here the test starts it, not `up`.
        pids = [process["pid"] for process in run.status()["processes"] if process["name"] != "simulator"]
        run.process.send_signal(signal.SIGTERM)
        assert run.process.wait(STOP_SECONDS) == 0, run.said()
        assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_sliding_windows_are_exact_and_roll_up_once(tmp_path: Path) -> None:
    if not oracle.TRADES_ONLY.exists():
        pytest.skip(oracle.ABSENT)
    trades = list(oracle.recorded_trades(oracle.TRADES_ONLY))
    expected = oracle.all_intervals(trades)
    with pipeline_on(oracle.TRADES_ONLY, tmp_path, symbols=SYMBOLS[:2], slide_seconds="1") as run:
        found = stored_when_all_are_in(run, len(trades), "1d")
    sliding = {key: candle for key, candle in found.items() if key[1] == "5s/1s"}
    rolled = {key: candle for key, candle in found.items() if key[1] != "5s/1s"}
    assert oracle.differences({k: c for k, c in expected.items() if k[1] != "5s"}, rolled) == []
    assert sum(candle.trade_count for candle in sliding.values()) == 5 * len(trades)
    fields = [name for name in oracle.FIELDS if name not in ("interval", "is_complete")]
    for (symbol, _, open_time), candle in ((k, c) for k, c in expected.items() if k[1] == "5s"):
        same = sliding[symbol, "5s/1s", open_time]
        assert [getattr(same, n) for n in fields] == [getattr(candle, n) for n in fields]


def _settled_counts(run: Run, trades: int) -> dict[str, int]:
    """Return the producer's counts once every trade has been published; before that an empty dict."""
    for process in run.status().get("processes", []):
        counts: dict[str, int] = process.get("counts", {})
        if process["name"] == "producer" and counts.get("published", 0) >= trades:
            return counts
    return {}
