"""``verify`` as a separate process, with real PostgreSQL and the simulator's REST over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest
from rich.progress import Progress
from websockets.asyncio.client import connect

from candleflow.audit.klines import Verdict
from candleflow.audit.verify import verify
from candleflow.audit.verify_report import Asked
from candleflow.errors import ExchangeError
from candleflow.market.candle import fold
from candleflow.market.trade import Trade
from candleflow.market.window import SECOND_US, Windows
from candleflow.simulator.audience import Faults
from candleflow.simulator.market import SeededMarket
from candleflow.simulator.recording import Recording
from candleflow.simulator.server import Simulator
from candleflow.stack.process import free_port
from candleflow.store.reader import CandleReader
from tests import oracle
from tests.store.processor import Processor
from tests.store.trades import FIVE_SECONDS
from tests.store_fixtures import Database

ROOT: Final = Path(__file__).resolve().parents[2]
SYMBOL: Final = "BTCUSDT"
RATE: Final = 0.4
"""Trades a second: one in seven windows of 5 s has no trade."""
SINCE: Final = int(datetime(2026, 1, 5, 10, tzinfo=UTC).timestamp()) * SECOND_US
SPAN_US: Final = 2_400 * SECOND_US
"""Three requests of 1 s klines: each returns up to 1,000."""
UNTIL: Final = SINCE + SPAN_US


def text_of(time_us: int) -> str:
    return f"{datetime.fromtimestamp(time_us // SECOND_US, UTC):%Y-%m-%dT%H:%M:%S}"


async def verify_process(
    database: Database, simulator: Simulator, *options: str, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run ``verify`` as a separate process."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CANDLEFLOW_")} | {
        "PYTHONPATH": str(ROOT),
        "CANDLEFLOW_EXCHANGE_WS_URL": simulator.ws_url,
        "CANDLEFLOW_EXCHANGE_REST_URL": simulator.rest_url,
        "CANDLEFLOW_POSTGRES_URL": database.settings.postgres.url.get_secret_value(),
        "CANDLEFLOW_POSTGRES_PASSWORD": database.owner_password,
        "CANDLEFLOW_DATA_DIR": str(database.data_dir),
        **{f"CANDLEFLOW_{name.upper()}": value for name, value in settings.items()},
    }
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "candleflow", "verify", *options],
        cwd=database.data_dir, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """Forty minutes of the simulated market from SINCE on, and a database for their candles."""

    market: SeededMarket
    simulator: Simulator
    database: Database

    def trades(self) -> list[Trade]:
        """Return the trades of the forty minutes, and some around them, so that all candles are complete.

        Times are in whole milliseconds, as in the stream.
        """
        ids = (
            self.market.id_at(SYMBOL, SINCE) - 1,
            self.market.id_at(SYMBOL, UNTIL + 60 * SECOND_US),
        )
        return [
            replace(one, trade_time=one.trade_time // 1_000 * 1_000)
            for one in self.market.trades(SYMBOL, ids)
        ]

    def open_times(self, windows: Windows) -> list[int]:
        """Return the open times of the forty minutes' candles."""
        found = [open_time for _, _, open_time in fold(self.trades(), windows)]
        return sorted(one for one in found if SINCE <= one < UNTIL)

    def store(self, trades: Sequence[Trade], windows: Windows = FIVE_SECONDS) -> None:
        processor = Processor(self.database.writer(), windows)
        processor.merge(trades)
        processor.close_quiet(UNTIL)

    def as_owner(self, statement: str, *arguments: object) -> None:
        """Change one candle directly in the table."""
        with self.database.owner().cursor() as cursor:
            cursor.execute(statement, arguments)
            assert cursor.rowcount == 1

    async def verify(self, *options: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run the command on the forty minutes."""
        stretch = ("--from", text_of(SINCE), "--to", text_of(UNTIL))
        return await verify_process(self.database, self.simulator, *stretch, *options, **settings)

    async def json(self, status: int, **settings: str) -> dict[str, Any]:
        done = await self.verify("--json", **settings)
        assert done.returncode == status, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        assert found["differs"] is (status == 1)
        return found


@pytest.fixture
async def stage(database: Database) -> AsyncIterator[Stage]:
    market = SeededMarket(7, RATE, [SYMBOL])
    async with Simulator(market) as simulator:
        yield Stage(market, simulator, database)


@pytest.mark.parametrize(
    "windows",
    [FIVE_SECONDS, Windows.of_seconds(5, 1), Windows.of_seconds(60)],
    ids=["tumbling", "sliding", "a minute"],
)
async def test_candles_from_the_exchanges_trades_equal_its_klines(stage: Stage, windows: Windows) -> None:
    stage.store(stage.trades(), windows)
    size, slide = windows.size_us // SECOND_US, windows.slide_us // SECOND_US
    found = await stage.json(0, window_seconds=str(size), slide_seconds=str(slide))
    judged = range(SINCE, UNTIL - windows.size_us + 1, windows.slide_us)
    held = [one for one in stage.open_times(windows) if one in judged]
    assert size == 60 or 0 < len(held) < len(judged), "some windows must have no trades"
    equal = {name: counts.pop("equal") for name, counts in found["intervals"].items()}
    assert equal == {windows.interval: len(judged), "1m": 40}
    assert not any(count for counts in found["intervals"].values() for count in counts.values())
    assert found["windows"] == []


async def test_only_an_altered_field_is_reported(stage: Stage) -> None:
    stage.store(stage.trades())
    opens = stage.open_times(FIVE_SECONDS)[7]
    minute = SINCE + 3 * 60 * SECOND_US
    change = "UPDATE candles SET {} WHERE interval = %s AND open_time = to_timestamp(%s)"
    stage.as_owner(change.format("quote_volume = quote_volume + 0.00000001"), "5s", opens / SECOND_US)
    stage.as_owner(change.format("low = low / 2"), "1m", minute / SECOND_US)
    found = await stage.json(1)
    assert {name: (one["equal"], one["different"]) for name, one in found["intervals"].items()} == {
        "5s": (479, 1),
        "1m": (39, 1),
    }
    altered = {(one["interval"], one["open_time"]): one for one in found["windows"]}
    assert altered.keys() == {("5s", text_of(opens) + "Z"), ("1m", text_of(minute) + "Z")}
    assert {one["verdict"] for one in altered.values()} == {"different"}
    finest, rolled = altered["5s", text_of(opens) + "Z"], altered["1m", text_of(minute) + "Z"]
    assert list(finest["fields"]) == ["quote_volume"]
    values = {side: Decimal(value) for side, value in finest["fields"]["quote_volume"].items()}
    assert values["ours"] - values["theirs"] == Decimal("0.00000001")
    assert list(rolled["fields"]) == ["low"]
    values = {side: Decimal(value) for side, value in rolled["fields"]["low"].items()}
    assert values["ours"] * 2 == values["theirs"]

    shown = await stage.verify()
    assert shown.returncode == 1
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert ["5s", "479", "1", "0", "0", "0", "0"] in lines
    fields = finest["fields"]["quote_volume"]
    window = lines.index(["5s", text_of(opens) + "Z", "different"])
    assert lines[window + 1] == ["quote_volume", fields["ours"], fields["theirs"]]
    assert "2 windows differ from the exchange's klines, 518 are equal" in shown.stdout


async def test_a_candle_in_another_window_is_missing_in_one_and_extra_in_the_other(stage: Stage) -> None:
    stage.store(stage.trades())
    held = stage.open_times(FIVE_SECONDS)
    quiet = next(at for at in range(SINCE, UNTIL, 5 * SECOND_US) if at not in held)
    stage.as_owner(
        "UPDATE candles SET open_time = to_timestamp(%s), end_time = to_timestamp(%s) "
        "WHERE interval = '5s' AND open_time = to_timestamp(%s)",
        quiet / SECOND_US, quiet / SECOND_US + 5, held[20] / SECOND_US,
    )  # fmt: skip
    found = await stage.json(1)
    verdicts = {(one["open_time"], one["verdict"]) for one in found["windows"]}
    assert verdicts == {(text_of(held[20]) + "Z", "missing"), (text_of(quiet) + "Z", "extra")}
    assert found["intervals"]["1m"]["equal"] == 40


async def test_a_deleted_candle_is_missing(stage: Stage) -> None:
    stage.store(stage.trades())
    opens = stage.open_times(FIVE_SECONDS)[11]
    statement = "DELETE FROM candles WHERE interval = '5s' AND open_time = to_timestamp(%s)"
    stage.as_owner(statement, opens / SECOND_US)
    (window,) = (await stage.json(1))["windows"]
    assert (window["open_time"], window["verdict"]) == (text_of(opens) + "Z", "missing")
    assert window["fields"]["trade_count"]["ours"] == 0 < window["fields"]["trade_count"]["theirs"]


async def test_lost_trades_that_the_ids_show_are_incomplete_not_different(stage: Stage) -> None:
    trades = [one for one in stage.trades() if SINCE <= one.trade_time < UNTIL]
    lost = next(
        one
        for before, one, after in zip(trades[50:], trades[51:], trades[52:], strict=False)
        if before.trade_time // (5 * SECOND_US)
        == one.trade_time // (5 * SECOND_US)
        < after.trade_time // (5 * SECOND_US)
    )
    stage.store([one for one in stage.trades() if one.trade_id != lost.trade_id])
    found = await stage.json(0)
    assert [(one["interval"], one["verdict"]) for one in found["windows"]] == [
        ("1m", "incomplete"),
        ("5s", "incomplete"),
    ]
    for window in found["windows"]:
        count = window["fields"]["trade_count"]
        assert count["theirs"] - count["ours"] == 1


async def test_nothing_is_missing_before_the_first_stored_candle(stage: Stage) -> None:
    begins = stage.open_times(FIVE_SECONDS)[40]
    stage.store([one for one in stage.trades() if one.trade_time >= begins])
    found = await stage.json(0)
    before = (begins - SINCE) // (5 * SECOND_US)
    assert found["intervals"]["5s"]["not comparable"] + found["intervals"]["5s"]["equal"] == 480
    assert 0 < found["intervals"]["5s"]["not comparable"] <= before
    assert {one["reason"] for one in found["windows"] if one["verdict"] == "not comparable"} == {
        "it is before the first stored candle"
    }


async def test_verify_waits_for_the_rate_limit(stage: Stage) -> None:
    stage.store(stage.trades())
    stage.simulator.faults = Faults(throttle_requests=1, retry_after_seconds=1)
    done = await stage.verify()
    host = stage.simulator.rest_url.removeprefix("http://")
    assert (done.returncode, done.stderr) == (0, f"exchange rate limit: no request to {host} for 1 s\n")
    assert "520 windows equal the exchange's klines, none differs" in done.stdout


@pytest.mark.parametrize(
    ("setting", "scheme", "said"),
    [
        ("exchange_rest_url", "http://127.0.0.1:{}", "can't be reached"),
        ("postgres_url", "postgresql://candleflow@127.0.0.1:{}/candleflow", "PostgreSQL"),
    ],
)
async def test_an_unreachable_server_is_one_line_and_status_1(
    stage: Stage, setting: str, scheme: str, said: str
) -> None:
    done = await stage.verify(**{setting: scheme.format(free_port())})
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr


async def test_the_first_address_that_responds_is_used(stage: Stage) -> None:
    stage.store(stage.trades())
    settings, asked = stage.database.settings, Asked(SYMBOL, SINCE, UNTIL)
    reader = CandleReader.from_settings(settings)
    away = f"http://127.0.0.1:{free_port()}"
    try:
        with Progress(disable=True) as progress:
            urls = (away, stage.simulator.rest_url)
            verified = await verify(settings, asked, reader, urls, progress)
            assert verified.exchange == stage.simulator.rest_url
            assert [one.count(Verdict.EQUAL) for one in verified.comparisons] == [480, 40]
            with pytest.raises(ExchangeError, match=away):
                await verify(settings, asked, reader, (away,), progress)
    finally:
        reader.close()


@pytest.mark.skipif(not oracle.TRADES_ONLY.exists(), reason=oracle.ABSENT)
async def test_recorded_trades_make_candles_equal_to_the_klines_of_their_history(database: Database) -> None:
    """With Binance's own trades; ``tests/unit/exchange`` checks the klines against published ones."""
    recording = Recording(oracle.TRADES_ONLY, speed=0)
    trades = [
        Trade(one["s"], one["t"], Decimal(one["p"]), Decimal(one["q"]), one["T"] * 1_000, one["m"])
        for one in oracle.recorded_trades(oracle.TRADES_ONLY)
    ]
    Processor(database.writer(), FIVE_SECONDS).merge(trades)
    times = [one.trade_time for one in trades]
    async with Simulator(recording) as simulator:
        await played(simulator)
        for symbol in ("BTCUSDT", "ETHUSDT"):
            stretch = ("--from", text_of(min(times)), "--to", text_of(max(times)), "--symbol", symbol)
            done = await verify_process(database, simulator, *stretch, "--json")
            assert done.returncode == 0, done.stderr
            found = json.loads(done.stdout)
            assert found["windows"] == []
            assert {name: counts["equal"] for name, counts in found["intervals"].items()} == {
                "5s": (max(times) // SECOND_US - min(times) // SECOND_US) // 5,
                "1m": 10,
            }


async def played(simulator: Simulator) -> None:
    """Receive the whole recording, so that all of it is in the history."""
    async with connect(f"{simulator.ws_url}/stream?streams=btcusdt@trade/ethusdt@trade") as client:

        async def take() -> None:
            async for _ in client:
                pass

        taking = asyncio.create_task(take())
        await simulator.feed_ended()
        taking.cancel()
