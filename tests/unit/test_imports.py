"""Which package may import which; ARCHITECTURE.md states the rule. It calls a package a room."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import candleflow

PACKAGE = Path(candleflow.__file__).parent
COMMON = {"market", "settings", "errors", "telemetry", "proxies", "command", "backoff", "process_loop"}
SYSTEMS = {"exchange", "broker", "engine", "store"}
"""The rooms that wrap an outside system; none imports another."""
PROCESSES = {"producer", "processor", "dashboard", "alerts", "forecast", "audit", "history", "simulator"}
ALLOWED = {
    "market": {"market", "errors"},
    "errors": set(),
    "command": set(),
    "backoff": set(),
    "process_loop": {"errors", "settings", "telemetry"},
    "settings": {"market", "errors", "proxies", "settings"},
    "telemetry": {"errors"},
    "proxies": {"errors"},
    "metrics": {"metrics", *COMMON},
    **{room: {room, *COMMON} for room in SYSTEMS},
    **{room: {"metrics", *COMMON, *SYSTEMS, *PROCESSES} for room in PROCESSES},
}
PURE_STANDARD_LIBRARY_ONLY = "market"
CLOCK_AND_IO = {"time", "datetime", "os", "socket", "pathlib", "random", "threading", "asyncio", "logging"}


@cache
def nodes(file: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(file.read_text())))


def imports(file: Path) -> Iterator[str]:
    for node in nodes(file):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide the imported package"
            yield node.module or ""


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda f: str(f.relative_to(PACKAGE)))
def test_a_room_imports_only_what_it_may(file: Path) -> None:
    relative = file.relative_to(PACKAGE)
    here = relative.parts[0].removesuffix(".py")
    ours = {room(name) for name in imports(file) if name.split(".")[0] == "candleflow"}
    allowed = ALLOWED.get(here)
    if allowed is not None:
        assert ours - {""} <= allowed, f"{relative} imports {sorted(ours - allowed)}"


@pytest.mark.parametrize(
    "file", sorted((PACKAGE / PURE_STANDARD_LIBRARY_ONLY).glob("*.py")), ids=lambda f: f.name
)
def test_the_market_package_uses_no_clock_and_no_io(file: Path) -> None:
    assert not {name.split(".")[0] for name in imports(file)} & CLOCK_AND_IO


def test_only_the_settings_read_the_environment() -> None:
    """Code that starts a child process may pass the environment on. No other code reads it."""
    readers = {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        if "getenv" in file.read_text() or 'environ.get("CANDLEFLOW' in file.read_text()
    }
    assert readers <= {"settings/__init__.py"}


def test_nothing_evaluates_text_as_code() -> None:
    for file in PACKAGE.rglob("*.py"):
        for node in nodes(file):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec"}, file
        assert not {"pickle", "marshal", "shelve"} & set(imports(file)), file
