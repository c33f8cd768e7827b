"""Wrong clocks and odd time zones on every process: the same candles, and none is closed before its time."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest

from tests.faults.clocks import ABSENT, LIBRARIES, Clock
from tests.faults.conftest import MakePipeline
from tests.faults.direct import Record, text, trade
from tests.faults.feeds import seeded
from tests.faults.pipeline import FLOW_SECONDS, Pipeline
from tests.processes import awaited

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not LIBRARIES, reason=ABSENT),
]

QUIET = "QUIETUSDT"
ERRORS = (3_600, -3_600, 1, -1)
"""Seconds. Each process has each of them once, so that each clock is set back by an hour or two."""
ZONES = {"producer": "America/New_York", "processor": "Asia/Kathmandu", "Kafka": "Asia/Kathmandu"}
STOP_SECONDS = 15


def test_wrong_clocks_and_odd_zones_change_no_candle(make_pipeline: MakePipeline) -> None:
    """Each clock is set while its process runs, all of them at once; then the programs start with clocks an
    hour wrong. The exchange's is right: its time is what candles are made of.
    """
    pipeline = make_pipeline(seeded(rate=10))
    clocks = give_clocks(pipeline)
    pipeline.start()
    pipeline.execute("ALTER ROLE candleflow_writer SET timezone = 'America/New_York'")
    pipeline.end_sessions()  # the setting is for new ones
    for shift in range(len(ERRORS)):
        for at, clock in enumerate(clocks.values()):
            clock.set(ERRORS[(at + shift) % len(ERRORS)])
        pipeline.report.faults["clocks set"] += len(clocks)
        flows_and_closes(pipeline, trade_id=1 + shift)
    for seconds in ERRORS[:2]:
        for one, clock in (
            (pipeline.producer, clocks["producer"]),
            (pipeline.processor, clocks["processor"]),
        ):
            assert one.terminate(STOP_SECONDS) == 0, one.said()
            clock.set(seconds)
            one.start()
        flows_and_closes(pipeline, trade_id=len(ERRORS) + 1 + (seconds > 0))
    for clock in clocks.values():
        clock.set(0)
    pipeline.judge(whole=True)


def give_clocks(pipeline: Pipeline) -> Mapping[str, Clock]:
    clocks = {}
    for one in (pipeline.producer, pipeline.processor, pipeline.kafka, pipeline.postgres):
        clocks[one.name] = Clock(pipeline.folder / f"clock-of-{one.name}")
        zone = {"TZ": ZONES[one.name]} if one.name in ZONES else {}
        one.variables = {**one.variables, **clocks[one.name].variables, **zone}
    return clocks


def flows_and_closes(pipeline: Pipeline, trade_id: int) -> None:
    """Trades flow, and a candle that no later trade closes is closed by the clock, soon after its end."""
    now_ms = int(time.time() * 1_000)
    pipeline.put([Record(text(trade(QUIET, trade_id, now_ms)), 0, QUIET.encode())])
    pipeline.wait_for_trades(10)

    def is_closed() -> bool:
        assert closed_early(pipeline) == []
        found = pipeline.asked(
            "SELECT is_closed FROM candles WHERE interval = '5s' AND symbol = %s AND last_trade_id = %s",
            QUIET,
            trade_id,
        )
        return found == [(True,)]

    awaited(is_closed, FLOW_SECONDS, pipeline.said)


def closed_early(pipeline: Pipeline) -> list[tuple[object, ...]]:
    """Candles that are closed though they have not ended, by this process's clock, which is right."""
    return pipeline.asked(
        "SELECT symbol, interval, open_time FROM candles WHERE is_closed AND end_time > to_timestamp(%s)",
        time.time(),
    )
