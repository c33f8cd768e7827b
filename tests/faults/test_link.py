"""Faults of the link between processor and PostgreSQL, above all a COMMIT whose reply is lost."""

from __future__ import annotations

import time

import pytest

from tests.faults.conftest import MakePipeline
from tests.faults.feeds import recorded, seeded
from tests.faults.pipeline import FLOW_SECONDS, Pipeline
from tests.faults.proxy import Direction
from tests.processes import awaited, lasting

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

COMMIT_BYTES = (0, 1, 15, 25, 30, 31)
"""Positions in a COMMIT (not a connection's first one): Bind (16 bytes), Execute (10), Sync (5)."""
ANSWER_BYTES = (0, 1, 5, 16, 17, 22, 23)
"""Positions in the reply: BindComplete (5 bytes), CommandComplete with COMMIT (12), ReadyForQuery (6)."""
REFUSED_SECONDS = 5


def test_commits_cut_at_any_byte_are_done_once(make_pipeline: MakePipeline) -> None:
    pipeline = make_pipeline(recorded(speed=3, otherwise=seeded(rate=200)))
    pipeline.start()
    for direction, counts in ((Direction.TO_SERVER, COMMIT_BYTES), (Direction.TO_CLIENT, ANSWER_BYTES)):
        for count in counts:
            cut_a_commit(pipeline, count, direction)
    pipeline.judge(whole=True)
    processor, judged_at = pipeline.processor.running, time.time()
    processor.wait_for(lambda: (beat := processor.heartbeat()) is not None and beat.beaten_at > judged_at)
    said = processor.running_counts()["received"]
    assert said < pipeline.received(), "no COMMIT succeeded whose reply was lost"


def cut_a_commit(pipeline: Pipeline, count: int, direction: Direction) -> None:
    """Cut the connection after ``count`` bytes of a COMMIT or its reply; wait until trades flow again."""
    link = pipeline.store_link
    pipeline.report.faults[f"COMMIT cut, {direction}"] += 1
    cuts = link.cuts
    link.cut_after(count, direction, when_watched=True)
    awaited(lambda: link.cuts > cuts, FLOW_SECONDS, pipeline.said)
    pipeline.wait_for_trades(1)


def test_merges_refused_for_a_while_are_not_lost(make_pipeline: MakePipeline) -> None:
    """PostgreSQL is available but refuses merges with an error that ends the query."""
    pipeline = make_pipeline(seeded(rate=200))
    pipeline.start()
    with pipeline.refused_merges(), lasting(REFUSED_SECONDS):
        pipeline.wait_for_records(200)
    pipeline.wait_for_trades(200)
    pipeline.judge(whole=True)
    assert pipeline.processor.said().count("permission denied") > 1, "the merge was not retried"
