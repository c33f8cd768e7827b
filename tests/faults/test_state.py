"""Damaged or lost state: Spark's checkpoint, an older copy of the database, Kafka's topic.

The offsets in PostgreSQL are what counts, so Spark's files may be lost at any time. If Kafka's topic doesn't
match the stored offsets, the processor stops with an error that names the repair command. It never silently
starts from another offset.
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
"""Longer than the interval at which programs repeat the log line that Kafka is not available."""
LOST_RECORDS = 150
LEFT_BEHIND = "candleflow-processor-left"


def test_programs_started_before_the_servers_and_damaged_checkpoints(make_pipeline: MakePipeline) -> None:
    pipeline = make_pipeline(seeded(rate=200))
    pipeline.start_programs_first(UNSERVED_SECONDS)
    for program in (pipeline.producer, pipeline.processor):
        assert "waiting for Kafka" in program.output()
        assert "Traceback" not in program.output()
        assert "\tat " not in program.output(), "a Java stack trace"
        assert not program.ended
    for damage in (deleted, cut_short, overwritten, replaced_by_a_file):
        damage_checkpoint(pipeline, damage)
        pipeline.wait_for_trades(200)
    assert not pipeline.processor.ended, "the processor ended instead of starting a new query"
    damage_work_folder(pipeline)
    damage_between_runs(pipeline)
    pipeline.judge(whole=True)


def damage_checkpoint(pipeline: Pipeline, damage: Callable[[Path], None]) -> None:
    """Damage the checkpoint of the running query."""
    pipeline.report.faults[f"checkpoint {damage.__name__.replace('_', ' ')}"] += 1
    (checkpoint,) = pipeline.places["Spark"].glob("candleflow-processor-*/*/offsets")
    damage(checkpoint.parent)


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
    """Make writing impossible; a read-only folder would not stop root."""
    deleted(checkpoint)
    checkpoint.touch()


def damage_work_folder(pipeline: Pipeline) -> None:
    """Delete Spark's whole work folder: the processor must end, and the supervisor restarts it."""
    pipeline.report.faults["Spark's folder deleted"] += 1
    (folder,) = pipeline.places["Spark"].glob("candleflow-processor-*")
    deleted(folder)
    awaited(lambda: not pipeline.processor.is_up, FLOW_SECONDS, pipeline.said)
    assert "was deleted while the processor ran" in pipeline.processor.said().splitlines()[-1]
    pipeline.supervise()
    pipeline.wait_for_trades(200)


def damage_between_runs(pipeline: Pipeline) -> None:
    """A killed processor leaves its folder, here with wrong offsets, which the next one must ignore."""
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
    """The database is restored while everything runs, and again after Kafka has deleted the records."""
    pipeline = make_pipeline(seeded(rate=200))
    pipeline.start()
    pipeline.auditor.start()
    pipeline.wait_for_trades(500)
    copy = pipeline.copy_database()
    pipeline.wait_for_trades(2_000)
    pipeline.restore_database(copy)
    pipeline.wait_for_trades(3_000)
    assert not pipeline.processor.ended, "the processor ended instead of continuing"
    pipeline.delete_records()
    pipeline.restore_database(copy)
    pipeline.wait_for_refusal("records expired unread")
    pipeline.adopt_topic()
    pipeline.wait_for_trades(200)
    assert pipeline.gaps()
    pipeline.wait_for_no_gaps()
    pipeline.judge_where_topic_was_lost()


@pytest.mark.long
def test_a_topic_that_lost_records_is_refused_until_it_is_adopted(make_pipeline: MakePipeline) -> None:
    """The topic is deleted, its retention passes, and Kafka's folder is deleted. Lost trades are refilled."""
    pipeline = make_pipeline(seeded(rate=100))
    pipeline.start()
    pipeline.auditor.start()
    lose_while_the_processor_is_suspended(pipeline, pipeline.recreate_topic, "was recreated")
    lose_while_the_processor_is_suspended(pipeline, pipeline.delete_records, "records expired unread")
    pipeline.processor.kill(with_children=True)
    pipeline.delete_kafka_folder()
    pipeline.processor.start()
    pipeline.wait_for_refusal("was recreated")
    pipeline.adopt_topic()
    pipeline.wait_for_trades(200)
    pipeline.wait_for_no_gaps()
    pipeline.judge_where_topic_was_lost()


@pytest.mark.long
def test_a_topic_that_lost_its_end_and_grew_again_is_refused_until_it_is_adopted(
    make_pipeline: MakePipeline,
) -> None:
    """The processor is down, or suspended, while Kafka loses records: no trade is left out silently."""
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
    pipeline.wait_for_no_gaps()
    pipeline.judge_where_topic_was_lost()


def lose_while_the_processor_is_suspended(pipeline: Pipeline, lose: Callable[[], None], *words: str) -> None:
    """Lose unread records while the processor is suspended; wait for the error, and adopt the topic."""
    pipeline.processor.pause()
    pipeline.wait_for_records(200)
    lose()
    pipeline.processor.resume()
    pipeline.wait_for_refusal(*words)
    pipeline.adopt_topic()
    pipeline.wait_for_trades(200)
