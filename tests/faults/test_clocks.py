"""Wrong clocks and unusual time zones on every process change no candle and close none too early."""

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
"""Clock errors in seconds. Each process has each of them once, so each clock is also set back by hours."""
ZONES = {"producer": "America/New_York", "processor": "Asia/Kathmandu", "Kafka": "Asia/Kathmandu"}
STOP_SECONDS = 15


def test_wrong_clocks_and_odd_zones_change_no_candle(make_pipeline: MakePipeline) -> None:
    """First all clocks are set while the processes run; then the programs start with clocks wrong by an hour.

    The exchange's clock stays right, because candles are made from its times.
    """
    pipeline = make_pipeline(seeded(rate=10))
    clocks = give_clocks(pipeline)
    pipeline.start()
    pipeline.execute("ALTER ROLE candleflow_writer SET timezone = 'America/New_York'")
    pipeline.end_sessions()  # the new time zone applies to new sessions only
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
    """Check that trades flow, and that a candle without a later trade is closed soon after its end."""
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
    """Return candles that are closed before their end, by this process's clock, which is right."""
    return pipeline.asked(
        "SELECT symbol, interval, open_time FROM candles WHERE is_closed AND end_time > to_timestamp(%s)",
        time.time(),
    )
