"""A pipeline for each fault test, and a summary of all faults and results at the end of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from tests.faults.feeds import Feed
from tests.faults.pipeline import Pipeline
from tests.faults.schedule import SEED_VARIABLE, chance, chosen_seed
from tests.faults.verdicts import Report, tables

MakePipeline = Callable[..., Pipeline]
"""``make(feed, **settings)``."""
_REPORTS: pytest.StashKey[list[Report]] = pytest.StashKey()


@pytest.fixture
def make_pipeline(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    java_home: Path,
    kafka_jars: list[Path],
    spark_jars: list[Path],
) -> Iterator[MakePipeline]:
    """Return a function that makes pipelines, not started yet. All are removed when the test ends."""
    assert spark_jars, "download the jars before a processor has a deadline to start"
    made: list[Pipeline] = []
    reports = request.config.stash.setdefault(_REPORTS, [])

    def make(feed: Feed, *, brokers: int = 1, **settings: object) -> Pipeline:
        folder = tmp_path / f"pipeline-{len(made)}"
        folder.mkdir()
        report = Report(request.node.name.removeprefix("test_").replace("_", " "), feed.words)
        reports.append(report)
        made.append(Pipeline(report, folder, java_home, kafka_jars, feed, brokers=brokers, **settings))
        made[-1].__enter__()
        return made[-1]

    yield make
    for one in made:
        one.__exit__()


@pytest.fixture(scope="session")
def fault_seed() -> int:
    """The seed of all random choices."""
    return chosen_seed()


@pytest.fixture
def announce(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Return a function that prints random choices at once, and again in the output of a failed test."""
    plugins = request.config.pluginmanager
    capture, reporter = plugins.get_plugin("capturemanager"), plugins.get_plugin("terminalreporter")

    def say(text: str) -> None:
        print(text)
        if capture is not None and reporter is not None:
            with capture.global_and_fixture_disabled():
                reporter.write_line(f"\n{text}")

    return say


@pytest.fixture
def random(request: pytest.FixtureRequest, fault_seed: int, announce: Callable[[str], None]) -> Random:
    """A random generator for the test, seeded with the seed and the test's name."""
    announce(f"{request.node.name}: {SEED_VARIABLE}={fault_seed} repeats this run")
    return chance(fault_seed, request.node.name)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    reports = config.stash.get(_REPORTS, [])
    if reports:
        terminalreporter.section("faults")
        terminalreporter.write(tables(reports))
