"""The trust strip with all processes of `up`: its values agree with those of an outside observer."""

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
"""Allowed difference. The observer polls every 10 ms, and takes CPU time from the processor."""
AUDIT_SECONDS = 240
"""Time limit for a comparison: once a minute the auditor compares candles that are half a minute old."""


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
        CANDLEFLOW_HISTORY_HOURS="1",  # without history the very first candle is incomplete
    )
    yield one
    one.end()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_strip_shows_the_state_of_the_running_system(
    machine: Machine, driver: webdriver.Chrome, pictures: Path
) -> None:
    machine.start("up")
    page = Page(driver, machine.status()["dashboard_url"])
    page.open("look_back=5+m")
    wait_for_states(page, dict.fromkeys(("age", "latency", "lag", "processes"), "good"), AUDIT_SECONDS)
    wait_for_states(page, {"klines": "good"}, AUDIT_SECONDS)

    output = machine.run("latency", "--seconds", "60").stdout
    observed = {name: float(found) for name, found in re.findall(r"(p50|p99) (\d+)", output)}
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
    # Trades that the stopped producer held back were late, and latency is of the last minute.
    wait_for_states(page, dict.fromkeys(NAMES, "good"), 120)
