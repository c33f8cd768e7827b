"""Backlogs: the processor makes exact candles from any backlog, however uneven it is."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.faults.conftest import MakePipeline
from tests.faults.direct import quiet_backlog, skewed_backlog
from tests.faults.feeds import seeded
from tests.faults.pipeline import FLOW_SECONDS, Pipeline
from tests.faults.usage import usage_of
from tests.processes import awaited, lasting

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PARTITIONS = 4
RECORDS_PER_BATCH = 1_000
TIMES_BUSIER = 50
BUSY_TRADES = 50_000
BACKLOG_SECONDS = 600
STOP_SECONDS = 15
SLEEP_SECONDS = 2
SLOW_SECONDS = 30
LEAST_LAG = 10_000
"""Minimum backlog after SLOW_SECONDS: 30,000 trades arrive, and at most 15 batches of 1,000 are merged."""
PRODUCER_MB = 30
PROCESSOR_MB = 300
"""Allowed growth of the processor. Its JVM gradually uses its whole heap of 500 MB in any case."""
QUIET_SYMBOLS = 1_000
QUIET_WINDOWS = 450
QUIET_MB = 2_000
"""Maximum memory of the processor and its JVM, whose heap is 1 GB."""
WINDOW_SECONDS = 5
_OF_ONE_TRADE = """
    SELECT symbol, (extract(epoch FROM open_time) * 1000)::bigint, first_trade_id,
        close::numeric(20, 2)::text, volume::numeric(20, 5)::text
    FROM candles
    WHERE interval = '5s' AND symbol ~ '^Q[0-9]{4}USDT$' AND trade_count = 1
        AND last_trade_id = first_trade_id AND is_complete = (first_trade_id > 1)
        AND open = close AND high = close AND low = close AND quote_volume = close * volume
"""
CALM = ("AAAUSDT", "BBBUSDT", "CCCUSDT", "DDDUSDT", "EEEUSDT")


def test_a_backlog_mostly_of_one_symbol(make_pipeline: MakePipeline) -> None:
    """The partitions of calm symbols are read to the end long before that of the busy symbol.

    Trades of one symbol must not close a candle of another one too early: no candle has a revision.
    """
    pipeline = make_pipeline(
        seeded(rate=50), kafka_partitions=PARTITIONS, max_offsets_per_trigger=RECORDS_PER_BATCH
    )
    pipeline.start()
    assert pipeline.processor.terminate(STOP_SECONDS) == 0
    now_ms = int(time.time() * 1_000)
    backlog = list(
        skewed_backlog(
            "BUSYUSDT",
            CALM,
            times=TIMES_BUSIER,
            count=BUSY_TRADES,
            span_ms=(now_ms - BACKLOG_SECONDS * 1_000, now_ms),
            partitions=PARTITIONS,
        )
    )
    pipeline.put(backlog)
    pipeline.report.faults["skewed backlog"] += 1
    pipeline.processor.start()
    pipeline.wait_for_trades(len(backlog))
    pipeline.judge(whole=True)
    revised = pipeline.asked(
        "SELECT symbol, interval, open_time, revision FROM candles WHERE revision > 0 AND symbol = ANY(%s)",
        ["BUSYUSDT", *CALM],
    )
    assert revised == []


def test_a_backlog_with_one_trade_in_each_candle(make_pipeline: MakePipeline) -> None:
    """A thousand symbols with one trade in each window give a batch too large for one transaction.

    It is merged in parts, and the processor is killed once between them.
    """
    pipeline = make_pipeline(seeded(rate=5), spark_memory="1g")
    pipeline.start()
    assert pipeline.processor.terminate(STOP_SECONDS) == 0
    before = pipeline.received()
    begin_ms = (int(time.time()) - QUIET_WINDOWS * WINDOW_SECONDS) // WINDOW_SECONDS * WINDOW_SECONDS * 1_000
    backlog = list(quiet_backlog(QUIET_SYMBOLS, QUIET_WINDOWS, begin_ms, WINDOW_SECONDS * 1_000))
    pipeline.put(backlog)
    pipeline.report.faults["quiet backlog"] += 1
    most_mb = 0.0

    def has_merged(records: int) -> bool:
        nonlocal most_mb
        assert pipeline.processor.is_up, pipeline.said()
        most_mb = max(most_mb, memory_mb(pipeline)["processor"])
        return pipeline.received() >= before + records

    pipeline.processor.start()
    awaited(lambda: has_merged(1), FLOW_SECONDS, pipeline.said)
    assert not has_merged(len(backlog)), "the batch was merged at once, not in parts"
    pipeline.processor.kill(with_children=True)
    pipeline.processor.start()
    awaited(lambda: has_merged(len(backlog)), FLOW_SECONDS, pipeline.said)
    assert most_mb < QUIET_MB
    # The oracle of ``judge`` would take minutes. Here each candle has a single trade, so compare directly.
    expected = {one_trade(json.loads(one.value or b"")) for one in backlog}
    assert set(pipeline.asked(_OF_ONE_TRADE)) == expected
    counts = pipeline.counts()
    assert counts["received"] == counts["merged"]


def one_trade(payload: dict[str, Any]) -> tuple[str, int, int, str, str]:
    """Return the candle of this trade alone, as a row of ``_OF_ONE_TRADE``."""
    open_ms = payload["T"] // (WINDOW_SECONDS * 1_000) * (WINDOW_SECONDS * 1_000)
    return payload["s"], open_ms, payload["t"], payload["p"], payload["q"]


@pytest.mark.long
def test_a_slow_store_makes_a_backlog_and_nothing_else(make_pipeline: MakePipeline) -> None:
    """A backlog waits in Kafka: the memory of the processor and of the producer doesn't grow with it."""
    pipeline = make_pipeline(seeded(rate=1_000), max_offsets_per_trigger=RECORDS_PER_BATCH)
    pipeline.start()
    awaited(lambda: pipeline.lag() < RECORDS_PER_BATCH, FLOW_SECONDS, pipeline.said)
    before = memory_mb(pipeline)
    with pipeline.slow_merges(SLEEP_SECONDS), lasting(SLOW_SECONDS):
        pass
    after, lag = memory_mb(pipeline), pipeline.lag()
    assert lag > LEAST_LAG
    assert after["producer"] < before["producer"] + PRODUCER_MB
    assert after["processor"] < before["processor"] + PROCESSOR_MB
    awaited(lambda: pipeline.lag() < RECORDS_PER_BATCH, FLOW_SECONDS, pipeline.said)
    pipeline.judge(whole=True)


def memory_mb(pipeline: Pipeline) -> dict[str, float]:
    return {name: usage_of(pid).memory_mb for name, pid in pipeline.pids().items()}
