"""claim_topic: one processor at a time merges a topic, and the topic must match the stored offsets."""

from __future__ import annotations

import psycopg2
import pytest

from tests.store.processor import Processor
from tests.store.trades import FIVE_SECONDS, run_of
from tests.store_fixtures import Database


def refused(code: str, database: Database, **claim: str) -> str:
    """Check that the claim fails with this SQLSTATE; return the message."""
    with pytest.raises(psycopg2.Error) as caught:
        Processor(database.writer(), FIVE_SECONDS, **claim)
    assert caught.value.pgcode == code
    return str(caught.value)


def test_a_first_claim_begins_with_no_offsets(database: Database) -> None:
    assert Processor(database.writer(), FIVE_SECONDS).offsets == {}


def test_a_later_claim_continues_where_the_last_batch_ended(database: Database) -> None:
    connection = database.writer()
    Processor(connection, FIVE_SECONDS).merge(run_of(1, 3), partition="2")
    connection.close()
    assert Processor(database.writer(), FIVE_SECONDS).offsets == {"2": 3}


def test_a_second_processor_is_refused_with_the_name_of_the_first(database: Database) -> None:
    Processor(database.writer(), FIVE_SECONDS, held_by="host seven, pid 77")
    assert "host seven, pid 77" in refused("CF001", database)


def test_another_topic_is_free(database: Database) -> None:
    Processor(database.writer(), FIVE_SECONDS)
    assert Processor(database.writer(), FIVE_SECONDS, topic="trades.other").offsets == {}


def test_a_holder_that_died_leaves_the_topic_free(database: Database) -> None:
    holder = database.writer()
    Processor(holder, FIVE_SECONDS)
    database.superuser().cursor().execute("SELECT pg_terminate_backend(%s, 5000)", (holder.info.backend_pid,))
    Processor(database.writer(), FIVE_SECONDS)


def test_a_recreated_topic_is_refused_with_the_command_that_accepts_it(database: Database) -> None:
    connection = database.writer()
    Processor(connection, FIVE_SECONDS, topic_id="old").merge(run_of(1, 3))
    connection.close()
    message = refused("CF002", database, topic_id="new")
    assert "python -m candleflow adopt-topic" in message
    assert "old" in message
    assert "new" in message
    # The refused session released the lock, so another can claim the topic while that session lives.
    assert Processor(database.writer(), FIVE_SECONDS, topic_id="old").offsets == {"0": 3}


def test_a_topic_with_nothing_merged_may_be_recreated(database: Database) -> None:
    connection = database.writer()
    Processor(connection, FIVE_SECONDS, topic_id="old")
    connection.close()
    assert Processor(database.writer(), FIVE_SECONDS, topic_id="new").offsets == {}


def test_an_adopted_topic_is_read_from_its_beginning_and_nothing_counts_twice(database: Database) -> None:
    connection = database.writer()
    Processor(connection, FIVE_SECONDS, topic_id="old").merge(run_of(1, 3))
    connection.close()
    owner = database.owner().cursor()
    owner.execute("SELECT adopt_topic('trades', 'new')")
    processor = Processor(database.writer(), FIVE_SECONDS, topic_id="new")
    assert processor.offsets == {}
    processor.merge(run_of(2, 5))
    owner.execute("SELECT trade_count, held_ids(candles)::text FROM candles WHERE interval = '1d'")
    assert owner.fetchall() == [(5, "{[1,6)}")]


def test_a_topic_is_not_adopted_under_a_running_processor(database: Database) -> None:
    Processor(database.writer(), FIVE_SECONDS, held_by="host seven")
    with pytest.raises(psycopg2.Error, match="host seven") as caught:
        database.owner().cursor().execute("SELECT adopt_topic('trades', 'new')")
    assert caught.value.pgcode == "CF001"


def test_a_superseded_processor_merges_and_closes_nothing(database: Database) -> None:
    connection = database.writer()
    first = Processor(connection, FIVE_SECONDS)
    first.call("SELECT pg_advisory_unlock_all()::text")  # as if its session had ended without its knowledge
    Processor(database.writer(), FIVE_SECONDS, held_by="the second")
    with pytest.raises(psycopg2.Error, match="the second") as merging:
        first.merge(run_of(1, 3))
    with pytest.raises(psycopg2.Error, match="the second") as closing:
        first.close_quiet(10**15)
    assert (merging.value.pgcode, closing.value.pgcode) == ("CF003", "CF003")
    cursor = database.reader().cursor()
    cursor.execute("SELECT count(*) FROM candles")
    assert cursor.fetchone() == (0,)
