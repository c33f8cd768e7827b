"""Mutation tests: plant a known bug in a copy of the code and check that the named tests fail.

A suite that still passes without, for example, the compare-and-set of offsets doesn't test it. Each patch
replaces a text that must occur exactly once. So a patch that no longer matches the code is noticed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.processes import ROOT, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LEDGER = "candleflow/engine/ledger.py"
SINK = "candleflow/engine/sink.py"
TRADES = "candleflow/engine/trades.py"
TRADE = "candleflow/engine/java/candleflow/Trade.java"
INTAKE = "candleflow/producer/intake.py"
LEASE = "candleflow/broker/lease.py"
PRODUCER = "candleflow/producer/process.py"
ROLES = "candleflow/store/roles.py"
COPIED = ("candleflow", "tests", "pyproject.toml", "processor.py", "producer.py")
RUN_SECONDS = 500


def sql(function: str) -> str:
    """Return the path of the file that defines a SQL function."""
    return f"candleflow/store/functions/{function}.sql"


@dataclass(frozen=True)
class Patch:
    """Replaces ``text``, which occurs once in ``file``, by ``planted``."""

    file: str
    text: str
    planted: str = ""


@dataclass(frozen=True)
class PlantedBug:
    """A bug: its description, the patches that plant it, and the tests that must fail."""

    name: str
    patches: Sequence[Patch]
    tests: Sequence[str]
    message: str = ""
    """Text that the failing tests must print."""


STORE_BUGS = [
    PlantedBug(
        "a rebuilt candle does not update its roll-ups",
        [Patch(sql("replace_candles"), "changed + put_candles(whole) + dropped", "changed + dropped")],
        ["tests/store/test_rebuilds.py::test_an_empty_range_rebuilds_only_the_roll_ups"],
    ),
    PlantedBug(
        "a rebuild overwrites trades that were merged while it read the topic",
        [Patch(sql("replace_candles"), "IF seen <> (SELECT", "IF false AND seen <> (SELECT")],
        ["tests/store/test_rebuilds.py::test_candles_that_have_changed_since_they_were_read_are_not_touched"],
    ),
    PlantedBug(
        "offsets are moved without compare-and-set",
        [Patch(sql("is_next_batch"), "IF stored <@ expected THEN", "IF true THEN")],
        ["tests/store/test_merge.py::test_a_replayed_batch_changes_nothing",
         "tests/store/test_merge.py::test_offsets_that_do_not_match_are_refused"],
    ),
    PlantedBug(
        "trade ids that are already stored are not noticed",
        [
            Patch(
                sql("weigh_batch"),
                "(SELECT jsonb_object_agg(shared.symbol, shared.ids::text) FROM shared)",
                "NULL::jsonb",
            )
        ],
        ["tests/store/test_merge.py::test_an_overlap_names_the_ids_and_changes_nothing"],
    ),
    PlantedBug(
        "trade ids are not checked in a roll-up that stores no set of ids",
        [
            Patch(
                sql("weigh_batch"),
                "CASE WHEN has_minutes THEN c.trade_ids ELSE held_ids(c) END",
                "c.trade_ids",
            )
        ],
        ["tests/store/test_merge.py::test_an_overlap_is_found_with_other_windows_too[5-120]"],
    ),
    PlantedBug(
        "each roll-up stores its set of trade ids and rewrites it at each merge",
        [
            Patch(
                sql("merge_candles"),
                "CASE WHEN keeps_ids[b.ordinality] THEN b.trade_ids END",
                "b.trade_ids",
            )
        ],
        ["tests/store/test_merge.py::test_the_rows_of_a_day_do_not_grow_with_the_gaps_in_it"],
    ),
    PlantedBug(
        "open and close follow the order of arrival, not of trade ids",
        [
            Patch(
                sql("merge_candles"),
                "CASE WHEN excluded.first_trade_id < c.first_trade_id THEN excluded.open ELSE c.open END",
                "c.open",
            ),
            Patch(
                sql("merge_candles"),
                "CASE WHEN excluded.last_trade_id > c.last_trade_id THEN excluded.close ELSE c.close END",
                "excluded.close",
            ),
        ],
        ["tests/store/test_merge.py::test_open_and_close_follow_the_trade_ids_in_any_order_of_arrival"],
    ),
    PlantedBug(
        "a merge does not move the offsets",
        [Patch(sql("merge_batch"), "    PERFORM move_offsets(topic, reached_all);\n")],
        ["tests/store/test_claim.py::test_a_later_claim_continues_where_the_last_batch_ended"],
    ),
    PlantedBug(
        "a processor that was superseded may merge",
        [Patch(sql("hold_topic"), "IF holder.run_id IS DISTINCT FROM hold_topic.run_id OR", "IF false AND")],
        ["tests/store/test_claim.py::test_a_superseded_processor_merges_and_closes_nothing"],
    ),
    PlantedBug(
        "a candle counts as complete whatever the candle before it",
        [
            Patch(
                sql("prove_completeness"),
                "coalesce(c.first_trade_id = before.last_trade_id + 1, false)",
                "true",
            )
        ],
        ["tests/store/test_merge.py::test_a_late_last_trade_completes_the_newest_candle"],
    ),
    PlantedBug(
        "completeness is not re-checked for a candle that follows one of the same batch",
        [Patch(sql("prove_completeness"), "FROM passed p WHERE p.is_followed", "FROM passed p WHERE false")],
        ["tests/store/test_merge.py::test_a_late_last_trade_completes_the_next_candle_of_its_own_batch"],
    ),
    PlantedBug(
        "a recreated topic is taken for the old one",
        [Patch(sql("claim_topic"), "IF known.topic_id <> claim_topic.topic_id AND", "IF false AND")],
        ["tests/store/test_claim.py::test_a_recreated_topic_is_refused_with_the_command_that_accepts_it"],
    ),
    PlantedBug(
        "an adopted topic is read from the old topic's offsets",
        [Patch(sql("adopt_topic"), "    DELETE FROM topic_offsets o WHERE o.topic = adopt_topic.topic;\n")],
        ["tests/store/test_claim.py::test_an_adopted_topic_is_read_from_its_beginning_and_nothing_counts_twice"],
    ),
]  # fmt: skip

INPUT_BUGS = [
    PlantedBug(
        "prices pass through floats",
        [
            Patch(
                TRADE,
                "price = (priceWhole + PRICE_ZERO / STEPS) * STEPS + priceSteps;",
                "price = (long) ((double) (priceWhole + PRICE_ZERO / STEPS) * STEPS + priceSteps);",
            )
        ],
        ["tests/property/test_candles.py::test_a_batch_of_the_largest_trades_overflows_nothing"],
    ),
    PlantedBug(
        "gaps in the stream are not detected",
        [
            Patch(
                INTAKE,
                "return trade.trade_id > self._next_ids.get(trade.symbol, trade.trade_id)",
                "return False",
            )
        ],
        ["tests/pipeline/test_gaps.py::test_repeated_disconnects_leave_no_gap"],
    ),
    PlantedBug(
        "a producer of one shard publishes beside a producer of all symbols",
        [Patch(LEASE, "shard.overlaps(self._shard)", "False")],
        [
            "tests/broker/test_gap_log.py::test_overlapping_shards_that_start_at_once_do_not_both_get_the_lease"
        ],
    ),
    PlantedBug(
        "the producer of each shard publishes all symbols",
        [Patch(PRODUCER, "self._symbols = settings.own_symbols", "self._symbols = settings.symbols")],
        ["tests/pipeline/test_shards.py::test_two_shards_publish_every_trade_once_each_only_its_own"],
    ),
    PlantedBug(
        "a batch is merged in one transaction, however many candles it has",
        [Patch(SINK, "BatchFold(work.windows, work.candles_limit)", "BatchFold(work.windows)")],
        ["tests/engine/test_sink.py::test_killed_between_two_parts_it_goes_on_from_the_last_one"],
    ),
    PlantedBug(
        "a failed batch is retried at the same size",
        [
            Patch(
                SINK,
                "            self._part_size.failed(records)\n            raise\n",
                "            raise\n",
            )
        ],
        ["tests/engine/test_sink.py::test_after_a_failure_of_time_or_size_the_next_attempt_is_smaller"],
    ),
    PlantedBug(
        "the processor does not check that the topic still has the last merged record",
        [Patch(SINK, "            self._confirm(self._last)\n")],
        ["tests/engine/test_sink.py::test_another_record_where_the_last_one_was_stops_it_before_it_merges"],
    ),
]

PIPELINE_BUGS = [
    PlantedBug(
        "an error in a batch is swallowed",
        [Patch(SINK, "self.failure = error\n                raise\n", "self.failure = error\n")],
        ["tests/faults/test_link.py::test_merges_refused_for_a_while_are_not_lost"],
        message="in the topic, not in the candle",
    ),
    PlantedBug(
        "a new query starts from the topic's end",
        [
            Patch(
                TRADES,
                '    begin = _offsets_text(topic, offsets) if offsets else "earliest"\n',
                '    begin = "latest"\n',
            )
        ],
        ["tests/faults/test_link.py::test_merges_refused_for_a_while_are_not_lost"],
        message="in the topic, not in the candle",
    ),
    PlantedBug(
        "offsets are moved in a separate transaction",
        [
            Patch(sql("merge_batch"), "    PERFORM move_offsets(topic, reached_all);\n"),
            Patch(
                sql("move_offsets"),
                "CREATE FUNCTION move_offsets(topic text, reached jsonb) RETURNS void\n"
                "LANGUAGE plpgsql AS",
                "CREATE FUNCTION move_offsets(topic text, reached jsonb) RETURNS void\n"
                "LANGUAGE plpgsql SECURITY DEFINER AS",
            ),
            Patch(ROLES, '"merge_batch",', '"merge_batch", "move_offsets",'),
            Patch(
                LEDGER,
                '        return Merged(answer["status"],',
                '        if answer["status"] == "merged":\n'
                '            statement = "SELECT 0 FROM (SELECT move_offsets(?, ?::jsonb)) AS moved"\n'
                "            self._call(statement, (self._topic, _offsets_text({**expected, **reached})))\n"
                '        return Merged(answer["status"],',
            ),
        ],
        ["tests/faults/test_link.py::test_commits_cut_at_any_byte_are_done_once"],
        message="count of received is",
    ),
]  # fmt: skip


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the code and its tests, to plant bugs in."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_without_a_bug_the_named_tests_pass(copy: Path) -> None:
    """Run the store's tests without a bug, so that a failure below is caused by the bug."""
    done = run_tests(copy, [test for bug in STORE_BUGS for test in bug.tests])
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("bug", STORE_BUGS, ids=lambda bug: bug.name)
def test_a_bug_in_the_store_is_detected(copy: Path, bug: PlantedBug) -> None:
    assert_detected(copy, bug)


@pytest.mark.parametrize("bug", INPUT_BUGS, ids=lambda bug: bug.name)
def test_a_bug_where_trades_come_in_is_detected(copy: Path, bug: PlantedBug) -> None:
    assert_detected(copy, bug)


@pytest.mark.long
@pytest.mark.parametrize("bug", PIPELINE_BUGS, ids=lambda bug: bug.name)
def test_a_bug_in_the_engine_is_detected(copy: Path, bug: PlantedBug) -> None:
    assert_detected(copy, bug)


def assert_detected(copy: Path, bug: PlantedBug) -> None:
    for patch in bug.patches:
        plant(copy, patch)
    done = run_tests(copy, bug.tests)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    for test in bug.tests:
        assert f"FAILED {test}" in done.stdout, done.stdout
    assert bug.message in done.stdout, done.stdout


def plant(copy: Path, patch: Patch) -> None:
    file = copy / patch.file
    text = file.read_text()
    count = text.count(patch.text)
    assert count == 1, f"the text must occur once in {patch.file}, but occurs {count} times: {patch.text}"
    file.write_text(text.replace(patch.text, patch.planted))


def run_tests(copy: Path, tests: Sequence[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *dict.fromkeys(tests)]
    variables = environment() | {"PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, cwd=copy, env=variables, capture_output=True, text=True, check=False, timeout=RUN_SECONDS
    )
