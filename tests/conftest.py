"""Real servers for the tests, one of each per session, on free ports and in temporary folders."""

from __future__ import annotations

import hashlib
import re
import subprocess
import time
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import hypothesis
import pyspark
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from candleflow import settings
from candleflow.stack.jars import ensure_jars
from candleflow.stack.java import find_java
from candleflow.stack.kafka import KafkaServer
from candleflow.stack.postgres import PostgresServer
from candleflow.stack.process import free_port
from tests.processes import ROOT

pytest_plugins = ["tests.store_fixtures", "tests.spark_fixtures"]

# Hypothesis judges by the clock how long an example takes. On a busy machine that fails sound tests.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

_GROUPS = ("page", "Spark", "")
"""The page's tests, which share a browser, and those of the Spark session. A single worker runs all tests of
such a group. They take longest, so they start first. The other tests have no group."""


def pytest_report_header() -> str:
    return f"Spark {pyspark.__version__}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--minutes",
        type=float,
        help="start no test after this many minutes; skip the rest and name their files",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort the tests by ``_GROUPS``.

    With ``--minutes``, the order of the files depends on the commit, so that not always the same files are
    skipped.
    """
    items.sort(key=lambda item: _GROUPS.index(_group(item.path)))
    if config.getoption("minutes") is not None:
        asked = subprocess.run(("git", "rev-parse", "HEAD"), cwd=ROOT, capture_output=True, check=False)
        items.sort(
            key=lambda item: hashlib.sha256(asked.stdout + bytes(item.path.relative_to(ROOT))).digest()
        )


_BEGAN_AT = time.monotonic()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    minutes: float | None = item.config.getoption("minutes")
    if minutes is not None and time.monotonic() - _BEGAN_AT > 60 * minutes:
        pytest.skip(f"skipped after {minutes:g} minutes: {item.path.relative_to(ROOT)}")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    return _Groups(config, log)


@cache
def _group(file: Path) -> str:
    """Return which of ``_GROUPS`` the file is in."""
    if file.parent == ROOT / "tests" / "dashboard":
        return "page"
    return "Spark" if "spark: SparkSession" in file.read_text() else ""


class _Groups(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
    """Gives each worker whole files, which share servers, and a single worker all files of a group."""

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        return _group(ROOT / file) or file


@pytest.fixture(scope="session")
def cache_dir() -> Path:
    """The jar cache of the settings, which tests share with `make run`."""
    return settings.load().stack.cache_path


@pytest.fixture(scope="session")
def java_home(cache_dir: Path) -> Path:
    return find_java(cache_dir)


@pytest.fixture(scope="session")
def spark_jars(cache_dir: Path) -> list[Path]:
    """The jars that pyspark doesn't include: the Kafka connector, the PostgreSQL driver, ..."""
    return ensure_jars("spark", cache_dir)


@pytest.fixture(scope="session")
def kafka_jars(cache_dir: Path) -> list[Path]:
    return ensure_jars("kafka", cache_dir)


@pytest.fixture(scope="session")
def kafka(
    tmp_path_factory: pytest.TempPathFactory, java_home: Path, kafka_jars: list[Path]
) -> Iterator[KafkaServer]:
    """The session's broker. A test that stops a broker or damages its data uses ``own_broker``."""
    server = KafkaServer(tmp_path_factory.mktemp("kafka"), free_port(), java_home, kafka_jars, "256m")
    server.start()
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def kafka_bootstrap(kafka: KafkaServer) -> str:
    return kafka.bootstrap


@pytest.fixture
def own_broker(tmp_path: Path, java_home: Path, kafka_jars: list[Path]) -> Iterator[KafkaServer]:
    """A broker for one test, which may stop or kill it."""
    server = KafkaServer(tmp_path / "kafka", free_port(), java_home, kafka_jars, "256m")
    server.start()
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.kill()


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A unique topic name; the topic isn't created."""
    test = re.sub(r"[^A-Za-z0-9]+", "-", request.node.name)[:60]
    return f"{test}-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """The session's PostgreSQL server. A test that stops a server or damages its data uses ``own_server``.

    It runs with fsync off, because test data needn't survive a power cut.
    """
    folder = tmp_path_factory.mktemp("postgres")
    server = PostgresServer(folder, free_port(), credentials=folder / "credentials.json", fsync=False)
    server.start()
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()
