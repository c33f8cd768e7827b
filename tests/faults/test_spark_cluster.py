"""The processor on a Spark cluster makes the same candles as on ``local[*]``, even if workers are killed."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.conftest import MakePipeline
from tests.faults.feeds import seeded
from tests.faults.spark_cluster import spark_cluster

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]

WORKERS = 2


@pytest.mark.parametrize("way", ["by its setting", "by spark-submit"])
def test_a_cluster_with_a_worker_killed_makes_the_same_candles(
    make_pipeline: MakePipeline,
    tmp_path: Path,
    java_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")  # where the executors find the driver
    monkeypatch.setenv("JAVA_HOME", str(java_home))  # for spark-submit
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    faults: Counter[str] = Counter()
    with spark_cluster(tmp_path / "spark", WORKERS, java_home, faults) as cluster:
        is_submitted = way == "by spark-submit"
        master = {} if is_submitted else {"spark_master": cluster.master_url}
        pipeline = make_pipeline(seeded(rate=200), kafka_partitions=WORKERS, **master)
        if is_submitted:
            pipeline.processor.command = cluster.submitted()
        pipeline.start()
        assert all("Asked to launch executor" in worker.output() for worker in cluster.workers)
        for worker in cluster.workers:
            pipeline.wait_for_trades(1_000)
            worker.kill(with_children=True)
            pipeline.wait_for_trades(1_000)  # with the other worker
            worker.start()
            cluster.wait_for(worker, times=2)
        pipeline.report.faults.update(faults)
        pipeline.judge(whole=True)
        assert pipeline.differs_from_twin(spark_master="local[*]") == []
