"""Which Java is taken: by its release file, in which order, and what is said when there is none."""

from __future__ import annotations

from pathlib import Path

import jdk
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


def test_a_java_home_that_does_not_suit_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(home(tmp_path / "old", "11")))
    monkeypatch.setenv("PATH", str(home(tmp_path / "good", "17") / "bin"))
    assert java.find_java(tmp_path / "cache") == tmp_path / "good"


def test_a_link_on_the_path_is_followed_to_its_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = home(tmp_path / "real", "17")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").symlink_to(real / "bin" / "java")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert java.find_java(tmp_path / "cache") == real


def test_a_java_that_was_brought_once_is_used_again(tmp_path: Path) -> None:
    brought = home(tmp_path / "cache" / "java" / "jdk-17.0.15", "17.0.15")
    assert java.find_java(tmp_path / "cache") == brought


def test_where_there_is_none_one_is_brought_and_moved_into_place_when_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def install(version: str, path: str) -> str:
        return str(home(Path(path) / "jdk-17.0.15+6", f"{version}.0.15"))

    monkeypatch.setattr(jdk, "install", install)
    assert java.find_java(tmp_path / "cache") == tmp_path / "cache" / "java" / "jdk-17.0.15+6"
    assert [one.name for one in (tmp_path / "cache" / "java").iterdir()] == ["jdk-17.0.15+6"]


def test_when_none_can_be_brought_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(version: str, path: str) -> str:
        raise jdk.JdkError("no network")

    monkeypatch.setattr(jdk, "install", refuse)
    with pytest.raises(StackError, match=r"^Java 17 or 21 is needed: .*no network\)$") as caught:
        java.find_java(tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache" / "java").iterdir()) == []
