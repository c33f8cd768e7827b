"""A real Prometheus, with the configuration of deploy/monitoring, asks a real process and the real page."""

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

from candleflow.services.dashboard import command
from candleflow.settings import METRICS_PORTS
from candleflow.stack.process import free_port
from tests.processes import ROOT, START_SECONDS, awaited, environment, started

FOLDER = ROOT / "deploy" / "monitoring"


def values(prometheus: str, query: str) -> dict[str, float]:
    """What Prometheus holds for an instant query, by the job; nothing while it can't be asked."""
    url = f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - of this machine
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    except OSError:
        return {}
    return {one["metric"].get("job", ""): float(one["value"][1]) for one in found}


def is_understood(prometheus: str, query: str) -> bool:
    """Whether the query can be answered, if with nothing."""
    url = f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - of this machine
            return bool(json.load(answer)["status"] == "success")
    except urllib.error.HTTPError:
        return False


def configuration(folder: Path, ports: dict[str, int]) -> Path:
    """The one of deploy/monitoring, but for where the processes are, and that they are asked each second."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [f"127.0.0.1:{ports[job['job_name']]}"]}]
    shutil.copy(FOLDER / "rules.yml", folder)
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    return file


@pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="no prometheus here: deploy/checkers installs it on Debian"
)
def test_prometheus_reads_a_process_and_the_page(tmp_path: Path) -> None:
    ports, own = {"candleflow": free_port(), "dashboard": free_port()}, free_port()
    first = ports["candleflow"] - METRICS_PORTS["simulator"]
    variables = environment(data_dir=tmp_path / "data", metrics_port=first)
    listening = f"127.0.0.1:{own}"
    prometheus = [
        "prometheus",
        f"--config.file={configuration(tmp_path, ports)}",
        f"--storage.tsdb.path={tmp_path / 'tsdb'}",
        f"--web.listen-address={listening}",
    ]
    logs = {name: tmp_path / f"{name}.log" for name in ("simulator", "page", "prometheus")}

    def said() -> str:
        return "\n".join(log.read_text()[-2_000:] for log in logs.values() if log.exists())

    def held(query: str, is_there: Callable[[dict[str, float]], bool] = bool) -> dict[str, float]:
        def look() -> dict[str, float] | None:
            found = values(f"http://{listening}", query)
            return found if is_there(found) else None

        return awaited(look, START_SECONDS, said) or {}

    with (
        started(
            [sys.executable, "-m", "candleflow", "simulate", "--port", "0"], variables, logs["simulator"]
        ),
        started(command(ports["dashboard"]), variables, logs["page"]),
        started(prometheus, variables, logs["prometheus"]),
    ):
        held("up", lambda found: found == {"candleflow": 1.0, "dashboard": 1.0})
        assert held('candleflow_process_state{state="running"}') == {"candleflow": 1.0}
        assert held("active_sessions") == {"dashboard": 0.0}
        assert held("candleflow_simulator_clients") == {"candleflow": 0.0}
        for panel in json.loads((FOLDER / "grafana" / "dashboards" / "candleflow.json").read_text())[
            "panels"
        ]:
            for target in panel["targets"]:
                assert is_understood(f"http://{listening}", target["expr"]), target["expr"]
