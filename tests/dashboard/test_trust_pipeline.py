"""The trust strip over everything that `up` runs: what it tells is what an observer from outside finds."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from selenium import webdriver

from tests.dashboard.browser import Page
from tests.dashboard.test_trust import NAMES, wait_for_states
from tests.pipeline.test_stack_up import Machine, machine_in

AGREE_MS = 30.0
"""The observer polls each 10 ms, and its polls cost the processor some of two cores."""
AUDIT_SECONDS = 240
"""The auditor compares what is half a minute old, once a minute."""


@pytest.fixture
def machine(
    tmp_path: Path, kafka_jars: list[Path], spark_jars: list[Path], java_home: Path
) -> Iterator[Machine]:
    assert kafka_jars
    assert spark_jars
    tmp_path.chmod(0o700)
    one = machine_in(
        tmp_path,
        CANDLEFLOW_SIMULATOR_RATE="200",
        CANDLEFLOW_HISTORY_HOURS="1",  # without it the very first candle is incomplete, and found so
    )
    yield one
    one.end()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_strip_tells_what_everything_running_is_like(
    machine: Machine, driver: webdriver.Chrome, pictures: Path
) -> None:
    machine.start("up")
    page = Page(driver, machine.status()["dashboard_url"])
    page.open("look_back=5+m")
    wait_for_states(page, dict.fromkeys(("age", "latency", "lag", "processes"), "good"), AUDIT_SECONDS)
    wait_for_states(page, {"klines": "good"}, AUDIT_SECONDS)

    told = machine.run("latency", "--seconds", "60").stdout
    observed = {name: float(found) for name, found in re.findall(r"(p50|p99) (\d+)", told)}
    (processor,) = [one for one in machine.status()["processes"] if one["name"] == "processor"]
    own = {name: processor["counts"][f"latency_ms_{name}"] for name in observed}
    print(f"trade to row over the same minute, ms: observed {observed}, the processor's own {own}")
    assert own["p50"] == pytest.approx(observed["p50"], abs=AGREE_MS)

    producer = psutil.Process(machine.pids()["producer"])
    producer.send_signal(signal.SIGSTOP)
    wait_for_states(page, {"processes": "bad"}, 15)
    assert page.trust("processes") == "producer silent"
    page.wait(lambda: "seconds ago" in page.trust("age"), "the last trade grows old")
    page.save(pictures / "producer-cut.png")
    producer.send_signal(signal.SIGCONT)
    # What the producer held back was late, and latency is told of the last minute.
    wait_for_states(page, dict.fromkeys(NAMES, "good"), 120)
