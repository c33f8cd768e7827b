"""Random overlapping faults on everything that stores trades; afterwards all candles must be exact."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TypeAlias

import psycopg2
import pytest

from candleflow.stack.process import wait_for
from tests.faults.conftest import MakePipeline
from tests.faults.feeds import recorded, seeded
from tests.faults.pipeline import Pipeline
from tests.faults.proxy import Direction
from tests.faults.schedule import Schedule, storm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STORM_SECONDS = 60

Act: TypeAlias = Callable[[], None]


def test_storm(make_pipeline: MakePipeline, fault_seed: int, announce: Callable[[str], None]) -> None:
    pipeline = make_pipeline(recorded(speed=4, otherwise=seeded(rate=200)))
    faults = faults_of(pipeline)
    schedule = storm(fault_seed, STORM_SECONDS, list(faults))
    pipeline.report.plan = str(schedule)
    announce(str(schedule))
    pipeline.start()
    began_at = time.monotonic()
    for at, act in acts(pipeline, schedule, faults):
        wait_for(lambda due=began_at + at: time.monotonic() >= due, STORM_SECONDS)  # type: ignore[misc]
        act()
        pipeline.supervise()
    pipeline.judge(whole=True)


def faults_of(pipeline: Pipeline) -> Mapping[str, tuple[Act, Act]]:
    """Return the functions that begin and end each fault."""
    kafka, postgres, processor = pipeline.kafka, pipeline.postgres, pipeline.processor
    link = pipeline.store_link
    on_the_link: dict[str, Act] = {
        "link reset": link.reset,
        "link stalled": link.stall,
        "link refuses": link.refuse,
        "link slow": lambda: link.slow(20_000),
        "link late": lambda: link.delay(0.5),
        "link half-closed to PostgreSQL": lambda: link.half_close(Direction.TO_SERVER),
        "link half-closed to the processor": lambda: link.half_close(Direction.TO_CLIENT),
        "link cut in a COMMIT": lambda: link.cut_after(20, when_watched=True),
        "link cut in a COMMIT's answer": lambda: link.cut_after(3, Direction.TO_CLIENT, when_watched=True),
    }
    return {
        "kill -9 processor": (processor.kill, processor.start),
        "kill -9 processor, JVM too": (lambda: processor.kill(with_children=True), processor.start),
        "kill -9 Kafka": (kafka.kill, kafka.start),
        "kill -9 PostgreSQL": (postgres.kill, postgres.start),
        "SIGSTOP processor": (processor.pause, processor.resume),
        "SIGSTOP Kafka": (kafka.pause, kafka.resume),
        "SIGSTOP PostgreSQL": (postgres.pause, postgres.resume),
        "sessions ended": (lambda: end_sessions(pipeline), lambda: None),
        **{name: (begin, link.heal) for name, begin in on_the_link.items()},
    }


def end_sessions(pipeline: Pipeline) -> None:
    with suppress(psycopg2.Error):  # PostgreSQL may be down
        pipeline.end_sessions()


def acts(
    pipeline: Pipeline, schedule: Schedule, faults: Mapping[str, tuple[Act, Act]]
) -> Iterator[tuple[float, Act]]:
    """Yield actions with their time in seconds since the start, in order; faults overlap."""
    timed: list[tuple[float, Act]] = []
    at = 0.0
    for step in schedule.steps:
        at += step.after
        begin, end = faults[step.fault]
        timed += [(at, begin), (at + step.lasts, end)]
        if step.fault.startswith("link"):
            pipeline.report.faults[step.fault] += 1
    yield from sorted(timed, key=lambda one: one[0])
