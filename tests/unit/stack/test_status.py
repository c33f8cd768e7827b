"""``status``: which processes run, by their heartbeats."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import asdict
from json import dumps
from pathlib import Path

import pytest

from candleflow import settings
from candleflow.stack.status import SILENT_SECONDS, status
from candleflow.telemetry import Heartbeat, HeartbeatFile, read_heartbeat

NOBODY = 2**22 + 1
"""No process has this pid: it is above the kernel's maximum."""
HERE = socket.gethostname()


@pytest.mark.parametrize(
    ("host", "pid", "age", "runs"),
    [
        (HERE, os.getpid(), 0.0, True),
        (HERE, NOBODY, 0.0, False),
        ("another-container", NOBODY, 0.0, True),
        ("another-container", os.getpid(), SILENT_SECONDS + 1, False),
    ],
    ids=["ours running", "ours ended", "another host's, fresh", "another host's, silent"],
)
def test_a_pid_counts_only_where_it_is_from_and_elsewhere_the_age(
    tmp_path: Path, host: str, pid: int, age: float, runs: bool
) -> None:
    in_force = settings.load(data_dir=tmp_path)
    in_force.stack.run_dir.mkdir()
    beat = Heartbeat(
        "processor", pid, "running", started_at=time.time(), beaten_at=time.time() - age, host=host
    )
    (in_force.stack.run_dir / "processor.json").write_text(dumps(asdict(beat)))
    found = status(in_force)
    assert (found is not None) is runs
    if found is not None:
        (one,) = found["processes"]
        assert (one["name"], one["pid"], one["host"]) == ("processor", pid, host)
        assert (one["memory_mb"] is None) is (host != HERE)


def test_a_process_does_not_remove_the_heartbeat_of_another_container(tmp_path: Path) -> None:
    """In containers most processes have the same pid."""
    file = HeartbeatFile(tmp_path, "producer")
    elsewhere = Heartbeat("producer", os.getpid(), "running", host="another-container")
    (tmp_path / "producer.json").write_text(dumps(asdict(elsewhere)))
    file.remove()
    assert read_heartbeat(tmp_path, "producer") == elsewhere
