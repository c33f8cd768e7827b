"""docker-compose.yml in a real engine, with all services and the simulated exchange.

The tests share one set of containers and run in the order of the file: what comes up must be right, must
survive the loss of each process and of Kafka's data, and must stop cleanly.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from selenium import webdriver

from tests.containers.engine import docker
from tests.containers.stack import AUDIT_SECONDS, FLOW_SECONDS, OURS, SERVICES, Stack
from tests.dashboard.browser import MISSING, Page, chromium
from tests.processes import ROOT, awaited

pytestmark = [pytest.mark.containers, pytest.mark.timeout(3_600)]

RUNNING = [name for name, one in SERVICES.items() if "monitoring" not in one.get("profiles", ())]
NO_CAPABILITY = "0" * 16
ENDED_BY_SIGTERM = 143
"""128 and the signal's number: how a JVM ends after a clean stop. One that had to be killed has 137."""
_PEAK = "cat /sys/fs/cgroup/memory.peak 2>/dev/null || cat /sys/fs/cgroup/memory/memory.max_usage_in_bytes"


@pytest.fixture(scope="module")
def stack(
    compose: Sequence[str | Path],
    images: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
    figures: dict[str, str],
) -> Iterator[Stack]:
    """All services, started as a user starts them, and healthy."""
    figures |= {f"image of {kind}": name for kind, name in images.items()}
    one = Stack(
        "candleflow-test", tmp_path_factory.mktemp("stack") / "all", compose, images, ["all", "simulated"]
    )
    one.remove()
    try:
        measured(figures, "build", one.build)
        figures["image size"] = (
            f"{int(docker('image', 'inspect', '--format={{.Size}}', one.image)) / 1e6:,.0f} MB"
        )
        start(one, figures)
        yield one
    finally:
        one.remove()


def start(stack: Stack, figures: dict[str, str]) -> None:
    """Run ``docker compose up -d``; measure the time to the first candle, the page, and all services."""
    began = time.monotonic()

    def note(what: str, is_there: Callable[[], object]) -> None:
        awaited(lambda: is_there() or up.poll(), FLOW_SECONDS, stack.logs)
        figures[f"from up to {what}"] = f"{time.monotonic() - began:.0f} s"

    with subprocess.Popen(
        stack.command("up", "-d"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as up:
        note("the first candle", stack.stored)
        note("the page", stack.page_answers)
        said, _ = up.communicate(timeout=FLOW_SECONDS)
    assert up.returncode == 0, said + stack.logs()
    note("healthy services", lambda: not stack.unhealthy())


def measured(figures: dict[str, str], what: str, do: Callable[[], object]) -> None:
    began = time.monotonic()
    do()
    figures[what] = f"{time.monotonic() - began:.0f} s"


def test_every_service_is_healthy(stack: Stack) -> None:
    assert sorted(stack.containers()) == sorted(RUNNING)
    assert stack.unhealthy() == []


def test_every_candle_is_exact(stack: Stack, figures: dict[str, str]) -> None:
    figures["exact candles after the start"] = str(stack.wait_for_exact_candles())


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    if MISSING:
        pytest.skip(MISSING)
    with chromium() as started:
        yield started


def test_the_page_is_drawn_and_says_that_the_market_is_simulated(
    stack: Stack, browser: webdriver.Chrome
) -> None:
    page = Page(browser, stack.page_url())
    page.open()
    assert page.wait_for_candles() > 0
    page.wait_for_updates(3)
    page.wait_for_text("SIMULATED")
    assert page.failures() == page.problems() == []
    browser.get("about:blank")


def test_ports_are_published_on_the_loopback_address_only(stack: Stack) -> None:
    published = {
        (name, port["HostIp"])
        for name, one in stack.containers().items()
        for ports in one["NetworkSettings"]["Ports"].values()
        for port in ports or ()
    }
    assert published == {(name, "127.0.0.1") for name in stack.ports}


@pytest.mark.parametrize("name", RUNNING)
def test_no_process_is_root_or_has_a_capability(stack: Stack, name: str) -> None:
    """Health checks run with the container's user, so processes are looked at between two of them."""

    def found() -> set[tuple[str, ...]]:
        pids = " ".join(map(str, stack.processes(name)))
        said = stack.on_machine(f"for pid in {pids}; do grep -hE '^(Uid|CapEff):' /proc/$pid/status; done")
        return {tuple(line.split()) for line in said.splitlines()}

    def is_right() -> bool:
        seen = found()
        return ("CapEff:", NO_CAPABILITY) in seen and all(
            "0" not in line[1:] and (line[0] != "CapEff:" or line[1] == NO_CAPABILITY) for line in seen
        )

    awaited(is_right, 30, lambda: str(found()))


@pytest.mark.parametrize("name", OURS)
def test_our_root_file_system_is_read_only(stack: Stack, name: str) -> None:
    assert stack.containers()[name]["HostConfig"]["ReadonlyRootfs"]


def test_memory_stays_below_its_limit(stack: Stack, figures: dict[str, str]) -> None:
    for name, one in stack.containers().items():
        peak, limit = int(docker("exec", one["Id"], "sh", "-c", _PEAK)), one["HostConfig"]["Memory"]
        figures[f"memory of {name}, peak"] = f"{peak / 2**20:,.0f} of {limit / 2**20:,.0f} MiB"
        assert 0 < peak < limit, name
        assert not one["State"]["OOMKilled"], name


@pytest.mark.long
@pytest.mark.parametrize("name", RUNNING)
def test_a_killed_process_comes_back_and_no_candle_is_wrong(
    stack: Stack, figures: dict[str, str], name: str
) -> None:
    """The process is killed from outside, because ``docker kill`` counts as a stop by the user."""
    before = stack.containers()[name]
    has_init = before["HostConfig"].get("Init")
    began = time.monotonic()
    stack.on_machine(f"kill -9 {stack.processes(name)[1 if has_init else 0]}")
    awaited(lambda: stack.containers()[name]["RestartCount"] > before["RestartCount"], 60, stack.logs)
    stack.wait_until_healthy()
    figures[f"{name} killed, until healthy"] = f"{time.monotonic() - began:.0f} s"
    stack.wait_for_exact_candles()


@pytest.mark.long
def test_candles_stay_when_the_containers_are_removed_and_made_again(
    stack: Stack, figures: dict[str, str]
) -> None:
    before = stack.stored().keys()
    stack.run("down")
    assert stack.containers() == {}
    measured(figures, "second up", lambda: stack.run("up", "-d"))
    stack.wait_until_healthy()
    assert before <= stack.stored().keys()
    stack.wait_for_exact_candles()


@pytest.mark.long
def test_a_lost_kafka_volume_is_accepted_by_the_documented_command(
    stack: Stack, figures: dict[str, str]
) -> None:
    stack.run("down")
    docker("volume", "rm", f"{stack.name}_kafka-data")
    stack.run("up", "-d")
    command = "docker compose exec processor python -m candleflow adopt-topic"
    assert command in (ROOT / "docs" / "start" / "docker.md").read_text()
    awaited(lambda: "adopt-topic" in stack.logs("processor"), FLOW_SECONDS, stack.logs)
    stack.run("exec", "-T", *command.split()[3:])
    measured(figures, "topic adopted, until exact", lambda: stack.wait_for_exact_candles(AUDIT_SECONDS))
    stack.wait_until_healthy()


def test_no_log_has_a_traceback(stack: Stack) -> None:
    said = stack.run("logs", "--no-color")
    assert re.findall(r"^.*Traceback.*(?:\n.*){0,40}", said, re.MULTILINE) == []


def test_every_service_stops_within_its_grace_period(stack: Stack, figures: dict[str, str]) -> None:
    measured(figures, "stop of all services", lambda: stack.run("stop"))
    ended = {name: one["State"]["ExitCode"] for name, one in stack.containers().items()}
    assert ended == {name: ENDED_BY_SIGTERM if name == "kafka" else 0 for name in RUNNING}
