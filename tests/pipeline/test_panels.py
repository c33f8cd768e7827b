"""Each query of the Grafana dashboard returns something to draw, and no alert fires while nothing is wrong.

A real Prometheus with the configuration of deploy/monitoring reads all processes of ``candleflow up``.
Grafana itself doesn't run: the test sends the queries that Grafana would send.

The test waits until no query is empty. The last one is the forecasts' skill, which needs 100 scored
forecasts: nine minutes with candles of 5 s. With candles of 2 s it takes four to five minutes.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from candleflow.metrics.families import FAMILIES, PREFIX
from candleflow.settings import METRICS_PORTS
from candleflow.stack.process import free_port
from tests.pipeline.test_compose import free_blocks
from tests.pipeline.test_monitoring import needs_prometheus, prometheus, told
from tests.pipeline.test_stack_up import machine_in
from tests.processes import awaited, environment, started
from tests.unit.test_monitoring import CONFIG, OF_EVERY_PROCESS, PANEL_EXPRESSIONS

FULL_SECONDS = 600
SCRAPE_INTERVAL = CONFIG["global"]["scrape_interval"]
"""Not shorter than the configured one: a query over too short a range must fail."""

ZERO_WHILE_NOTHING_IS_WRONG = {
    "Trades missing, missing": "a gap that can't be filled yet",
    "Lag and records in flight, lag": "a slow processor",
    "Lag and records in flight, in flight": "a slow Kafka",
    "Rejected, duplicate and late records per second, rejected by the producer": "an invalid message",
    "Rejected, duplicate and late records per second, rejected by the processor": "an invalid record",
    "Rejected, duplicate and late records per second, duplicate": "a connection that repeats trades",
    "Rejected, duplicate and late records per second, late": "trades that were delayed or filled",
    "Gaps, open": "a lost message",
    "Gaps, trades filled in 5 min": "a lost message",
    "Gaps, gaps that only the auditor found, in 5 min": "trades lost by Kafka",
    "Gaps, candles rebuilt in total": "a candle that differs from the exchange's kline",
    "Connections and restarts, connections replaced in an hour": "a lost connection",
    "Connections and restarts, restarts of Spark's query in an hour": "a lost PostgreSQL",
    "Alerts, {{outcome}} in an hour": "no fault: an alert rule that fired",
    "Alerts, waiting": "a channel that doesn't answer",
    "Viewers, pages open": "no fault: a viewer",
}
"""The queries that may return 0 only, each with what makes it return more."""

ABSENT_WHILE_NOTHING_IS_WRONG = {
    "candleflow_quiet_asked_age_seconds": "a symbol without trades",
    "candleflow_stream_behind_trades": "a stream that has stopped delivering a symbol",
}
"""The documented metrics that have no series, each with what makes one."""


class Series(NamedTuple):
    """One line of a panel: its labels, and its values without the points that Grafana leaves blank (NaN)."""

    labels: dict[str, str]
    values: list[float]


def drawn(port: int, expression: str) -> list[Series]:
    """Return what the panel shows of the last hour; Grafana's smallest step is the scrape interval."""
    now = time.time()
    data = told(port, "query_range", query=expression, start=now - 3_600, end=now, step=SCRAPE_INTERVAL)
    found = [
        Series(one["metric"], [float(value) for _, value in one["values"] if not math.isnan(float(value))])
        for one in data["result"]
    ]
    return [one for one in found if one.values]


def lacks(about: str, found: list[Series]) -> Iterator[str]:
    """Yield what keeps the series from being a line, or a line with a name of its own."""
    if not any(any(one.values) for one in found) and about not in ZERO_WHILE_NOTHING_IS_WRONG:
        yield "is 0 only" if found else "is empty"
    elif not found:
        yield "is empty"
    shown = re.findall(r"\{\{(\w+)\}\}", about)
    names = [tuple(one.labels.get(label) for label in shown) for one in found]
    if len(set(names)) != len(names) or any(None in name for name in names):
        yield f"has lines without a name of their own: {names}"


def lacking(port: int) -> list[str]:
    """Return a line for each query of the dashboard that a panel can't be drawn from."""
    return [
        f"{about}: {what}"
        for about, expression in PANEL_EXPRESSIONS.items()
        for what in lacks(about, drawn(port, expression))
    ]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(FULL_SECONDS + 300)
@needs_prometheus
def test_each_panel_has_data_and_no_alert_fires_while_nothing_is_wrong(
    tmp_path: Path, kafka_jars: list[Path], java_home: Path
) -> None:
    assert kafka_jars
    assert java_home
    first, own, log = next(free_blocks()), free_port(), tmp_path / "prometheus.log"
    stack = machine_in(
        tmp_path,
        CANDLEFLOW_METRICS_PORT=str(first),
        CANDLEFLOW_SPARK_MEMORY="600m",
        CANDLEFLOW_SYMBOLS="BTCUSDT,ETHUSDT",
        CANDLEFLOW_WINDOW_SECONDS="2",
    )

    def where(target: str) -> str:
        name = target.partition(":")[0]
        page = stack.environment["CANDLEFLOW_DASHBOARD_PORT"]
        return f"127.0.0.1:{page if name == 'dashboard' else first + METRICS_PORTS[name]}"

    with started(prometheus(tmp_path, own, where, SCRAPE_INTERVAL), environment(), log):
        try:
            stack.start("up")
            awaited(lambda: not lacking(own), FULL_SECONDS, lambda: "\n".join([*lacking(own), stack.said]))
            firing = told(own, "query", query='ALERTS{alertstate="firing"}')["result"]
            (group,) = told(own, "rules")["groups"]
            metrics = set(told(own, "label/__name__/values"))
        finally:
            stack.end()
        assert firing == []
        assert {rule["name"]: rule["health"] for rule in group["rules"] if rule["health"] != "ok"} == {}
        documented = {
            PREFIX + one.name for name, some in FAMILIES.items() if name != "simulator" for one in some
        }
        assert (documented | OF_EVERY_PROCESS) - metrics == ABSENT_WHILE_NOTHING_IS_WRONG.keys()

        def running() -> dict[str, float]:
            found = drawn(own, PANEL_EXPRESSIONS["Running processes, {{instance}}"])
            return {one.labels["instance"]: one.values[-1] for one in found}

        awaited(lambda: not any(running().values()), 120, lambda: str(running()))
        assert len(running()) == 6


def test_each_query_that_may_be_zero_is_one_of_the_dashboard() -> None:
    assert ZERO_WHILE_NOTHING_IS_WRONG.keys() <= PANEL_EXPRESSIONS.keys()
