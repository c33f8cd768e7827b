"""The command line: wrong arguments and settings, error messages, exit statuses."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from candleflow import cli
from candleflow.errors import StackError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", sorted(cli.COMMANDS))
def test_a_bad_setting_ends_every_command_with_status_2_before_anything_is_imported(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CANDLEFLOW_WINDOW_SECONDS", "7")
    monkeypatch.setattr(cli, "_resolved", lambda name: pytest.fail(f"{name} was imported"))
    assert cli.main([command]) == 2
    assert "CANDLEFLOW_WINDOW_SECONDS='7'" in capsys.readouterr().err


def test_with_a_bad_setting_nothing_is_created(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "candleflow", "up"],
        env={"PYTHONPATH": str(ROOT), "CANDLEFLOW_DASHBOARD_PORT": "0"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("CANDLEFLOW_DASHBOARD_PORT='0'")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_setting_gives_a_warning_with_the_nearest_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CANDLEFLOW_SYMBOL", "BTCUSDT")
    assert cli.main(["settings"]) == 0
    assert (
        "warning: CANDLEFLOW_SYMBOL is not a setting; did you mean CANDLEFLOW_SYMBOLS?"
        in capsys.readouterr().err
    )


def test_settings_hides_secrets(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CANDLEFLOW_POSTGRES_URL", "postgresql://me:canary@127.0.0.1/candles")
    monkeypatch.setenv("CANDLEFLOW_POSTGRES_READER_PASSWORD", "canary")
    assert cli.main(["settings"]) == 0
    out = capsys.readouterr().out
    assert "CANDLEFLOW_POSTGRES_READER_PASSWORD" in out
    assert "canary" not in out


@pytest.mark.parametrize("argv", [[], ["bogus"], ["services", "--bogus"], ["status", "extra"]])
def test_a_wrong_argument_ends_with_status_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_an_error_of_ours_is_one_plain_line_and_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: Any) -> int:
        raise StackError("port 9092 is taken: set CANDLEFLOW_KAFKA_BOOTSTRAP to move Kafka to another")

    monkeypatch.setattr(cli, "_resolved", lambda _: run)
    assert cli.main(["up"]) == 1
    assert (
        capsys.readouterr().err
        == "port 9092 is taken: set CANDLEFLOW_KAFKA_BOOTSTRAP to move Kafka to another\n"
    )


def test_psql_gets_its_own_options(monkeypatch: pytest.MonkeyPatch) -> None:
    passed_on: list[str] = []

    def psql(_: Any, arguments: argparse.Namespace) -> int:
        passed_on.extend(arguments.passed_on)
        return 0

    monkeypatch.setattr(cli, "_resolved", lambda _: psql)
    assert cli.main(["psql", "-At", "-c", "select 1", "--help"]) == 0
    assert passed_on == ["-At", "-c", "select 1", "--help"]


def test_nothing_running_is_said_and_is_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CANDLEFLOW_DATA_DIR", str(tmp_path / "data"))
    assert cli.main(["status"]) == 1
    assert capsys.readouterr().out == "nothing is running\n"
    assert cli.main(["status", "--json"]) == 1
    assert cli.main(["down"]) == 0
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("command", ["simulate", "replay"])
def test_the_simulators_own_arguments_are_there(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    assert "--port" in capsys.readouterr().out


def test_each_command_has_its_help() -> None:
    text = cli.build_parser().format_help()
    assert all(f"    {name}" in text for name in cli.COMMANDS)
    assert isinstance(cli.build_parser("replay"), argparse.ArgumentParser)
