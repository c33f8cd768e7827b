"""Disks that fill up while trades flow, first one at a time, then all at once, and later have room again."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.faults.conftest import MakePipeline
from tests.faults.disk import small_disk
from tests.faults.feeds import seeded
from tests.faults.pipeline import FLOW_SECONDS, Pipeline
from tests.faults.programs import Program
from tests.processes import awaited, lasting

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MEGABYTES = {"PostgreSQL": 400, "Kafka": 64, "Spark": 32, "heartbeats": 1}
FULL_SECONDS = 10
FULL = "no space is left on the disk of"


def test_full_disks_lose_nothing_and_recovery_is_automatic(make_pipeline: MakePipeline) -> None:
    pipeline = make_pipeline(seeded(rate=200))
    with ExitStack() as disks:
        for part, megabytes in MEGABYTES.items():
            disks.enter_context(small_disk(pipeline.places[part], megabytes))
        pipeline.start()
        pipeline.auditor.start()
        heartbeats_cannot_be_written(pipeline)
        checkpoints_cannot_be_written(pipeline)
        trades_cannot_be_written(pipeline)
        candles_cannot_be_written(pipeline)
        nothing_can_be_written(pipeline)
        for program in programs_of(pipeline):
            assert not program.ended
        pipeline.judge(whole=True)


def programs_of(pipeline: Pipeline) -> list[Program]:
    return [pipeline.producer, pipeline.processor, pipeline.auditor]


def heartbeats_cannot_be_written(pipeline: Pipeline) -> None:
    with pipeline.full_disk("heartbeats"):
        for program in programs_of(pipeline):
            words = f"can't write the heartbeat {pipeline.places['heartbeats'] / program.name}.json"
            awaited(lambda one=program, said=words: said in one.output(), FLOW_SECONDS, pipeline.said)  # type: ignore[misc]
        pipeline.wait_for_trades(200)
    for program in programs_of(pipeline):
        awaited(lambda one=program: one.running.heartbeat(), FLOW_SECONDS, pipeline.said)  # type: ignore[misc]


def checkpoints_cannot_be_written(pipeline: Pipeline) -> None:
    with pipeline.full_disk("Spark"), lasting(FULL_SECONDS):
        words = f"{FULL} {pipeline.places['Spark']}"
        awaited(lambda: words in pipeline.processor.output(), FLOW_SECONDS, pipeline.said)
    pipeline.wait_for_trades(200)


def trades_cannot_be_written(pipeline: Pipeline) -> None:
    """Kafka stops when its disk is full, and can't start before there is room."""
    with pipeline.full_disk("Kafka"), lasting(FULL_SECONDS):
        awaited(lambda: not pipeline.kafka.is_up, FLOW_SECONDS, pipeline.said)
        awaited(lambda: "for Kafka" in message_of(pipeline.producer), FLOW_SECONDS, pipeline.said)
        assert FULL in pipeline.kafka.server.why_it_ended()
        pipeline.supervise_servers()
    pipeline.heal()
    pipeline.wait_for_trades(200)


def candles_cannot_be_written(pipeline: Pipeline) -> None:
    with pipeline.full_disk("PostgreSQL"), lasting(FULL_SECONDS):
        pipeline.switch_wal_files()
        awaited(lambda: "for PostgreSQL" in message_of(pipeline.processor), FLOW_SECONDS, pipeline.said)
        assert FULL in pipeline.postgres.server.why_it_ended()
        pipeline.supervise_servers()
    pipeline.heal()
    pipeline.wait_for_trades(200)


def nothing_can_be_written(pipeline: Pipeline) -> None:
    with ExitStack() as disks, lasting(FULL_SECONDS):
        for part in MEGABYTES:
            disks.enter_context(pipeline.full_disk(part))
        pipeline.switch_wal_files()
        pipeline.supervise_servers()
    pipeline.heal()
    pipeline.wait_for_trades(200)


def message_of(program: Program) -> str:
    beat = program.running.heartbeat()
    return beat.message if beat is not None else ""
