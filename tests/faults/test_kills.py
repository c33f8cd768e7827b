"""Processes are killed and suspended while trades flow: each trade in the topic counts exactly once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from random import Random

import pytest

from tests.faults.conftest import MakePipeline
from tests.faults.feeds import recorded, seeded
from tests.faults.pipeline import Pipeline
from tests.faults.programs import Program, Server
from tests.processes import START_SECONDS, Running, awaited, lasting

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KILLS = 10
STALL_SECONDS = 10
LOCK_SECONDS = 35
"""Longer than the processor's ``lock_timeout`` (30 s), wait for the claim (15 s) and keepalives (25 s)."""
STILL_SECONDS = 40
"""Longer than an exchange connection may be silent (30 s) and than the producer's lease lasts (6 s)."""
SOCKET_SECONDS = 65
"""Longer than the processor waits for a reply of PostgreSQL (``socketTimeout``, 60 s)."""


def test_processor_killed_over_and_over(make_pipeline: MakePipeline, random: Random) -> None:
    """It is killed at random moments after its first merge, with its JVM or without it."""
    pipeline = make_pipeline(seeded(rate=200))
    pipeline.start()
    for _ in range(KILLS):
        pipeline.wait_for_trades(random.randrange(1, 2_000))
        pipeline.processor.kill(with_children=random.random() < 0.5)
        pipeline.processor.start()
    pipeline.judge()
    assert pipeline.differs_from_twin() == []


def test_servers_killed_in_turn_and_a_faulty_link(make_pipeline: MakePipeline, random: Random) -> None:
    pipeline = make_pipeline(recorded(speed=4, otherwise=seeded(rate=200)))
    pipeline.start()
    for server in random.sample([pipeline.kafka, pipeline.postgres] * 3, 6):
        pipeline.wait_for_trades(random.randrange(1, 500))
        server.kill()
        server.start()
        server.wait_until_ready()
    pipeline.wait_for_trades(1)
    with pipeline.faulty_link("reset") as link:
        link.reset()
    pipeline.wait_for_trades(1)
    with pipeline.faulty_link(f"stalled for {STALL_SECONDS} s") as link, lasting(STALL_SECONDS):
        link.stall()
    pipeline.judge(whole=True)


def test_everything_killed_at_once_and_started_in_any_order(
    make_pipeline: MakePipeline, random: Random
) -> None:
    """As in a power cut, the producer is killed too. It fetches the trades it missed, so none is lost."""
    pipeline = make_pipeline(seeded(rate=200))
    pipeline.start()
    parts: list[Program | Server] = [pipeline.kafka, pipeline.postgres, pipeline.producer, pipeline.processor]
    orders = [random.sample(parts, len(parts)) for _ in range(2)]
    for order in [parts, parts[::-1], *orders]:
        pipeline.wait_for_trades(random.randrange(1, 500))
        pipeline.processor.kill(with_children=True)
        for one in (pipeline.producer, pipeline.kafka, pipeline.postgres):
            one.kill()
        for one in order:
            one.start()
    pipeline.judge(whole=True)


@pytest.mark.long
def test_a_suspension_longer_than_any_timeout_changes_no_candle(make_pipeline: MakePipeline) -> None:
    """PostgreSQL is suspended in one pipeline, and meanwhile the processor in another (SIGSTOP)."""
    first, second = make_pipeline(seeded(rate=200)), make_pipeline(seeded(rate=200))
    first.start()
    with suspended(first.postgres, SOCKET_SECONDS):
        second.start()
        a_second_processor_ends_while_the_first_holds_the_topic(second)
        a_processor_that_lost_the_topic_merges_nothing_more(second)
    first.wait_for_trades(200)
    for pipeline in (first, second):
        pipeline.judge()


def a_second_processor_ends_while_the_first_holds_the_topic(pipeline: Pipeline) -> None:
    pid = pipeline.processor.running.process.pid
    with suspended(pipeline.processor, LOCK_SECONDS):
        second = pipeline.add_processor()
        assert second.running.process.wait(START_SECONDS) == 1, second.said()
        assert f"process {pid}" in second.said()
    pipeline.wait_for_trades(200)


def a_processor_that_lost_the_topic_merges_nothing_more(pipeline: Pipeline) -> None:
    """While it is suspended, its session is ended and another processor takes over."""
    pipeline.processor.pause()
    pipeline.end_sessions()
    successor = pipeline.add_processor()
    pipeline.wait_for_trades(200)
    pipeline.processor.resume()
    awaited(lambda: reports(pipeline.processor.running, "held by another"), START_SECONDS, pipeline.said)
    pipeline.wait_for_trades(200)
    assert successor.is_up, successor.said()
    pipeline.processor.kill()
    pipeline.processor = successor


def reports(processor: Running, words: str) -> bool:
    """Whether the last heartbeat is this processor's and has these words; two processors share the file."""
    beat = processor.heartbeat()
    return beat is not None and beat.pid == processor.process.pid and words in beat.message


@pytest.mark.long
def test_each_process_suspended_in_turn_and_then_all_at_once(make_pipeline: MakePipeline) -> None:
    """PostgreSQL and the processor are not suspended alone: the test above does that, and for longer."""
    pipeline = make_pipeline(seeded(rate=200))
    pipeline.start()
    parts: list[Program | Server] = [pipeline.exchange, pipeline.producer, pipeline.kafka]
    for one in parts:
        with suspended(one, STILL_SECONDS):
            pass
        pipeline.wait_for_trades(200)
    with ExitStack() as stack:
        for one in (*parts, pipeline.processor, pipeline.postgres):
            stack.enter_context(suspended(one, STILL_SECONDS))
    pipeline.wait_for_trades(200)
    pipeline.judge(whole=True)


@contextmanager
def suspended(one: Program | Server, seconds: float) -> Iterator[None]:
    """Suspend it during the block, at least for ``seconds``."""
    one.pause()
    with lasting(seconds):
        yield
    one.resume()
