"""Tests of ``make security``: each tool finds a planted problem, or says that it could not check."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy import security

pytestmark = pytest.mark.skipif(
    not (security.TOOLS / "bandit").exists(), reason="no .venv-checkers; `make security` creates it"
)
LOCK = f"harmless==1.0 --hash=sha256:{'0' * 64}\n"
OF_OLD = "requests"


@contextmanager
def advisories(known: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    """Run a test double of the OSV service that knows one vulnerability of each of these packages."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = asked["package"]["name"]
            affected = [{"package": {"name": name, "ecosystem": "PyPI"}}]
            told = {"vulns": [{"id": known[name], "affected": affected}]} if name in known else {}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(told).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield "osv", "--osv-url", f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    file = tmp_path / "some.lock"
    file.write_text(LOCK)
    return file


def test_a_shell_is_found(tmp_path: Path) -> None:
    file = tmp_path / "planted.py"
    file.write_text("import subprocess\n\nsubprocess.run(input(), shell=True)\n")
    found = security.unsafe_code([tmp_path])
    assert found.is_bad
    assert "B602" in found.says


def test_a_workflow_with_a_movable_action_is_found(tmp_path: Path) -> None:
    file = tmp_path / ".github" / "workflows" / "planted.yml"
    file.parent.mkdir(parents=True)
    file.write_text("on: push\njobs:\n  one:\n    runs-on: x\n    steps: [{uses: someone/action@v1}]\n")
    found = security.unsafe_files("zizmor", "--offline", "--quiet", tmp_path)
    assert found.is_bad
    assert "unpinned-uses" in found.says


def test_an_image_that_changes_by_itself_is_found(tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text("FROM python:latest\n")
    found = security.unsafe_files("hadolint", file)
    assert found.is_bad
    assert "DL3007" in found.says


def test_a_key_is_found(tmp_path: Path) -> None:
    file = tmp_path / "planted.py"
    file.write_text(f'KEY = "{"AKIA"}{"Q3EGRVTQ7C2TJ5XZ"}"\n')  # split, else this file would be reported
    found = security.secrets([file])
    assert found.is_bad
    assert "AWS Access Key" in found.says


def test_a_known_vulnerability_is_found(lock: Path) -> None:
    with advisories({OF_OLD: "OLD-1", "harmless": "NEW-1"}) as service:
        found = security.vulnerabilities([lock], [service])
    assert found.is_bad
    assert "harmless 1.0: NEW-1" in found.says
    assert "OLD-1" not in found.says


def test_no_known_vulnerability_is_reported_as_such(lock: Path) -> None:
    with advisories({OF_OLD: "OLD-1"}) as service:
        found = security.vulnerabilities([lock], [service])
    assert found == security.Outcome(
        "pip-audit: nothing known against the 1 packages of 1 locks", is_bad=False
    )


def test_an_advisory_service_without_data_counts_as_not_checked(lock: Path) -> None:
    with advisories({}) as service:
        found = security.vulnerabilities([lock], [service])
    assert not found.is_bad
    assert "NOT CHECKED" in found.says


def test_two_versions_of_a_package_are_both_looked_up(lock: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.lock"
    other.write_text(LOCK.replace("1.0", "2.0 ; sys_platform == 'win32' \\\n   "))
    with advisories({OF_OLD: "OLD-1", "harmless": "NEW-1"}) as service:
        found = security.vulnerabilities([lock, other, lock], [service])
    assert [line.split(":")[0].strip() for line in found.says.splitlines()[1:]] == [
        "harmless 1.0",
        "harmless 2.0",
    ]


def test_the_packages_of_uvs_lock_are_looked_up(tmp_path: Path) -> None:
    file = tmp_path / "uv.lock"
    own = '[[package]]\nname = "ours"\nversion = "1.0"\nsource = { editable = "." }\n'
    file.write_text(
        own
        + own.replace("ours", "harmless").replace('editable = "."', 'registry = "https://pypi.org/simple"')
    )
    with advisories({OF_OLD: "OLD-1", "harmless": "NEW-1", "ours": "NEW-2"}) as service:
        found = security.vulnerabilities([file], [service])
    assert found.says.splitlines()[1:] == ["  harmless 1.0: NEW-1, fixed in none"]


def test_a_lock_that_cannot_be_read_is_reported(lock: Path) -> None:
    lock.write_text("harmless>=1.0\n")
    found = security.vulnerabilities([lock], [])
    assert found.is_bad
    assert "can't read the locks" in found.says
