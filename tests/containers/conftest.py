"""The engine and the images, shared by all tests of containers, and a table of what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.containers import engine
from tests.containers.images import images as make_images

_FIGURES: pytest.StashKey[dict[str, str]] = pytest.StashKey()


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest) -> dict[str, str]:
    """What was measured, by its name. Printed at the end."""
    return request.config.stash.setdefault(_FIGURES, {})


@pytest.fixture(scope="session")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[str | Path]]:
    """The command of Docker Compose, while an engine runs."""
    with engine.engine(tmp_path_factory.mktemp("engine") / "dockerd.log"):
        yield engine.compose()


@pytest.fixture(scope="session")
def images(compose: Sequence[str | Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The images of ``python``, ``kafka`` and ``postgres``: the named ones, or stand-ins."""
    return make_images(tmp_path_factory.mktemp("images"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if figures := config.stash.get(_FIGURES, {}):
        terminalreporter.section("containers")
        for name, figure in figures.items():
            terminalreporter.write_line(f"{name:<40} {figure}")
