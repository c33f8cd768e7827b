"""State harmed or lost beside the candles: Spark's checkpoint, an earlier database, Kafka's topic.

PostgreSQL holds the truth. What Spark keeps may go at any time; where Kafka's topic no longer fits the
candles the processor says so, names the command that mends, and begins nowhere else in silence.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import MakePipeline
from tests.faults.feeds import seeded
from tests.faults.pipeline import FLOW_SECONDS, Pipeline
from tests.processes import awaited

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

UNSERVED_SECONDS = 12
"""Longer than the programs wait before they say again that Kafka is away."""
LOST_RECORDS = 150
LEFT_BEHIND = "candleflow-processor-left"


def test_started_before_all_it_needs_and_its_checkpoint_harmed(make_pipeline: MakePipeline) -> None:
    pipeline = make_pipeline(seeded(rate=200))
    pipeline.start_programs_first(UNSERVED_SECONDS)
    for program in (pipeline.producer, pipeline.processor):
        assert "waiting for Kafka" in program.told()
        assert "Traceback" not in program.told()
        assert "\tat " not in program.told(), "a stack trace of Java's"
        assert not program.ended
    for harm in (deleted, cut_short, overwritten, replaced_by_a_file):
        harm_checkpoint(pipeline, harm)
        pipeline.wait_for_trades(200)
    assert not pipeline.processor.ended, "a new query is enough"
    harm_work_folder(pipeline)
    harm_between_runs(pipeline)
    pipeline.judge(whole=True)


def harm_checkpoint(pipeline: Pipeline, harm: Callable[[Path], None]) -> None:
    """While a query runs on it."""
    pipeline.report.faults[f"checkpoint {harm.__name__.replace('_', ' ')}"] += 1
    (checkpoint,) = pipeline.places["Spark"].glob("candleflow-processor-*/*/offsets")
    harm(checkpoint.parent)


def deleted(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint.rename(checkpoint.with_name("gone")))


def cut_short(checkpoint: Path) -> None:
    last = max((checkpoint / "offsets").glob("[0-9]*"), key=lambda file: int(file.name))
    last.write_bytes(last.read_bytes()[:-5])


def overwritten(checkpoint: Path) -> None:
    for file in checkpoint.rglob("*"):
        if file.is_file():
            file.write_bytes(b"\xff\x00 no offsets")


def replaced_by_a_file(checkpoint: Path) -> None:
    """As good as read-only, which binds no root."""
    deleted(checkpoint)
    checkpoint.touch()


def harm_work_folder(pipeline: Pipeline) -> None:
    """All that Spark keeps for itself, too: then only a new process helps, which the supervisor starts."""
    pipeline.report.faults["Spark's folder deleted"] += 1
    (folder,) = pipeline.places["Spark"].glob("candleflow-processor-*")
    deleted(folder)
    awaited(lambda: not pipeline.processor.is_up, FLOW_SECONDS, pipeline.said)
    assert "was deleted while the processor ran" in pipeline.processor.said().splitlines()[-1]
    pipeline.supervise()
    pipeline.wait_for_trades(200)


def harm_between_runs(pipeline: Pipeline) -> None:
    """A killed processor leaves its folder, here with offsets that nobody has read up to."""
    pipeline.processor.kill(with_children=True)
    place = pipeline.places["Spark"]
    (left,) = place.glob("candleflow-processor-*")
    for file in left.glob("*/offsets/[0-9]*"):
        file.write_text('v1\n{"batchWatermarkMs":0}\n{"trades":{"0":999999999}}')
    shutil.copytree(left, place / LEFT_BEHIND)
    pipeline.wait_for_records(200)
    pipeline.processor.start()
    pipeline.wait_for_trades(200)
    assert left not in place.iterdir()
    assert place / LEFT_BEHIND not in place.iterdir()


def test_an_earlier_database_is_brought_up_to_date(make_pipeline: MakePipeline) -> None:
    """While all runs; and once more where Kafka's retention no longer reaches back to it."""
    pipeline = make_pipeline(seeded(rate=200))
    pipeline.start()
    pipeline.auditor.start()
    pipeline.wait_for_trades(500)
    copy = pipeline.copy_database()
    pipeline.wait_for_trades(2_000)
    pipeline.put_back_database(copy)
    pipeline.wait_for_trades(3_000)
    assert not pipeline.processor.ended, "it goes on by itself"
    pipeline.delete_records()
    pipeline.put_back_database(copy)
    pipeline.wait_for_refusal("records expired unread")
    pipeline.adopt_topic()
    pipeline.wait_for_trades(200)
    assert pipeline.holes()
    pipeline.wait_for_no_holes()
    pipeline.judge_where_topic_was_lost()


@pytest.mark.long
def test_a_topic_that_lost_records_is_refused_until_it_is_adopted(make_pipeline: MakePipeline) -> None:
    """The topic deleted, its retention passed, and Kafka's whole folder: what was lost is fetched again."""
    pipeline = make_pipeline(seeded(rate=100))
    pipeline.start()
    pipeline.auditor.start()
    lose_while_the_processor_stands_still(pipeline, pipeline.outgrow_topic, "was made anew")
    lose_while_the_processor_stands_still(pipeline, pipeline.delete_records, "records expired unread")
    pipeline.processor.kill(with_children=True)
    pipeline.delete_kafka_folder()
    pipeline.processor.start()
    pipeline.wait_for_refusal("was made anew")
    pipeline.adopt_topic()
    pipeline.wait_for_trades(200)
    pipeline.wait_for_no_holes()
    pipeline.judge_where_topic_was_lost()


@pytest.mark.long
def test_a_topic_that_lost_its_end_and_grew_again_is_refused_until_it_is_adopted(
    make_pipeline: MakePipeline,
) -> None:
    """The processor ended with Kafka, or stood still while that was away: no trade is left out in silence."""
    pipeline = make_pipeline(seeded(rate=200))
    pipeline.start()
    pipeline.auditor.start()
    pipeline.wait_for_trades(LOST_RECORDS)
    pipeline.processor.kill(with_children=True)
    pipeline.cut_topic(LOST_RECORDS)
    pipeline.processor.start()
    pipeline.wait_for_refusal("has another record at offset")
    pipeline.adopt_topic()
    pipeline.wait_for_trades(LOST_RECORDS)
    pipeline.processor.pause()
    pipeline.cut_topic(LOST_RECORDS)
    pipeline.processor.resume()
    pipeline.wait_for_refusal("has another record at offset")
    pipeline.adopt_topic()
    pipeline.wait_for_trades(200)
    pipeline.wait_for_no_holes()
    pipeline.judge_where_topic_was_lost()


def lose_while_the_processor_stands_still(pipeline: Pipeline, lose: Callable[[], None], *words: str) -> None:
    """Records that it has not read yet; then the refusal, and what mends."""
    pipeline.processor.pause()
    pipeline.wait_for_records(200)
    lose()
    pipeline.processor.resume()
    pipeline.wait_for_refusal(*words)
    pipeline.adopt_topic()
    pipeline.wait_for_trades(200)
