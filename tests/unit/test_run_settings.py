"""What the run file tells another terminal: all that it needs to find the run, and no secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from candleflow import settings
from candleflow.exchange.addresses import addresses
from candleflow.stack.up import run_settings


@pytest.mark.parametrize(
    "chosen",
    [
        {"exchange": "simulator", "simulator_port": 19_443, "symbols": "BTCUSDT,ETHUSDT"},
        {"exchange_ws_url": "ws://127.0.0.1:1234", "exchange_rest_url": "http://127.0.0.1:1235"},
        {"exchange": "binance-us", "kafka_bootstrap": "127.0.0.1:19092", "dashboard_port": 18_501},
        {"window_seconds": 10, "slide_seconds": 2, "postgres_url": "postgresql://me@[::1]:15432/mine"},
    ],
)
def test_a_terminal_without_settings_finds_the_run(tmp_path: Path, chosen: dict[str, Any]) -> None:
    running = settings.load(data_dir=tmp_path, **chosen)
    found = settings.load(data_dir=tmp_path, **json.loads(json.dumps(run_settings(running))))
    assert addresses(found) == addresses(running)
    assert found.symbols == running.symbols
    assert found.kafka.bootstrap == running.kafka.bootstrap
    assert str(found.database) == str(running.database)
    assert found.dashboard.port == running.dashboard.port
    assert found.windows == running.windows


def test_no_secret_is_in_the_run_file(tmp_path: Path) -> None:
    running = settings.load(data_dir=tmp_path, postgres_url="postgresql://me:hidden@127.0.0.1:5432/mine")
    assert "hidden" not in str(run_settings(running))
