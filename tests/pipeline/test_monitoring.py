"""A real Prometheus with the configuration of deploy/monitoring scrapes a real process and the real page.

``test_compose.py`` does the same with all processes at once.
"""

from __future__ import annotations

import json
import shutil
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from candleflow.dashboard.process import command
from candleflow.settings import METRICS_PORTS
from candleflow.stack.process import free_port
from tests.processes import ROOT, START_SECONDS, awaited, environment, started

FOLDER = ROOT / "deploy" / "monitoring"


def told(port: int, path: str, **query: object) -> Any:
    """Return the data that Prometheus' API answers with. Raises OSError while it doesn't answer."""
    address = f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(address, timeout=30) as answer:
        return json.load(answer)["data"]


def values(port: int, query: str, label: str = "job") -> dict[str, float]:
    """Return the result of an instant query by label; an empty one while Prometheus doesn't answer."""
    try:
        found: list[dict[str, Any]] = told(port, "query", query=query)["result"]
    except OSError:
        return {}
    return {one["metric"].get(label, ""): float(one["value"][1]) for one in found}


def is_understood(port: int, query: str) -> bool:
    """Return whether Prometheus accepts the query, even if the result is empty."""
    try:
        told(port, "query", query=query)
    except urllib.error.HTTPError:
        return False
    return True


def prometheus(folder: Path, port: int, where: Callable[[str], str], interval: str = "1s") -> list[str]:
    """Return the command of a Prometheus on ``port`` with the configuration of deploy/monitoring.

    It scrapes once per ``interval``. ``where`` maps a target such as ``producer:9464`` to an address.
    """
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": interval, "evaluation_interval": interval}
    for job in config["scrape_configs"]:
        (targets,) = job["static_configs"]
        targets["targets"] = sorted(set(map(where, targets["targets"])))
    shutil.copy(FOLDER / "rules.yml", folder)
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    return [
        "prometheus",
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]


needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="no prometheus here: deploy/checkers installs it on Debian"
)


@needs_prometheus
def test_prometheus_reads_a_process_and_the_page(tmp_path: Path) -> None:
    simulator, page, own = (free_port() for _ in range(3))
    first = simulator - METRICS_PORTS["simulator"]
    variables = environment(data_dir=tmp_path / "data", metrics_port=first)

    def where(target: str) -> str:
        return f"127.0.0.1:{page if target.startswith('dashboard:') else simulator}"

    logs = {name: tmp_path / f"{name}.log" for name in ("simulator", "page", "prometheus")}

    def said() -> str:
        return "\n".join(log.read_text()[-2_000:] for log in logs.values() if log.exists())

    def held(query: str, is_there: Callable[[dict[str, float]], bool] = bool) -> dict[str, float]:
        def look() -> dict[str, float] | None:
            found = values(own, query)
            return found if is_there(found) else None

        return awaited(look, START_SECONDS, said) or {}

    with (
        started(
            [sys.executable, "-m", "candleflow", "simulate", "--port", "0"], variables, logs["simulator"]
        ),
        started(command(page), variables, logs["page"]),
        started(prometheus(tmp_path, own, where), variables, logs["prometheus"]),
    ):
        held("up", lambda found: found == {"candleflow": 1.0, "dashboard": 1.0})
        assert held('candleflow_process_state{state="running"}') == {"candleflow": 1.0}
        assert held("active_sessions") == {"dashboard": 0.0}
        assert held("candleflow_simulator_clients") == {"candleflow": 0.0}
        for panel in json.loads((FOLDER / "grafana" / "dashboards" / "candleflow.json").read_text())[
            "panels"
        ]:
            for target in panel["targets"]:
                assert is_understood(own, target["expr"]), target["expr"]
