"""``process.tail``: the last lines of the log of a process that ended."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from candleflow.stack import process


def test_a_full_disk_is_reported_because_the_process_could_not_log_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "server.log"
    log.write_text("started\nall well\n")
    assert process.tail(log) == "started | all well"
    total = shutil.disk_usage(tmp_path).total
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(total, total - 4096, 4096))
    assert process.tail(log) == f"no space is left on the disk of {tmp_path} | started | all well"
