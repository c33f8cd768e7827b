"""The watcher's figures for AWS's alarms on lag and silence, with a real PostgreSQL."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from candleflow.market.window import SECOND_US
from candleflow.settings import Settings, load
from candleflow.stack.postgres import PostgresServer
from candleflow.store import schema
from candleflow.store.reader import CandleReader
from deploy.aws import health
from tests.processes import ROOT, environment
from tests.store.processor import Processor
from tests.store.trades import BEGINS_AT, FIVE_SECONDS, run_of
from tests.store_fixtures import Database


@pytest.fixture
def watched(database: Database) -> Iterator[CandleReader]:
    found = CandleReader.from_settings(database.settings)
    yield found
    found.close()


def now_us() -> int:
    return time.time_ns() // 1_000


def written_figures(
    reader: CandleReader, settings: Settings, at: int, capsys: pytest.CaptureFixture[str]
) -> dict[str, float]:
    """Return the figures of the single line on stdout; stderr must be empty."""
    health.write_figures(reader, settings, at)
    out, err = capsys.readouterr()
    assert err == ""
    (line,) = out.splitlines()
    found: dict[str, float] = json.loads(line)
    return found


def test_an_unknown_figure_is_left_out(
    database: Database, watched: CandleReader, capsys: pytest.CaptureFixture[str]
) -> None:
    assert written_figures(watched, database.settings, now_us(), capsys) == {}
    Processor(database.writer(), FIVE_SECONDS).merge(run_of(1, 7))
    assert written_figures(watched, database.settings, BEGINS_AT, capsys).keys() == {"trade_age_seconds"}


def test_the_age_is_of_the_newest_trade_of_any_symbol(
    database: Database, watched: CandleReader, capsys: pytest.CaptureFixture[str]
) -> None:
    processor = Processor(database.writer(), FIVE_SECONDS)
    processor.merge([*run_of(1, 7), *run_of(1, 11, "ETHUSDT")])
    at = BEGINS_AT + 131 * SECOND_US
    assert written_figures(watched, database.settings, at, capsys)["trade_age_seconds"] == 120.0
    assert written_figures(watched, database.settings, at + SECOND_US, capsys)["trade_age_seconds"] == 121.0
    processor.merge(run_of(12, 131))
    assert written_figures(watched, database.settings, at, capsys)["trade_age_seconds"] == 0.0


def test_a_stopped_processor_falls_behind(
    database: Database, watched: CandleReader, capsys: pytest.CaptureFixture[str]
) -> None:
    before = now_us()
    Processor(database.writer(), FIVE_SECONDS).close_quiet(BEGINS_AT)
    after = now_us()
    lag = written_figures(watched, database.settings, after + 60 * SECOND_US, capsys)["merged_age_seconds"]
    assert 60 <= lag <= 60 + (after - before) / SECOND_US


def test_a_processor_of_another_topic_does_not_count(
    database: Database, watched: CandleReader, capsys: pytest.CaptureFixture[str]
) -> None:
    Processor(database.writer(), FIVE_SECONDS, topic="trades.other").close_quiet(BEGINS_AT)
    assert "merged_age_seconds" not in written_figures(watched, database.settings, now_us(), capsys)


def test_while_postgresql_is_away_no_line_is_written(
    own_server: PostgresServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"postgresql://candleflow@127.0.0.1:{own_server.port}/candleflow"
    settings = load(postgres_url=url, data_dir=tmp_path)
    own_server.provide("candleflow", "candleflow")
    schema.apply(settings)
    reader = CandleReader.from_settings(settings)
    assert written_figures(reader, settings, now_us(), capsys) == {}
    own_server.stop()
    health.write_figures(reader, settings, now_us())
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("no figures: ")
    own_server.start()
    own_server.wait_until_ready()
    assert written_figures(reader, settings, now_us(), capsys) == {}
    reader.close()


def test_the_program_writes_a_line_at_once_and_keeps_running(database: Database, tmp_path: Path) -> None:
    """Start it as the container does: by its path, in another folder, with settings from the environment."""
    program = shutil.copy(health.__file__, tmp_path)
    Processor(database.writer(), FIVE_SECONDS).merge(run_of(1, 7))
    settings = database.settings
    variables = environment(
        postgres_url=settings.postgres.url.get_secret_value(), data_dir=settings.stack.data_dir
    ) | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, program], cwd=tmp_path, env=variables, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["trade_age_seconds"] > 0
            assert process.poll() is None
        finally:
            process.kill()
