"""Three Kafka brokers with three replicas: any one may be killed while trades flow."""

from __future__ import annotations

from random import Random

import pytest

from tests.faults.conftest import MakePipeline
from tests.faults.feeds import seeded
from tests.faults.pipeline import FLOW_SECONDS, TOPIC
from tests.processes import awaited

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]

BROKERS = 3


def test_each_broker_of_three_killed_in_turn(make_pipeline: MakePipeline, random: Random) -> None:
    """The pipeline goes on with two of three brokers. Two acknowledge each record, so none is lost."""
    pipeline = make_pipeline(
        seeded(rate=200), brokers=BROKERS, kafka_replication=BROKERS, kafka_partitions=BROKERS
    )
    pipeline.start()
    cluster = pipeline.cluster
    for broker in random.sample(cluster.brokers, BROKERS):
        awaited(lambda: cluster.is_in_sync(TOPIC), FLOW_SECONDS, pipeline.said)
        pipeline.wait_for_trades(random.randrange(1, 500))
        pipeline.report.faults["kill -9 a broker of three"] += 1
        broker.kill()
        pipeline.wait_for_trades(1_000)  # with the two other brokers
        broker.start()
        broker.wait_until_ready()
    pipeline.judge(whole=True)
    assert pipeline.differs_from_twin() == []
