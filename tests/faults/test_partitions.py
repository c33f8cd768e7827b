"""Partitions are added to the topic while everything runs; a symbol's trades move to another one."""

from __future__ import annotations

import pytest

from tests.faults.conftest import MakePipeline
from tests.faults.feeds import seeded

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STOP_SECONDS = 15


def test_a_topic_grown_from_one_partition_to_four(make_pipeline: MakePipeline) -> None:
    """The restarted producer uses other partitions, and must not fetch trades that the topic already has.

    At its second start each symbol is in two partitions, and it has to find the later one.
    """
    pipeline = make_pipeline(seeded(rate=100), kafka_partitions=1)
    pipeline.start()
    pipeline.wait_for_trades(500)
    pipeline.grow_topic(4)
    for _ in range(2):
        assert pipeline.producer.terminate(STOP_SECONDS) == 0
        pipeline.producer.start()
        pipeline.wait_for_trades(500)
    pipeline.judge(whole=True)
    assert pipeline.counts().get("duplicate", 0) == 0, "trades that the topic had were fetched again"
