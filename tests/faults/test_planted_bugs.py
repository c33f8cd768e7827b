"""The tests' own test: each bug planted in a copy of the program must turn the named test red.

A suite that stays green with the compare-and-set gone proves nothing of it. Each patch replaces a text that
must be there exactly once, so that a bug that is no longer planted is noticed.
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
    """The file of a SQL function."""
    return f"candleflow/store/functions/{function}.sql"


@dataclass(frozen=True)
class Patch:
    """In this file, in place of a text that is there once."""

    file: str
    text: str
    planted: str = ""


@dataclass(frozen=True)
class PlantedBug:
    """A bug in words, how it is planted, the tests that must see it, and what they must say."""

    bug: str
    patches: Sequence[Patch]
    tests: Sequence[str]
    says: str = ""


IN_THE_STORE = [
    PlantedBug(
        "a candle folded anew leaves its roll-ups as they were",
        [Patch(sql("replace_candles"), "changed + put_candles(whole) + dropped", "changed + dropped")],
        ["tests/store/test_rebuilds.py::test_the_roll_ups_alone_are_folded_anew_where_the_stretch_is_empty"],
    ),
    PlantedBug(
        "what was merged while the topic was read is written over",
        [Patch(sql("replace_candles"), "IF seen <> (SELECT", "IF false AND seen <> (SELECT")],
        ["tests/store/test_rebuilds.py::test_candles_that_have_changed_since_they_were_read_are_not_touched"],
    ),
    PlantedBug(
        "no compare-and-set of the offsets",
        [Patch(sql("is_next_batch"), "IF stored <@ expected THEN", "IF true THEN")],
        ["tests/store/test_merge.py::test_a_replayed_batch_changes_nothing",
         "tests/store/test_merge.py::test_offsets_that_stand_elsewhere_are_refused"],
    ),
    PlantedBug(
        "ids that are in already are not noticed",
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
        "ids of a roll-up without a set are not looked for",
        [
            Patch(
                sql("weigh_batch"),
                "CASE WHEN has_minutes THEN c.trade_ids ELSE held_ids(c) END",
                "c.trade_ids",
            )
        ],
        ["tests/store/test_merge.py::test_an_overlap_is_seen_whatever_the_windows_were_and_are[5-120]"],
    ),
    PlantedBug(
        "each roll-up has a set of its ids, and writes it at each merge",
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
        "open and close by arrival",
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
        ["tests/store/test_merge.py::test_open_and_close_go_by_trade_id_whenever_the_trades_come"],
    ),
    PlantedBug(
        "offsets not moved",
        [Patch(sql("merge_batch"), "    PERFORM move_offsets(topic, reached_all);\n")],
        ["tests/store/test_claim.py::test_a_later_claim_continues_where_the_last_batch_ended"],
    ),
    PlantedBug(
        "a processor that was superseded may merge",
        [Patch(sql("hold_topic"), "IF holder.run_id IS DISTINCT FROM hold_topic.run_id OR", "IF false AND")],
        ["tests/store/test_claim.py::test_a_superseded_processor_merges_and_closes_nothing"],
    ),
    PlantedBug(
        "a candle is complete whatever came before it",
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
        "what its own batch continues is not judged anew",
        [Patch(sql("prove_completeness"), "FROM passed p WHERE p.is_followed", "FROM passed p WHERE false")],
        ["tests/store/test_merge.py::test_a_late_last_trade_completes_the_next_candle_of_its_own_batch"],
    ),
    PlantedBug(
        "a topic made anew is taken for the old one",
        [Patch(sql("claim_topic"), "IF known.topic_id <> claim_topic.topic_id AND", "IF false AND")],
        ["tests/store/test_claim.py::test_a_topic_made_anew_is_refused_with_the_command_that_accepts_it"],
    ),
    PlantedBug(
        "an adopted topic is read from where the old one was left",
        [Patch(sql("adopt_topic"), "    DELETE FROM topic_offsets o WHERE o.topic = adopt_topic.topic;\n")],
        ["tests/store/test_claim.py::test_an_adopted_topic_begins_at_its_beginning_and_counts_nothing_twice"],
    ),
]  # fmt: skip

AT_THE_EDGES = [
    PlantedBug(
        "prices are floats on their way",
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
        "holes in the stream are not seen",
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
        "a producer of some symbols goes on beside one of all",
        [Patch(LEASE, "shard.overlaps(self._shard)", "False")],
        [
            "tests/broker/test_gap_log.py::test_two_with_symbols_in_common_that_begin_at_once_do_not_both_hold_it"
        ],
    ),
    PlantedBug(
        "every shard's producer takes every symbol",
        [Patch(PRODUCER, "self._symbols = settings.own_symbols", "self._symbols = settings.symbols")],
        ["tests/pipeline/test_shards.py::test_two_shards_publish_every_trade_once_each_only_its_own"],
    ),
    PlantedBug(
        "a batch is merged at once, however many candles it has",
        [Patch(SINK, "BatchFold(work.windows, work.candles_limit)", "BatchFold(work.windows)")],
        ["tests/engine/test_sink.py::test_killed_between_two_parts_it_goes_on_from_the_last_one"],
    ),
    PlantedBug(
        "a batch that failed is tried again as it was",
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
        "nobody looks whether the topic has the last record still",
        [Patch(SINK, "            self._confirm(self._last)\n")],
        ["tests/engine/test_sink.py::test_another_record_where_the_last_one_was_stops_it_before_it_merges"],
    ),
]

ON_THE_WHOLE_WAY = [
    PlantedBug(
        "an error of a batch is swallowed",
        [Patch(SINK, "self.failure = error\n                raise\n", "self.failure = error\n")],
        ["tests/faults/test_link.py::test_merges_refused_for_a_while_are_not_lost"],
        says="in the topic, not in the candle",
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
        says="in the topic, not in the candle",
    ),
    PlantedBug(
        "offsets moved in a transaction of their own",
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
        says="received says",
    ),
]  # fmt: skip


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The program and its tests, to be harmed."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_unharmed_the_named_tests_are_green(copy: Path) -> None:
    """So that what is red below is red for the bug. Those of the whole way are run here as they are."""
    done = run_tests(copy, [test for bug in IN_THE_STORE for test in bug.tests])
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("bug", IN_THE_STORE, ids=lambda bug: bug.bug)
def test_planted_in_the_store(copy: Path, bug: PlantedBug) -> None:
    must_be_found(copy, bug)


@pytest.mark.parametrize("bug", AT_THE_EDGES, ids=lambda bug: bug.bug)
def test_planted_where_trades_come_in(copy: Path, bug: PlantedBug) -> None:
    must_be_found(copy, bug)


@pytest.mark.long
@pytest.mark.parametrize("bug", ON_THE_WHOLE_WAY, ids=lambda bug: bug.bug)
def test_planted_in_the_engine(copy: Path, bug: PlantedBug) -> None:
    must_be_found(copy, bug)


def must_be_found(copy: Path, bug: PlantedBug) -> None:
    for patch in bug.patches:
        plant(copy, patch)
    done = run_tests(copy, bug.tests)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    for test in bug.tests:
        assert f"FAILED {test}" in done.stdout, done.stdout
    assert bug.says in done.stdout, done.stdout


def plant(copy: Path, patch: Patch) -> None:
    file = copy / patch.file
    text = file.read_text()
    count = text.count(patch.text)
    assert count == 1, f"in {patch.file} {count} times, and must be once: {patch.text}"
    file.write_text(text.replace(patch.text, patch.planted))


def run_tests(copy: Path, tests: Sequence[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *dict.fromkeys(tests)]
    variables = environment() | {"PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, cwd=copy, env=variables, capture_output=True, text=True, check=False, timeout=RUN_SECONDS
    )
