"""Which Java is chosen, by its release file and in which order, and what happens if there is none."""

from __future__ import annotations

import hashlib
import re
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from candleflow.errors import StackError
from candleflow.stack import java

MODULES = 'MODULES="java.base jdk.incubator.vector jdk.unsupported"\n'


def home(folder: Path, version: str, modules: str = MODULES) -> Path:
    (folder / "bin").mkdir(parents=True)
    program = folder / "bin" / "java"
    program.touch(mode=0o755)
    (folder / "release").write_text(f'JAVA_VERSION="{version}"\n{modules}')
    return folder


@pytest.fixture(autouse=True)
def _a_machine_without_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "_COMMON_PLACES", ())
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("JAVA_HOME", raising=False)


@pytest.mark.parametrize(
    ("version", "modules", "suits"),
    [
        ("17.0.15", MODULES, True),
        ("21", MODULES, True),
        ("17.0.1", "", True),
        ("1.8.0_402", MODULES, False),
        ("11.0.2", MODULES, False),
        ("22.0.1", MODULES, False),
        ("170", MODULES, False),
        ("17.0.1", 'MODULES="java.base"\n', False),
    ],
)
def test_a_java_suits_by_version_and_by_the_module_that_spark_needs(
    tmp_path: Path, version: str, modules: str, suits: bool
) -> None:
    assert java.is_suitable(home(tmp_path / "java", version, modules)) is suits


def test_a_home_without_a_program_or_without_a_release_file_does_not_suit(tmp_path: Path) -> None:
    found = home(tmp_path / "java", "17")
    (found / "bin" / "java").chmod(0o644)
    (found / "bin" / "java").unlink()
    assert not java.is_suitable(found)
    other = home(tmp_path / "other", "17")
    (other / "release").unlink()
    assert not java.is_suitable(other)


def test_java_home_comes_before_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named, on_path = home(tmp_path / "named", "21"), home(tmp_path / "path", "17")
    monkeypatch.setenv("PATH", str(on_path / "bin"))
    assert java.find_java(tmp_path / "cache") == on_path
    monkeypatch.setenv("JAVA_HOME", str(named))
    assert java.find_java(tmp_path / "cache") == named


def test_a_java_home_that_does_not_suit_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(home(tmp_path / "old", "11")))
    monkeypatch.setenv("PATH", str(home(tmp_path / "good", "17") / "bin"))
    assert java.find_java(tmp_path / "cache") == tmp_path / "good"


def test_a_link_on_the_path_is_followed_to_its_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = home(tmp_path / "real", "17")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").symlink_to(real / "bin" / "java")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert java.find_java(tmp_path / "cache") == real


def test_a_downloaded_java_is_used_again(tmp_path: Path) -> None:
    downloaded = home(tmp_path / "cache" / "java" / "jdk-17.0.15", "17.0.15")
    assert java.find_java(tmp_path / "cache") == downloaded


@dataclass
class Download:
    """The file that the server returns, and how often it was requested."""

    body: bytes
    asked: int = 0


@pytest.fixture
def temurin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Download]:
    """A local server instead of Adoptium's, and a lock with the SHA-256 of its archive."""
    home(tmp_path / "made" / "jdk-17.0.20.1+1", "17.0.20.1")
    with tarfile.open(tmp_path / "jdk.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "made" / "jdk-17.0.20.1+1", "jdk-17.0.20.1+1")
    served = Download((tmp_path / "jdk.tar.gz").read_bytes())

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked += 1
            self.send_response(200)
            self.end_headers()
            self.wfile.write(served.body)

        def log_message(self, *_: object) -> None:
            pass

    sha256 = hashlib.sha256(served.body).hexdigest()
    monkeypatch.setattr(java, "locked", lambda: {java.machine(): (sha256, "jdk.tar.gz")})
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        monkeypatch.setattr(java, "BASE", f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield served
        server.shutdown()
        thread.join()


def test_if_there_is_none_one_is_downloaded_verified_and_moved_into_place(
    tmp_path: Path, temurin: Download
) -> None:
    place = tmp_path / "cache" / "java"
    assert java.find_java(tmp_path / "cache") == place / "jdk-17.0.20.1+1"
    assert [one.name for one in place.iterdir()] == ["jdk-17.0.20.1+1"]
    assert java.find_java(tmp_path / "cache") == place / "jdk-17.0.20.1+1"
    assert temurin.asked == 1


def test_another_archive_than_the_locked_one_is_never_unpacked(tmp_path: Path, temurin: Download) -> None:
    temurin.body += b"!"
    with pytest.raises(
        StackError, match=r"^Java 17 or 21 is needed: .*SHA-256 \w{64}, not \w{64}\)$"
    ) as caught:
        java.find_java(tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache" / "java").iterdir()) == []


def test_the_lock_has_one_archive_of_one_version_for_each_kind_of_machine() -> None:
    kinds = {"linux x86_64", "linux aarch64", "musl x86_64", "darwin x86_64", "darwin arm64"}
    assert java.locked().keys() == kinds
    for sha256, name in java.locked().values():
        assert re.fullmatch(r"[0-9a-f]{64}", sha256)
        assert java.TEMURIN_VERSION.replace("+", "_") in name
    assert java.TEMURIN_VERSION.replace("+", "%2B") in java.BASE
    assert len({sha256 for sha256, _ in java.locked().values()}) == len(kinds)


def test_a_kind_of_machine_without_a_locked_one_gets_one_line_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(StackError, match=r"^Java 17 or 21 is needed: [^\n]*$"):
        java.find_java(tmp_path / "cache")
