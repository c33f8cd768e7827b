"""The data folder's lock and run file: only one supervisor runs, and a reused pid isn't mistaken for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from candleflow.errors import HeldError
from candleflow.stack import process
from candleflow.stack.run_file import (
    FILE,
    LOCK,
    Run,
    RunningPart,
    hold_run_lock,
    read_run,
    stop_leftovers,
    write_run,
)


def this_process() -> psutil.Process:
    return psutil.Process()


def run_of(child: subprocess.Popen[bytes], **more: object) -> Run:
    created_at = psutil.Process(child.pid).create_time()
    part = RunningPart("producer", child.pid, created_at, signal.SIGTERM, "running")
    run = Run(
        "up",
        os.getpid(),
        this_process().create_time(),
        {"exchange": "binance"},
        "http://localhost:1",
        parts=(part,),
    )
    return replace(run, **more)  # type: ignore[arg-type]


@pytest.fixture
def child(tmp_path: Path) -> subprocess.Popen[bytes]:
    return process.spawn([sys.executable, "-S", "-c", "import signal; signal.pause()"], log=tmp_path / "log")


def test_what_is_written_is_read(tmp_path: Path, child: subprocess.Popen[bytes]) -> None:
    run = run_of(child)
    write_run(tmp_path, run)
    assert read_run(tmp_path) == run
    process.stop(child, signal.SIGKILL, 5)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"parts": 1}', '{"pid": 1, "parts": []}', "null"])
def test_a_run_file_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    assert read_run(tmp_path) is None
    assert stop_leftovers(tmp_path) == []


def test_a_second_holder_is_refused_with_the_address_of_the_page(
    tmp_path: Path, child: subprocess.Popen[bytes]
) -> None:
    with hold_run_lock(tmp_path):
        write_run(tmp_path, run_of(child))
        with pytest.raises(HeldError, match=rf"already running .*pid {os.getpid()}.*http://localhost:1"):
            hold_run_lock(tmp_path).__enter__()
    process.stop(child, signal.SIGKILL, 5)


def test_the_lock_is_removed_at_the_end_and_a_stale_file_blocks_no_start(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("stale")
    with hold_run_lock(tmp_path):
        pass
    assert not (tmp_path / LOCK).exists()
    with hold_run_lock(tmp_path):
        pass


def test_a_leftover_is_stopped(tmp_path: Path, child: subprocess.Popen[bytes]) -> None:
    write_run(tmp_path, run_of(child))
    (tmp_path / "producer.json").write_text("{}")
    assert stop_leftovers(tmp_path) == ["producer"]
    child.wait(10)  # psutil has waited for it already; this only cleans up Popen
    assert not (tmp_path / FILE).exists()
    assert not (tmp_path / "producer.json").exists()


def test_another_process_that_reused_the_pid_is_left_alone(
    tmp_path: Path, child: subprocess.Popen[bytes]
) -> None:
    run = run_of(child)
    older = replace(run.parts[0], created_at=run.parts[0].created_at - 100)
    write_run(tmp_path, replace(run, parts=(older,)))
    assert stop_leftovers(tmp_path) == []
    assert child.poll() is None
    process.stop(child, signal.SIGKILL, 5)


def test_pids_of_another_boot_mean_nothing(tmp_path: Path, child: subprocess.Popen[bytes]) -> None:
    run = run_of(child, booted_at=psutil.boot_time() - 3_600)
    write_run(tmp_path, run)
    assert not run.is_alive()
    assert stop_leftovers(tmp_path) == []
    assert child.poll() is None
    process.stop(child, signal.SIGKILL, 5)
