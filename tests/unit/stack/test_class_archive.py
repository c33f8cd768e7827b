"""Class-data archives with real JVMs: when one is used, when it is ignored, and which process makes it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from candleflow.errors import StackError
from candleflow.stack import process
from candleflow.stack.class_archive import ClassArchive, kafka_archive, lower_priority, spark_archive


@pytest.fixture
def archive(tmp_path: Path, java_home: Path) -> ClassArchive:
    return kafka_archive(tmp_path / "cache", java_home, [])


@pytest.fixture
def listing(tmp_path: Path) -> Path:
    return tmp_path / "classes.txt"


def run(command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def start(archive: ClassArchive, listing: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return run([archive.java_home / "bin" / "java", *archive.java_options(listing), *more, "-version"])


def make(archive: ClassArchive, listing: Path) -> Path:
    """Make an archive from the classes that ``java -version`` loads and return its file."""
    assert start(archive, listing).returncode == 0
    assert archive.make(listing, "")
    found = archive.find()
    assert found is not None
    return found


def cut(path: Path) -> None:
    """Truncate the file to two thirds: a JVM that maps it crashes with SIGBUS."""
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size * 2 // 3)


def alter(path: Path) -> None:
    """Overwrite part of the header: a JVM that maps the file may crash with SIGSEGV."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(2_000)
        file.write(b"\xa5" * 4_000)


def test_the_first_jvm_lists_its_classes_and_the_next_maps_their_archive(
    archive: ClassArchive, listing: Path
) -> None:
    made = make(archive, listing)
    listed = listing.read_text()
    assert "java/lang/Object" in listed
    assert f"-XX:SharedArchiveFile={made}" in archive.java_options(listing)
    # Unlike auto, "on" makes a JVM fail if it can't map its archive.
    mapped = start(archive, listing, "-Xshare:on")
    assert mapped.returncode == 0, mapped.stdout + mapped.stderr
    assert not listing.exists()
    assert {one.name for one in archive.folder.iterdir()} == {made.name, "kafka.lock"}


@pytest.mark.parametrize("harm", [cut, alter])
def test_a_broken_archive_is_ignored_without_a_warning_and_made_again(
    archive: ClassArchive, listing: Path, harm: Callable[[Path], None]
) -> None:
    broken = make(archive, listing)
    plain = start(archive, listing, "-Xshare:off").stderr
    harm(broken)
    assert archive.find() is None
    started = start(archive, listing)
    assert (started.returncode, started.stdout) == (0, "")
    assert started.stderr.splitlines()[0] == plain.splitlines()[0]
    assert archive.make(listing, "")
    assert [archive.find()] == list(archive.folder.glob("*.jsa"))


def test_an_archive_that_does_not_fit_the_jvm_is_ignored_without_a_warning(
    archive: ClassArchive, listing: Path, tmp_path: Path
) -> None:
    make(archive, listing)
    other = tmp_path / "other.jar"
    other.write_bytes(b"PK\x05\x06" + bytes(18))
    plain = run([archive.java_home / "bin" / "java", "-version"])
    for options in (("-cp", str(other)), ("-XX:-UseCompressedClassPointers",)):
        started = start(archive, listing, *options)
        assert (started.returncode, started.stdout) == (0, "")
        assert started.stderr.splitlines()[0] == plain.stderr.splitlines()[0]


def test_a_half_made_archive_is_not_used_and_is_replaced(archive: ClassArchive, listing: Path) -> None:
    archive.folder.mkdir(parents=True)
    left = archive.folder / "kafka.part"
    left.write_bytes(b"half")
    assert archive.find() is None
    make(archive, listing)
    assert not left.exists()


def test_of_several_threads_only_one_makes_the_archive(archive: ClassArchive, listing: Path) -> None:
    start(archive, listing)
    results: list[bool] = []
    makers = [threading.Thread(target=lambda: results.append(archive.make(listing, ""))) for _ in range(3)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert sorted(results) == [False, False, True]
    assert archive.find() is not None


def test_nothing_is_made_while_another_process_makes_the_archive(
    archive: ClassArchive, listing: Path
) -> None:
    start(archive, listing)
    archive.folder.mkdir(parents=True)
    with (archive.folder / "kafka.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert archive.make(listing, "") is False
    assert archive.make(listing, "") is True


def test_a_folder_that_cannot_be_written_is_named(java_home: Path, tmp_path: Path, listing: Path) -> None:
    (tmp_path / "file").touch()
    archive = kafka_archive(tmp_path / "file", java_home, [])
    assert start(archive, listing).returncode == 0
    with pytest.raises(StackError, match=f"can't be archived in {tmp_path / 'file'}"):
        archive.make(listing, "")


def test_a_failed_run_reports_the_reason_and_leaves_no_file(archive: ClassArchive, listing: Path) -> None:
    listing.write_text("java/lang/Object id: nonsense\n")
    with pytest.raises(StackError, match=r"java ended with [1-9]"):
        archive.make(listing, "")
    assert {one.name for one in archive.folder.iterdir()} == {"kafka.lock"}


def test_a_stop_ends_the_jvm_that_makes_the_archive_and_leaves_no_file(tmp_path: Path, listing: Path) -> None:
    home = tmp_path / "home"
    (home / "bin").mkdir(parents=True)
    started = tmp_path / "started"
    (home / "bin" / "java").write_text(f"#!/bin/sh\ntouch {started}\nsleep 600\n")
    (home / "bin" / "java").chmod(0o755)
    archive = kafka_archive(tmp_path / "cache", home, [])
    listing.write_text("java/lang/Object\n")
    said: list[str] = []

    def body() -> None:
        try:
            archive.make(listing, "")
        except StackError as error:
            said.append(str(error))

    maker = threading.Thread(target=body)
    maker.start()
    assert process.wait_for(started.exists, 20)
    process.kill_runs()
    maker.join(20)
    assert not maker.is_alive()
    assert len(said) == 1
    assert {one.name for one in archive.folder.iterdir()} == {"kafka.lock"}


def test_the_last_used_archives_are_kept(archive: ClassArchive, listing: Path, tmp_path: Path) -> None:
    archive.folder.mkdir(parents=True)
    others = [archive.folder / f"kafka-{at:016x}-{at:064x}.jsa" for at in range(4)]
    spark = archive.folder / "spark-0-0.jsa"
    for at, one in enumerate([*others, spark]):
        one.touch()
        os.utime(one, (at, at))
    made = make(archive, listing)
    assert set(archive.folder.glob("*.jsa")) == {made, others[3], others[2], spark}


@pytest.mark.parametrize(
    "change",
    [
        lambda jars: jars[0].write_bytes(b"other"),
        lambda jars: os.utime(jars[0], (1, 1)),
        lambda jars: jars.reverse(),
        lambda jars: jars.append(jars[0].with_name("c.jar")),
        lambda jars: jars[1].unlink(),
    ],
    ids=["size", "time", "order", "one more", "one less"],
)
def test_another_class_path_has_another_archive(
    tmp_path: Path, java_home: Path, change: Callable[[list[Path]], object]
) -> None:
    """The key covers all that a JVM compares.

    Otherwise an archive that the JVM rejects would never be replaced.
    """
    jars = [tmp_path / name for name in ("a.jar", "b.jar")]
    for jar in [*jars, tmp_path / "c.jar"]:
        jar.write_bytes(b"jar")
    before = [make(tmp_path, java_home, jars).key for make in (kafka_archive, spark_archive)]
    again = [make(tmp_path, java_home, jars).key for make in (kafka_archive, spark_archive)]
    assert again == before
    change(jars)
    after = [make(tmp_path, java_home, jars).key for make in (kafka_archive, spark_archive)]
    assert not set(after) & set(before)


def test_another_java_has_another_archive(tmp_path: Path, java_home: Path) -> None:
    assert kafka_archive(tmp_path, java_home, []).key != kafka_archive(tmp_path, tmp_path, []).key


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's choice when memory runs out is Linux's")
def test_the_kernel_ends_the_archiving_jvm_before_any_other_process() -> None:
    done = process.run(["cat", "/proc/self/oom_score_adj"], before_exec=lower_priority)
    assert done.stdout.strip() == "1000"
