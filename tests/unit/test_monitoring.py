"""deploy/monitoring scrapes the processes that exist, and uses only metrics that they export."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from candleflow.metrics.families import FAMILIES, PREFIX
from candleflow.settings import METRICS_PORTS

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "monitoring"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
CONFIG: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
RULES: dict[str, Any] = yaml.safe_load((FOLDER / "rules.yml").read_text())
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "grafana" / "dashboards" / "candleflow.json").read_text())

OTHERS = {
    "up",
    "active_sessions",  # Streamlit's
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    f"{PREFIX}trade_to_row_seconds_bucket",
}
OF_EVERY_PROCESS = {f"{PREFIX}{name}" for name in ("process_state", "last_beat_age_seconds", "build_info")}
RULE_EXPRESSIONS = {rule["alert"]: rule["expr"] for group in RULES["groups"] for rule in group["rules"]}
PANEL_EXPRESSIONS = {
    f"{panel['title']}, {target['legendFormat']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
}
WORDS_OF_PROMQL = {
    "and", "by", "histogram_quantile", "increase", "instance", "le", "min", "or", "rate", "sum", "verdict",
}  # fmt: skip


def exported() -> set[str]:
    of_one = {PREFIX + family.name for families in FAMILIES.values() for family in families}
    return of_one | OF_EVERY_PROCESS | OTHERS


@pytest.mark.parametrize("about", [*RULE_EXPRESSIONS, *PANEL_EXPRESSIONS])
def test_every_metric_of_a_rule_or_a_panel_is_exported(about: str) -> None:
    expression = {**RULE_EXPRESSIONS, **PANEL_EXPRESSIONS}[about]
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|[0-9.]+", " ", expression)
    named = set(re.findall(r"[a-z_]+", bare)) - WORDS_OF_PROMQL
    assert named
    assert named <= exported()


def test_each_alert_has_a_test_that_sees_it_fire() -> None:
    tests = yaml.safe_load((FOLDER / "rules_test.yml").read_text())["tests"]
    fired = {one["alertname"] for test in tests for one in test["alert_rule_test"] if one["exp_alerts"]}
    assert fired == RULE_EXPRESSIONS.keys()


def test_each_process_is_scraped_at_its_port() -> None:
    base = int(COMPOSE["services"]["producer"]["environment"]["CANDLEFLOW_METRICS_PORT"])
    ours, page = CONFIG["scrape_configs"]
    # Without its profile the simulator doesn't run, and a target that is down raises an alert.
    scraped = METRICS_PORTS.keys() & COMPOSE["services"].keys() - {"simulator"}
    assert set(ours["static_configs"][0]["targets"]) == {
        f"{name}:{base + METRICS_PORTS[name]}" for name in scraped
    }
    assert page["static_configs"] == [{"targets": ["dashboard:8501"]}]


def test_mounted_files_are_where_the_containers_look_for_them() -> None:
    targets = {
        name: [volume.split(":")[1] for volume in COMPOSE["services"][name]["volumes"]]
        for name in ("prometheus", "grafana")
    }
    config = "--config.file=/etc/prometheus/prometheus.yml"
    assert config in COMPOSE["services"]["prometheus"]["command"]
    assert {"/etc/prometheus/prometheus.yml", "/etc/prometheus/rules.yml"} <= set(targets["prometheus"])
    (provider,) = yaml.safe_load((FOLDER / "grafana/provisioning/dashboards/candleflow.yml").read_text())[
        "providers"
    ]
    assert provider["options"]["path"] in targets["grafana"]
    (source,) = yaml.safe_load((FOLDER / "grafana/provisioning/datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {source["uid"]}


def test_the_dashboards_panels_do_not_overlap() -> None:
    places = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(places) == len(set(places))
    assert max(x for x, _ in places) < 24


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool here: deploy/checkers installs it on Debian"
)
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "rules.yml"),
        ("test", "rules", "rules_test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_accepts(arguments: tuple[str, ...]) -> None:
    checked = subprocess.run(
        ["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, check=False, timeout=120
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
