"""An exchange that does everything wrong that an exchange does, one thing after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import MakePipeline
from tests.faults.feeds import unruly
from tests.faults.pipeline import FLOW_SECONDS, Pipeline
from tests.faults.unruly_exchange import Orders
from tests.processes import awaited

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SILENCE_SECONDS = 3
LIFETIMES = 3
WRONG: Mapping[str, Mapping[str, Any]] = {
    "ids left out, repeated and out of order": {
        "omit_every": 200, "duplicate_fraction": 0.2, "delay_every": 97,
    },
    "history refused with 429": {"omit_every": 200, "throttle_requests": 3, "throttle_status": 429},
    "history refused with 418": {"omit_every": 200, "throttle_requests": 2, "throttle_status": 418},
    "connections cut": {"disconnect_after": 150},
    "cut, and refused with 503": {"disconnect_after": 150, "refuse_connections": 3},
    "24 hours in 4 seconds": {"lifetime_seconds": 4, "shut_down": 1},  # of connections that open then
    "serverShutdown": {"shut_down": 2},
    "silence": {"is_silent": True},
}  # fmt: skip


def test_whatever_the_exchange_does_wrong_every_trade_is_had(
    make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    """A fresh producer for each thing that ends connections: else its waits for the next attempt, which grow
    with each that fails soon, would make most of the test.
    """
    orders = Orders(tmp_path / "orders.json")
    pipeline = make_pipeline(unruly(orders.file, rate=100), exchange_silence_seconds=SILENCE_SECONDS)
    pipeline.start()
    for what, fault in WRONG.items():
        pipeline.report.faults[f"exchange: {what}"] += 1
        if "omit_every" in fault:
            filled = counted(pipeline, "filled")
            orders.write(**fault)
            awaited(until(pipeline, "filled", filled + 5), FLOW_SECONDS, pipeline.said)
        else:
            pipeline.stop_producer()
            pipeline.producer.start()
            awaited(until(pipeline, "connected", 1), FLOW_SECONDS, pipeline.said)
            orders.write(**fault)
            more = LIFETIMES if "lifetime_seconds" in fault else 1
            awaited(until(pipeline, "reconnects", more), FLOW_SECONDS, pipeline.said)
        orders.write()
        pipeline.wait_for_trades(200)
    pipeline.judge(whole=True)


def until(pipeline: Pipeline, name: str, count: float) -> Callable[[], bool]:
    return lambda: counted(pipeline, name) >= count


def counted(pipeline: Pipeline, name: str) -> float:
    return pipeline.producer.running.running_counts().get(name, 0)
