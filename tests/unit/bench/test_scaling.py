from __future__ import annotations

from collections import Counter
from itertools import chain

import pytest

from bench import course, merge, scaling, stored, topic
from bench.contestants import OURS
from bench.oracle import Judgement, Verdict
from bench.race import Run
from bench.scaling import AXES, Axis, Outcome, Spot
from candleflow.settings import Exchange, load

STORED = next(axis for axis in AXES if axis.name == "stored")


def outcome(seconds: float, *, steady: float | None = 50_000, missing: int = 0) -> Outcome:
    fields = {name: Counter[Judgement]({"exact": 10}) for name in OURS.fields}
    run = Run(
        contestant=OURS.name,
        trades=400_000,
        start_seconds=5,
        seconds=seconds,
        steady_rate=steady,
        processor_seconds=8,
        memory_mb=800,
        verdict=Verdict(10, missing=missing, fields=fields),
        store_seconds=2,
    )
    return Outcome(60, run, merge.Cost(scaling.MERGED, 20, 30, 15))


def test_along_an_axis_one_thing_changes() -> None:
    for axis in AXES:
        changed = {name for spot in axis.spots() for name in difference(spot)}
        assert changed <= {axis.name}
        assert sorted(axis.values) == list(axis.values)


def difference(spot: Spot) -> set[str]:
    return {name for name in Spot.__slots__ if getattr(spot, name) != getattr(Spot(), name)}


def test_every_spot_is_run_once_on_its_own_topic() -> None:
    by_topic = scaling.by_topic(AXES)
    spots = list(chain.from_iterable(by_topic.values()))
    assert len(spots) == len(set(spots))
    assert set(spots) == {spot for axis in AXES for spot in axis.spots()}
    assert all(
        (spot.symbols, spot.partitions) == of_topic for of_topic, own in by_topic.items() for spot in own
    )


def test_a_point_is_the_median_of_its_runs() -> None:
    axis = Axis("symbols", "Symbols", (1, 10))
    one, ten = axis.spots()
    runs = {one: [outcome(4), outcome(5), outcome(20)], ten: [outcome(8)]}
    (found,) = scaling.curves_of(axis, runs)
    first, second = found.points
    assert first.figures["trades/s"] == 80_000
    assert first.figures["us of processor time a trade"] == pytest.approx(25)
    assert first.figures["of it PostgreSQL's"] == pytest.approx(5)
    assert found.ratio(second, "trades/s") == 0.625
    assert found.judged == "us a trade after warm-up"


def test_where_a_run_was_too_quick_for_a_rate_after_warm_up_all_count_with_the_whole() -> None:
    axis = Axis("symbols", "Symbols", (1, 10))
    one, ten = axis.spots()
    (found,) = scaling.curves_of(axis, {one: [outcome(4)], ten: [outcome(4, steady=None)]})
    assert found.judged == "us a trade"
    assert found.holds()


def test_one_wrong_candle_takes_the_figure_and_is_found() -> None:
    axis = Axis("symbols", "Symbols", (1, 10))
    one, ten = axis.spots()
    runs = {one: [outcome(4)], ten: [outcome(4), outcome(4, missing=1)]}
    (found,) = scaling.curves_of(axis, runs)
    assert not found.points[1].figures
    assert "its candles are not right: 10 candles; 1 missing" in found.points[1].failure
    assert scaling.wrong(runs) == [ten]


def test_a_run_that_did_not_end_has_no_figure_and_no_wrong_candle() -> None:
    axis = Axis("cores", "Cores", (1, 2))
    one, two = axis.spots()
    runs = {one: [outcome(4)], two: [Outcome(60, failure="it ended with status 1")]}
    (found,) = scaling.curves_of(axis, runs)
    assert found.holds() is None
    assert scaling.wrong(runs) == []
    assert scaling.every_run(runs).splitlines()[-1].endswith("| it ended with status 1 |")


def test_the_axis_of_rows_also_shows_the_time_of_a_merge() -> None:
    found = scaling.curves_of(STORED, {spot: [outcome(4)] for spot in STORED.spots()})
    assert [len(one.points) for one in found] == [len(STORED.values)] * 2
    assert found[1].points[0].figures[found[1].judged] == 20
    assert found[1].points[0].figures[found[1].beside] == 15


@pytest.mark.parametrize("rows", STORED.values)
def test_the_history_has_nearly_as_many_rows_as_are_asked_for(rows: int) -> None:
    span_us = stored.span_us(rows, 10)
    sizes = (5, 60, 300, 900, 3_600, 86_400)
    there = 10 * sum(span_us // (size * 1_000_000) for size in sizes)
    assert rows - 10 * len(sizes) - 1 <= there <= rows


def test_our_topic_is_the_settings() -> None:
    assert load(exchange=Exchange.BINANCE).topic == course.TOPIC


def test_the_stored_candles_end_where_those_of_every_interval_do() -> None:
    assert topic.BEGINS_AT_US % (86_400 * 1_000_000) == 0
    assert merge.FILLED_UNTIL.hour == merge.FILLED_UNTIL.minute == merge.FILLED_UNTIL.second == 0
