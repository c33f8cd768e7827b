"""All faults that an exchange can have, one after another."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.faults.conftest import MakePipeline
from tests.faults.feeds import SYMBOLS, unruly
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
    "24 hours in 4 seconds": {"lifetime_seconds": 4, "shut_down": 1},  # lifetime of new connections
    "serverShutdown": {"shut_down": 2},
    "silence": {"is_silent": True},
}  # fmt: skip


def test_whatever_the_exchange_does_wrong_every_trade_is_published(
    make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    """Each fault that ends connections starts with a new producer.

    Otherwise the back-off between its attempts, which grows with each early failure, would take most of the
    test's time.
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


def test_trades_made_without_a_connection_are_fetched_though_trading_has_halted(
    make_pipeline: MakePipeline, tmp_path: Path
) -> None:
    """Connections are cut, none is accepted until 10,000 more trades were made, and then trading halts."""
    orders = Orders(tmp_path / "orders.json")
    pipeline = make_pipeline(unruly(orders.file, rate=1_000))
    pipeline.start()
    pipeline.wait_for_trades(2_000)
    pipeline.report.faults["exchange: cut, then trading halted"] += 1
    before = made(pipeline)
    orders.write(disconnect_after=1, refuse_connections=1_000_000)
    awaited(lambda: made(pipeline) >= before + 10_000, FLOW_SECONDS, pipeline.said)
    orders.write(is_halted=True)
    awaited(until(pipeline, "filled", 9_000), FLOW_SECONDS, pipeline.said)
    awaited(until(pipeline, "quiet", len(SYMBOLS)), FLOW_SECONDS, pipeline.said)
    in_topic, last = pipeline.judge(whole=True), last_ids(pipeline)
    assert {one: max(i for of, i in in_topic if of == one) for one in SYMBOLS} == last


def last_ids(pipeline: Pipeline) -> dict[str, int]:
    """Return the id of the exchange's last trade, by symbol."""
    url = f"{pipeline.rest_url}/api/v3/ticker/24hr"
    parameters = {"symbols": json.dumps(SYMBOLS, separators=(",", ":")), "type": "MINI"}
    rows = httpx.get(url, params=parameters, trust_env=False).raise_for_status().json()
    return {row["symbol"]: row["lastId"] for row in rows}


def made(pipeline: Pipeline) -> int:
    """Return the sum of the last trade ids, which grows by one with each trade."""
    return sum(last_ids(pipeline).values())


def until(pipeline: Pipeline, name: str, count: float) -> Callable[[], bool]:
    return lambda: counted(pipeline, name) >= count


def counted(pipeline: Pipeline, name: str) -> float:
    return pipeline.producer.running.running_counts().get(name, 0)
