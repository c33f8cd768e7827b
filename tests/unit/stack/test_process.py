"""What is told of a process that ended: its log's last words."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from candleflow.stack import process


def test_a_full_disk_is_told_as_the_log_itself_could_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "server.log"
    log.write_text("started\nall well\n")
    assert process.tail(log) == "started | all well"
    total = shutil.disk_usage(tmp_path).total
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(total, total - 4096, 4096))
    assert process.tail(log) == f"no space is left on the disk of {tmp_path} | started | all well"
