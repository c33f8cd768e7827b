"""``jars.lock`` and the download, from a real HTTP server that can alter, truncate or refuse a file."""

from __future__ import annotations

import hashlib
import io
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path

import pytest
from rich.console import Console

from candleflow.backoff import Backoff
from candleflow.errors import StackError
from candleflow.stack import jar_download, jar_lock
from candleflow.stack.jar_lock import LOCK_OF_SPARK_4_0, Jar, locked
from candleflow.stack.jars import fetch

CONTENT = {"org/a/1/a-1.jar": b"a" * 200_000, "org/b/2/b-2.jar": b"b" * 1_000}
WANTED = [Jar(path, hashlib.sha256(body).hexdigest(), len(body)) for path, body in CONTENT.items()]


class Repository(ThreadingHTTPServer):
    """Serves CONTENT. ``faults`` maps a path to the faulty answers to give before the right one."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.faults: dict[str, list[str]] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Repository

    def do_GET(self) -> None:
        path = self.path.lstrip("/")
        self.server.asked.append(path)
        faults = self.server.faults.get(path, [])
        fault = faults.pop(0) if faults else ""
        body = CONTENT.get(path)
        if body is None or fault.isdigit():
            self.send_error(int(fault or "404"))
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        sent = {"cut": body[:100], "altered": body[:-1] + b"!"}.get(fault, body)
        self.wfile.write(sent)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def repository() -> Iterator[Repository]:
    server = Repository()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def _no_waiting_between_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jar_download, "_RETRY_DELAYS", lambda: Backoff(0.0, 0.0))


def fetched(repository: Repository, folder: Path, console: Console | None = None) -> list[Path]:
    return fetch(WANTED, folder, maven_url=repository.url, console=console or Console(file=io.StringIO()))


def test_a_folder_that_cannot_be_made_is_named_with_its_setting(
    repository: Repository, tmp_path: Path
) -> None:
    (tmp_path / "a file").touch()
    with pytest.raises(
        StackError, match=r"a file/jars can't be created: .*; set CANDLEFLOW_CACHE_DIR to another folder"
    ):
        fetched(repository, tmp_path / "a file" / "jars")
    assert repository.asked == []


def lock_of_spark_4_0() -> str:
    return Path(jar_lock.__file__).with_name(LOCK_OF_SPARK_4_0).read_text()


@pytest.mark.parametrize(
    "found",
    [locked("kafka"), locked("spark"), locked("spark", lock_of_spark_4_0())],
    ids=["kafka", "spark", "spark 4.0"],
)
def test_the_lock_names_each_jar_of_a_bundle_by_path_hash_and_size(found: list[Jar]) -> None:
    assert found
    assert len({jar.name for jar in found}) == len(found)
    for jar in found:
        assert re.fullmatch(r"([\w.\-]+/)+[\w.\-]+\.jar", jar.path)
        assert re.fullmatch(r"[0-9a-f]{64}", jar.sha256)
        assert jar.size_bytes > 0


def test_the_two_bundles_share_no_file_name_with_other_content() -> None:
    by_name = {jar.name: jar for jar in locked("kafka")}
    for spark in (locked("spark"), locked("spark", lock_of_spark_4_0())):
        assert all(by_name.get(jar.name, jar).sha256 == jar.sha256 for jar in spark)


def test_the_connector_is_of_the_installed_sparks_version() -> None:
    assert f"spark-sql-kafka-0-10_2.13-{metadata.version('pyspark')}.jar" in {
        jar.name for jar in locked("spark")
    }


def test_jars_are_fetched_whole_and_in_the_locks_order(repository: Repository, tmp_path: Path) -> None:
    paths = fetched(repository, tmp_path / "jars")
    assert [path.read_bytes() for path in paths] == list(CONTENT.values())


def test_a_whole_cache_opens_no_connection(repository: Repository, tmp_path: Path) -> None:
    fetched(repository, tmp_path)
    repository.asked.clear()
    fetched(repository, tmp_path)
    assert repository.asked == []


@pytest.mark.parametrize("harm", ["cut", "altered", "gone"])
def test_a_damaged_jar_in_the_cache_is_downloaded_again(
    repository: Repository, tmp_path: Path, harm: str
) -> None:
    path, _ = fetched(repository, tmp_path)
    body = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(body[:10] if harm == "cut" else b"!" + body[1:])
    repository.asked.clear()
    assert fetched(repository, tmp_path)[0].read_bytes() == body
    assert repository.asked == [WANTED[0].path]


@pytest.mark.parametrize("fault", ["cut", "altered", "503", "500"])
def test_a_temporary_fault_is_retried(repository: Repository, tmp_path: Path, fault: str) -> None:
    repository.faults[WANTED[0].path] = [fault]
    assert fetched(repository, tmp_path)[0].read_bytes() == CONTENT[WANTED[0].path]


@pytest.mark.parametrize("fault", ["cut", "altered", "503"])
def test_a_permanent_fault_is_reported_with_the_address_and_leaves_no_file(
    repository: Repository, tmp_path: Path, fault: str
) -> None:
    repository.faults[WANTED[0].path] = [fault] * 9
    with pytest.raises(StackError, match=re.escape(f"a-1.jar could not be fetched from {repository.url}")):
        fetched(repository, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if "a-1" in path.name] == []


def test_a_jar_that_the_repository_lacks_is_asked_for_once(repository: Repository, tmp_path: Path) -> None:
    absent = Jar("org/c/3/c-3.jar", "0" * 64, 10)
    with pytest.raises(StackError, match="404"):
        fetch([absent], tmp_path, maven_url=repository.url, console=Console(file=io.StringIO()))
    assert repository.asked == [absent.path]


def test_an_unreachable_repository_is_reported_with_the_setting_for_another(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="CANDLEFLOW_MAVEN_URL"):
        fetch(WANTED, tmp_path, maven_url="http://127.0.0.1:1", console=Console(file=io.StringIO()))


def test_without_a_terminal_progress_is_printed_in_plain_lines(
    repository: Repository, tmp_path: Path
) -> None:
    said = io.StringIO()
    fetched(repository, tmp_path, Console(file=said))
    lines = said.getvalue().splitlines()
    assert lines[0].startswith("Fetching 2 the jars from 127.0.0.1, 0.2 MB")
    assert lines[-1].endswith("100 %")
    assert "\x1b" not in said.getvalue()


def test_on_a_terminal_progress_is_a_bar(repository: Repository, tmp_path: Path) -> None:
    said = io.StringIO()
    fetched(repository, tmp_path, Console(file=said, force_terminal=True, width=100))
    assert "━" in said.getvalue()
