"""Heartbeats and log lines."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from candleflow.telemetry import HeartbeatFile, read_heartbeat, set_up_logging


def test_a_heartbeat_comes_back_as_it_was_written(tmp_path: Path) -> None:
    file = HeartbeatFile(tmp_path / "run", "producer")
    file.beat("running", "all well", {"received": 3}, {"age_s": {"BTCUSDT": 0.5}})
    heartbeat = read_heartbeat(tmp_path / "run", "producer")
    assert heartbeat is not None
    assert (heartbeat.name, heartbeat.pid, heartbeat.state) == ("producer", os.getpid(), "running")
    assert heartbeat.counts == {"received": 3}
    assert (heartbeat.of("age_s", "BTCUSDT"), heartbeat.of("age_s", "ETHUSDT")) == (0.5, None)
    file.remove()
    assert read_heartbeat(tmp_path / "run", "producer") is None


def test_a_heartbeat_that_cannot_be_written_is_logged_once_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = HeartbeatFile(tmp_path / "run", "producer")
    (tmp_path / "run").rmdir()
    file.beat("running")
    file.beat("running")
    (said,) = [record.message for record in caplog.records]
    assert str(tmp_path / "run" / "producer.json") in said
    (tmp_path / "run").mkdir()
    file.beat("running")
    assert read_heartbeat(tmp_path / "run", "producer") is not None


def test_a_broken_heartbeat_reads_as_none(tmp_path: Path) -> None:
    (tmp_path / "producer.json").write_text('{"name": "producer"')
    assert read_heartbeat(tmp_path, "producer") is None


@pytest.fixture
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before


def test_the_last_heartbeat_is_kept_for_other_threads(tmp_path: Path) -> None:
    file = HeartbeatFile(tmp_path / "run", "producer")
    heartbeat, made_at = file.last
    assert heartbeat is None
    file.beat("running", "all well", {"received": 3}, {"age_s": {"BTCUSDT": 0.5}})
    heartbeat, beaten_at = file.last
    assert heartbeat == read_heartbeat(tmp_path / "run", "producer")
    assert beaten_at >= made_at


@pytest.mark.usefixtures("_logging_as_before")
def test_no_input_can_forge_a_log_line(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("producer")
    logging.getLogger("x").warning("symbol %s", "A\n2026-01-01 ERROR forged\x1b[31m\u2028")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "\\x0a2026-01-01 ERROR forged\\x1b[31m\\x2028" in lines[0]
    assert "WARNING producer: symbol A" in lines[0]


@pytest.mark.usefixtures("_logging_as_before")
def test_no_exceptions_text_can_forge_a_log_line(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("producer")
    forged = "2026-01-01 00:00:00.000Z ERROR   producer: forged"

    def refuse() -> None:
        raise ValueError(f"refused\n{forged}\r{forged}\u2028{forged}\x1b[2K\n\n{forged}")

    try:
        refuse()
    except ValueError:
        logging.getLogger("x").exception("it failed", stack_info=True)
    first, *others = capsys.readouterr().err.splitlines()
    assert first.endswith("ERROR   producer: it failed")
    assert "    ValueError: refused" in others
    assert f"    {forged}\\x0d{forged}\\x2028{forged}\\x1b[2K" in others
    assert any("in refuse" in line for line in others)  # a traceback still says where
    assert all(line.startswith("    ") for line in others)


@pytest.mark.usefixtures("_logging_as_before")
def test_a_line_is_one_json_object_with_any_text(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("producer", log_format="json")
    forged = 'A"}\n{"level": "ERROR"}\x1b[31m\u2028\ud800'
    logging.getLogger("candleflow.x").warning("symbol %s", forged)
    logging.getLogger("candleflow.x").error("it failed", exc_info=ValueError(forged))
    said = capsys.readouterr().err
    assert said.isascii()
    assert "\x1b" not in said
    first, second = map(json.loads, said.splitlines())
    assert first["message"] == f"symbol {forged}"
    assert (first["level"], first["process"], first["logger"]) == ("WARNING", "producer", "candleflow.x")
    assert first["time"].endswith("Z")
    assert "exception" not in first
    assert second["exception"] == f"ValueError: {forged}"


@pytest.mark.usefixtures("_logging_as_before")
@pytest.mark.parametrize("level", ["DEBUG", "INFO"])
@pytest.mark.parametrize("library", ["py4j.clientserver", "kafka.admin.client"])
def test_libraries_never_log_passwords_at_debug(
    capsys: pytest.CaptureFixture[str], level: str, library: str
) -> None:
    set_up_logging("processor", level)
    logging.getLogger(library).debug("canary")
    assert capsys.readouterr().err == ""


def test_a_heartbeat_is_a_copy_of_any_kind_of_mapping(tmp_path: Path) -> None:
    by_label: defaultdict[str, dict[str, float]] = defaultdict(dict)
    by_label["age_s"]["BTCUSDT"] = 0.5
    file = HeartbeatFile(tmp_path, "audit")
    file.beat("running", counts=Counter(equal=3), by_label=by_label)
    by_label["age_s"]["BTCUSDT"] = 9
    heartbeat = read_heartbeat(tmp_path, "audit")
    assert heartbeat is not None
    assert file.last[0] == heartbeat
    assert (heartbeat.counts, heartbeat.by_label) == ({"equal": 3}, {"age_s": {"BTCUSDT": 0.5}})
