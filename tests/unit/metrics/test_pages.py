"""The pages ``/metrics``, ``/healthz`` and ``/readyz`` for a given heartbeat and time.

Prometheus' own parser reads the metrics.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from candleflow import __version__
from candleflow.engine.recent_latency import BOUNDS_SECONDS, LiveTrades, RecentLatency
from candleflow.metrics.families import FAMILIES
from candleflow.metrics.pages import SILENT_SECONDS, Answer, Pages
from candleflow.telemetry import ByLabel, Counts, HeartbeatFile

HOSTILE = 'A",state="x"} 1\nforged_total 9\n# TYPE x counter\r\\\x1b[31m\u2028'
PROMTOOL = shutil.which("promtool")


class Scene:
    """A process with a heartbeat, and a clock that the test sets."""

    def __init__(self, folder: Path, name: str) -> None:
        self.heartbeat = HeartbeatFile(folder / "run", name)
        self.later = 0.0
        self.pages = Pages(self.heartbeat, lambda: self.heartbeat.last[1] + self.later)

    def families(self) -> dict[str, Metric]:
        text = self.pages.metrics().body.decode()
        return {one.name: one for one in text_string_to_metric_families(text)}

    def value(self, name: str, **labels: str) -> float:
        (found,) = (
            one.value
            for family in self.families().values()
            for one in family.samples
            if one.name == name and labels.items() <= one.labels.items()
        )
        return found


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path, "producer")


def test_the_producer_of_a_shard_exports_the_same_under_its_own_name(tmp_path: Path) -> None:
    one = Scene(tmp_path, "producer-2-of-4")
    one.heartbeat.beat("running", counts={"published": 7})
    assert one.value("candleflow_trades_published_total") == 7
    assert one.value("candleflow_process_state", process="producer-2-of-4", state="running") == 1


def said(answer: Answer) -> tuple[int, str]:
    return int(answer.status), answer.body.decode()


def every_count(process: str, *symbols: str) -> tuple[Counts, ByLabel]:
    """Return every count that the process can report."""
    one: dict[str, int] = {}
    by_symbol: dict[str, Counts] = {}
    for family in FAMILIES[process]:
        for place, count in enumerate(family.counts, 1):
            if family.of_symbols:
                by_symbol[count] = dict.fromkeys(symbols, place)
            else:
                one[count] = place
    return one, by_symbol | ({"latency": latencies()} if process == "processor" else {})


def test_counts_since_the_start_are_counters_and_current_values_are_gauges(scene: Scene) -> None:
    scene.heartbeat.beat("running", "", {"received": 7, "in_flight": 3, "loop_lag_ms": 250})
    families = scene.families()
    assert families["candleflow_trades_received"].type == "counter"
    assert families["candleflow_trades_in_flight"].type == "gauge"
    assert scene.value("candleflow_trades_received_total") == 7
    assert scene.value("candleflow_event_loop_lag_seconds") == pytest.approx(0.25)
    scene.heartbeat.beat("running", "", {"received": 9})
    assert scene.value("candleflow_trades_received_total") == 9
    assert (
        "candleflow_trades_in_flight" not in scene.families()
    )  # a count that is no longer reported is not exported


def test_state_version_and_age_are_exported_for_every_process(scene: Scene) -> None:
    assert scene.value("candleflow_build_info", version=__version__, process="producer") == 1
    scene.heartbeat.beat("waiting", "for Kafka")
    scene.later = 4.0
    assert scene.value("candleflow_process_state", state="waiting") == 1
    assert scene.value("candleflow_process_state", state="running") == 0
    assert scene.value("candleflow_last_beat_age_seconds") == pytest.approx(4.0)
    assert scene.value("process_resident_memory_bytes") > 1_000_000


@pytest.mark.parametrize("process", FAMILIES)
def test_each_family_is_exported_with_type_and_help(process: str, tmp_path: Path) -> None:
    scene = Scene(tmp_path, process)
    scene.heartbeat.beat("running", "", *every_count(process, "BTCUSDT"))
    text = scene.pages.metrics().body.decode()
    for family in FAMILIES[process]:
        kind = "counter" if family.name.endswith("_total") else "gauge"
        assert f"# TYPE candleflow_{family.name} {kind}\n" in text
        assert f"# HELP candleflow_{family.name} {family.help}\n" in text


def latencies() -> dict[str, float]:
    latency = RecentLatency()
    now = 1_723_118_400_000_000
    for milliseconds in (-20, 40, 180, 180, 4_000, 400_000):
        at = now - milliseconds * 1_000
        latency.note([LiveTrades(at, at, 1)], 1, now)
    return latency.histogram()


def test_latencies_become_a_histogram(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "processor")
    scene.heartbeat.beat("running", "", by_label={"latency": latencies()})
    name = "candleflow_trade_to_row_seconds"
    found = {
        le: scene.value(f"{name}_bucket", le=le) for le in ("0", "0.05", "0.1", "0.2", "5", "300", "+Inf")
    }
    assert found == {"0": 1, "0.05": 2, "0.1": 2, "0.2": 4, "5": 5, "300": 5, "+Inf": 6}
    assert len(scene.families()[name].samples) == len(BOUNDS_SECONDS) + 3
    assert scene.value(f"{name}_count") == 6
    assert scene.value(f"{name}_sum") == pytest.approx(404.38, rel=0.01)


def test_no_symbol_and_no_message_can_forge_a_line(scene: Scene) -> None:
    scene.heartbeat.beat("running", HOSTILE, {"received": 1}, {"age_s": {HOSTILE: 1.0}})
    families = scene.families()
    assert not [name for name in families if "forged" in name]
    (age,) = families["candleflow_last_trade_age_seconds"].samples
    assert age.labels == {"symbol": HOSTILE}
    status, words = said(scene.pages.readiness())
    assert status == 200
    assert words.count("\n") == 1
    assert words.endswith("\\x0d\\\\x1b[31m\\x2028\n")


def test_healthy_while_it_beats_and_not_once_it_has_stopped(scene: Scene) -> None:
    assert said(scene.pages.health()) == (200, "ok\n")  # it has not sent a heartbeat yet
    scene.heartbeat.beat("waiting", "for Kafka")
    scene.later = SILENT_SECONDS
    assert said(scene.pages.health()) == (200, "ok\n")
    scene.later = SILENT_SECONDS + 1
    assert said(scene.pages.health()) == (503, "no heartbeat for 31 s\n")
    assert said(scene.pages.readiness()) == (503, "no heartbeat for 31 s\n")
    scene.heartbeat.beat("running")
    scene.later = 0.0
    assert said(scene.pages.health()) == (200, "ok\n")


def test_a_process_that_never_beats_is_not_healthy_for_ever(scene: Scene) -> None:
    scene.later = SILENT_SECONDS + 1
    assert said(scene.pages.health())[0] == 503


def test_ready_only_while_it_runs_with_the_reason_otherwise(scene: Scene) -> None:
    assert said(scene.pages.readiness()) == (503, "starting\n")
    scene.heartbeat.beat("waiting", "for Kafka at 127.0.0.1:9092")
    assert said(scene.pages.readiness()) == (503, "waiting: for Kafka at 127.0.0.1:9092\n")
    scene.heartbeat.beat("running", "BTCUSDT")
    assert said(scene.pages.readiness()) == (200, "running: BTCUSDT\n")
    scene.heartbeat.beat("stopping")
    assert said(scene.pages.readiness()) == (503, "stopping\n")


def test_another_path_is_not_found(scene: Scene) -> None:
    assert said(scene.pages.answer("/"))[0] == 404
    assert said(scene.pages.answer("/healthz")) == (200, "ok\n")


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool here: deploy/checkers installs it on Debian")
@pytest.mark.parametrize("process", FAMILIES)
def test_promtool_reports_nothing(process: str, tmp_path: Path) -> None:
    scene = Scene(tmp_path, process)
    scene.heartbeat.beat("running", "", *every_count(process, "BTCUSDT", "ETHUSDT"))
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=scene.pages.metrics().body,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
