"""Everything is killed, round after round, and each component is restarted at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from random import Random

import pytest

from tests.faults.conftest import MakePipeline
from tests.faults.fail_points import FAIL_POINTS
from tests.faults.feeds import seeded
from tests.faults.pipeline import STOP_SECONDS, Pipeline
from tests.processes import lasting

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]

ROUNDS = 14
PAUSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Round:
    """A first fault, then the fail point that kills the processor, and faults while it starts."""

    first: str
    fail_point: str
    then: Sequence[tuple[float, str]]
    """Pairs of a duration in seconds and the fault that begins it."""

    def __str__(self) -> str:
        then = ", ".join(f"{seconds:.1f} s {act}" for seconds, act in self.then)
        return f"{self.first}; processor killed {self.fail_point}; {then}"


def test_everything_killed_round_after_round(
    make_pipeline: MakePipeline, random: Random, announce: Callable[[str], None]
) -> None:
    """Each round has one fault while trades flow, then kills the processor at a fail point.

    While its JVM starts, the producer is killed twice and each server is stopped once.
    """
    pipeline = make_pipeline(seeded(rate=200))
    plan = planned(random)
    pipeline.report.plan = "\n".join(map(str, plan))
    announce(pipeline.report.plan)
    acts = acts_on(pipeline)
    pipeline.start()
    for one in plan:
        pipeline.wait_for_trades(random.randrange(1, 200))
        acts[one.first]()
        pipeline.wait_for_trades(1)
        FAIL_POINTS[one.fail_point](pipeline)
        pipeline.processor.start()
        for seconds, act in one.then:
            with lasting(seconds):
                acts[act]()
        pipeline.supervise()
    pipeline.judge(whole=True)


def planned(random: Random) -> list[Round]:
    firsts, fail_points = cycle(FIRSTS), cycle(random.sample(list(FAIL_POINTS), len(FAIL_POINTS)))
    kafka, postgres = cycle(KAFKA), cycle(POSTGRES)
    return [
        Round(
            next(firsts),
            next(fail_points),
            [
                (round(random.uniform(0, PAUSE_SECONDS), 1), act)
                for act in random.sample([PRODUCER, PRODUCER, next(kafka), next(postgres)], 4)
            ],
        )
        for _ in range(ROUNDS)
    ]


PRODUCER = "kill -9 producer"
FIRSTS = ("SIGTERM producer", "kill -9 backend", "sessions ended", "SIGTERM processor", "kill -9 backend")
KAFKA = ("kill -9 Kafka", "SIGTERM Kafka")
POSTGRES = ("kill -9 PostgreSQL", "immediate stop of PostgreSQL")


def acts_on(pipeline: Pipeline) -> Mapping[str, Callable[[], None]]:
    """Return the faults by name; each restarts what it has ended."""
    kafka, postgres, producer = pipeline.kafka, pipeline.postgres, pipeline.producer
    return {
        PRODUCER: lambda: ended_and_started(producer.kill, producer.start),
        "SIGTERM producer": lambda: ended_and_started(pipeline.stop_producer, producer.start),
        "SIGTERM processor": lambda: stop_and_start_processor(pipeline),
        "sessions ended": pipeline.end_sessions,
        "kill -9 backend": pipeline.kill_backend,
        "kill -9 Kafka": lambda: ended_and_started(kafka.kill, kafka.start),
        "SIGTERM Kafka": lambda: ended_and_started(kafka.stop, kafka.start),
        "kill -9 PostgreSQL": lambda: ended_and_started(postgres.kill, postgres.start),
        "immediate stop of PostgreSQL": lambda: ended_and_started(postgres.quit, postgres.start),
    }


def ended_and_started(end: Callable[[], None], start: Callable[[], None]) -> None:
    end()
    start()


def stop_and_start_processor(pipeline: Pipeline) -> None:
    assert pipeline.processor.terminate(STOP_SECONDS) == 0, pipeline.said()
    pipeline.processor.start()
