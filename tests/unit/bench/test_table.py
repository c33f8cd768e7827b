from __future__ import annotations

from collections import Counter
from xml.etree import ElementTree as ET

import pytest

from bench import table
from bench.contestants import CONTESTANTS, GOALS, OURS, PEERS, QUICK_FLOORS, Contestant
from bench.oracle import Judgement, Verdict, at
from bench.race import Run, milliseconds, steady_rate
from bench.table import Ratio, Result

LOOP = next(one for one in CONTESTANTS if one.name == "loop")
SPARK = next(one for one in CONTESTANTS if one.name == "spark")


def run(contestant: Contestant, seconds: float, *, steady: float | None = None, missing: int = 0) -> Run:
    fields = {name: Counter[Judgement]({"exact": 10}) for name in contestant.fields}
    return Run(
        contestant=contestant.name,
        trades=1_000_000,
        start_seconds=5,
        seconds=seconds,
        steady_rate=steady,
        processor_seconds=10,
        memory_mb=800,
        verdict=Verdict(10, missing=missing, fields=fields),
    )


def result(contestant: Contestant, *seconds: float) -> Result:
    runs = {number: run(contestant, one) for number, one in enumerate(seconds, 1)}
    return Result(contestant, "it 1.0", runs)


def test_a_ratio_is_taken_within_each_round() -> None:
    ours, loop = result(OURS, 4, 5, 10), result(LOOP, 8, 20, 10)
    assert table.ratio(ours, loop) == Ratio(median=2, least=1, greatest=4)


def test_only_rounds_that_both_came_through_are_compared() -> None:
    ours = result(OURS, 4, 5)
    loop = Result(LOOP, "it 1.0", {2: run(LOOP, 20)}, failure="in round 1 it ended")
    assert table.ratio(ours, loop) == Ratio(4, 4, 4)


def test_after_warm_up_a_run_without_such_a_rate_counts_with_its_whole_one() -> None:
    ours = Result(OURS, "it 1.0", {1: run(OURS, 5, steady=400_000)})
    loop = Result(LOOP, "it 1.0", {1: run(LOOP, 10)})
    assert table.ratio(ours, loop, steady=True) == Ratio(4, 4, 4)


@pytest.mark.parametrize("whose", [OURS, LOOP])
def test_no_ratio_where_a_candle_is_wrong(whose: Contestant) -> None:
    results = {
        one: Result(one, "it 1.0", {1: run(one, 5, missing=int(one is whose))}) for one in (OURS, LOOP)
    }
    assert table.ratio(results[OURS], results[LOOP]) is None


def test_a_ratio_below_its_floor_is_reported() -> None:
    results = [result(OURS, 5), result(LOOP, 6), result(SPARK, 60)]
    assert table.below(results, {"loop": 1.5, "spark": 10.0}, steady=False) == [
        "A plain loop: ours is 1.2 (1.2-1.2) times as fast, minimum 1.5"
    ]
    assert table.below(results, {"loop": 1.1, "spark": 10.0}, steady=False) == []


def test_the_table_has_a_line_for_everyone_and_no_figure_for_who_was_wrong() -> None:
    results = [
        Result(SPARK, "pyspark 4", {}, failure="can't be installed here: no"),
        Result(LOOP, "loop 1", {1: run(LOOP, 6, missing=3)}),
        result(OURS, 5),
    ]
    head, rule, ours, *others = table.markdown(results).splitlines()
    assert ours.startswith("| Candleflow | 200,000 |")
    assert {line.count("|") for line in (head, rule, ours, *others)} == {head.count("|")}
    assert any("no figure: can't be installed here |" in line for line in others)
    assert any("its candles are not right: 10 candles; 3 missing" in line for line in others)


def test_the_table_without_us_has_no_ratios() -> None:
    assert "166,667" in table.markdown([result(LOOP, 6)])


def test_every_run_is_listed_by_round() -> None:
    lines = table.rounds([result(OURS, 5, 4), result(LOOP, 6, 7)]).splitlines()[2:]
    assert [line.split("|")[1].strip() for line in lines] == ["1", "1", "2", "2"]


def test_the_plot_is_xml_with_a_bar_for_each_figure() -> None:
    drawn = ET.fromstring(table.svg([result(OURS, 5), result(LOOP, 6), Result(SPARK, "", {})]))  # noqa: S314
    assert len([one for one in drawn.iter() if one.tag.endswith("rect")]) == 2


def test_the_steady_rate_leaves_out_the_first_quarter() -> None:
    reached = [(100.0, 0), (110.0, 200), (112.0, 300), (114.0, 700), (116.0, 1_000)]
    assert steady_rate(reached, 1_000) == 700 / 4
    assert steady_rate([(100.0, 0), (110.0, 950), (111.0, 1_000)], 1_000) is None


def test_a_moment_in_milliseconds_is_whole() -> None:
    assert milliseconds(at(1_723_161_605_000_000)) == 1_723_161_605_000


def test_every_contestant_has_its_program_and_its_lock() -> None:
    for one in CONTESTANTS:
        assert one.program.is_file()
        if one.lock is not None:
            pinned = (PEERS / "requirements" / f"{one.lock}.lock").read_text()
            assert f"{one.package}==" in pinned
            assert "--hash=sha256:" in pinned
    names = [one.name for one in CONTESTANTS]
    assert len(set(names)) == len(names)
    assert set(GOALS) | set(QUICK_FLOORS) <= set(names)
