"""Temporary folders are removed at the end, or at the next start after a kill -9, but never while in use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from candleflow.errors import StackError
from candleflow.stack.work_folder import work_folder

PREFIX = "work-"
HOLDER = """
import sys
from candleflow.stack.work_folder import work_folder
with work_folder(sys.argv[1]) as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def test_a_killed_processs_folder_is_removed_at_the_next_start_and_one_in_use_stays(place: Path) -> None:
    command = [sys.executable, "-c", HOLDER, PREFIX]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        held = Path(holder.stdout.readline().strip())
        (held / "a file").touch()
        (place / "work-is-a-file").touch()
        with work_folder(PREFIX) as own:
            assert held.exists()
        assert not own.exists()
        holder.kill()
    assert held.exists()
    with work_folder(PREFIX):
        assert not held.exists()
    assert list(place.iterdir()) == [place / "work-is-a-file"]


@pytest.mark.parametrize("name", ["t d", "josé", "a,b", "a%20b", "a\\b"])
def test_a_temporary_folder_whose_path_spark_cannot_handle_is_not_used(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / name))
    with work_folder("candleflow-test-") as folder:
        assert folder.parent == Path("/tmp")  # noqa: S108
    assert list((tmp_path / name).iterdir()) == []


def test_a_place_where_no_folder_can_be_created_is_named_with_its_setting(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(place / "is-not-there"))
    with pytest.raises(StackError, match=r"is-not-there.*TMPDIR"), work_folder(PREFIX):
        pass
    (place / "a file").touch()
    with (
        pytest.raises(StackError, match=r"a file.*CANDLEFLOW_DATA_DIR"),
        work_folder(PREFIX, place / "a file"),
    ):
        pass
