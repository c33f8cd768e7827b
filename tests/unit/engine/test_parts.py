"""Cut a batch into parts: each record once, all partitions advance together, progress after any failure."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from candleflow.engine.parts import MERGE_SECONDS, PartSize, part_end

MOST = 20_000
BATCH = 500_000


@st.composite
def batches(draw: st.DrawFn) -> tuple[dict[int, int], dict[int, int]]:
    """A batch's first and end offsets, by partition."""
    counts = draw(st.dictionaries(st.integers(0, 40), st.integers(0, 10**6), min_size=1, max_size=8))
    begin = {number: draw(st.integers(0, 10**9)) for number in counts}
    return begin, {number: begin[number] + count for number, count in counts.items()}


@given(batches(), st.integers(1, 10**6))
def test_a_part_has_as_many_records_as_asked_and_each_partition_its_share(
    batch: tuple[dict[int, int], dict[int, int]], records: int
) -> None:
    begin, end = batch
    reached = part_end(begin, end, records)
    total = sum(end.values()) - sum(begin.values())
    assert sum(reached.values()) - sum(begin.values()) == min(records, total)
    for number, offset in reached.items():
        assert begin[number] <= offset <= end[number]
        share = min(records, total) * (end[number] - begin[number])
        assert abs((offset - begin[number]) * total - share) <= total


def test_a_part_that_has_room_for_all_is_the_batch() -> None:
    assert part_end({0: 5, 3: 7}, {3: 9, 0: 6}, PartSize(MOST).records) == {0: 6, 3: 9}


def test_a_backlog_with_few_candles_is_merged_batch_by_batch() -> None:
    size = PartSize(MOST)
    for _ in range(20):
        assert size.records >= BATCH
        size.merged(BATCH, 5_000, 0.5)


def test_a_backlog_of_a_candle_a_record_is_merged_in_parts_that_are_nearly_full() -> None:
    """The first attempt fails, and shows how many records fit."""
    size = PartSize(MOST)
    size.failed(BATCH, MOST)
    assert MOST / 2 <= size.records <= MOST
    for _ in range(100):
        size.merged(size.records, size.records, 1.0)
        assert MOST / 2 <= size.records <= MOST


def test_after_quiet_symbols_busy_ones_are_merged_batch_by_batch_again() -> None:
    size = PartSize(MOST)
    size.failed(BATCH, MOST)
    parts = 0
    while size.records < BATCH:
        size.merged(size.records, size.records // 100, 0.5)
        parts += 1
    assert parts <= 4


def test_a_small_batch_teaches_nothing() -> None:
    size = PartSize(MOST)
    size.failed(BATCH, MOST)
    before = size.records
    for records in (0, 1, 100, before - 1):
        size.merged(records, records, 0.01)
        assert size.records == before


def test_a_slow_store_is_given_less_before_it_fails() -> None:
    size = PartSize(MOST)
    size.merged(BATCH, 10_000, 3 * MERGE_SECONDS)
    assert size.records < BATCH / 2
    size.merged(size.records, 3_000, MERGE_SECONDS)
    assert size.records < BATCH / 2, "the next part must not take longer either"


@given(st.integers(1, BATCH), st.integers(100, BATCH), st.integers(1, 60))
@settings(max_examples=50)
def test_whatever_the_hidden_bound_is_every_record_is_merged(
    records: int, bound: int, candles_per_record: int
) -> None:
    """No failed attempt is repeated with the same size, and few attempts fail."""
    size, left = PartSize(MOST), records
    attempts: list[int] = []
    failed = 0
    while left:
        part = min(size.records, left)
        attempts.append(part)
        if part > bound:
            size.failed(part)
            failed += 1
        else:
            size.merged(part, min(MOST, part * candles_per_record), 0.1)
            left -= part
        assert len(attempts) <= 40 + 8 * (records // bound), attempts[-20:]
    assert all(later < earlier for earlier, later in pairwise(attempts) if earlier > bound)
    assert failed <= 20 + 4 * (records // bound)


def test_a_part_of_one_record_stays_one() -> None:
    size = PartSize(MOST)
    for records in (3, 1, 1, 0):
        size.failed(records, 10**9)
        assert size.records == 1
