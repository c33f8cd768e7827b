from __future__ import annotations

from math import log10
from xml.etree import ElementTree as ET

import pytest

from bench import curve
from bench.curve import Curve, Point

TIME = "us a trade"


def points(times: dict[float, float | None]) -> Curve:
    found = [
        Point(work, {"trades/s": 1e6 / time, TIME: time} if time else {}, "" if time else "it ended")
        for work, time in times.items()
    ]
    return Curve("Symbols", "symbols", TIME, found)


@pytest.mark.parametrize(
    ("grows", "holds"),
    [
        (lambda work: 10.0, True),
        (lambda work: 10 + 4 * log10(work), True),
        (lambda work: 10 * work ** (1 / 3), False),
        (lambda work: 10 * work**0.5, False),
        (lambda work: 10.0 * work, False),
    ],
)
@pytest.mark.parametrize("last", [10, 1_000])
def test_a_logarithm_is_distinguished_from_every_root(grows: object, holds: bool, last: int) -> None:
    assert callable(grows)
    works = [1.0, 10.0, 100.0, 1_000.0]
    assert points({work: grows(work) for work in works if work <= last}).holds() is holds


def test_what_is_allowed_is_counted_from_the_first_point() -> None:
    one = points({10_000: 20, 100_000: 20, 10_000_000: 20})
    assert [one.allowed(point) for point in one.points] == [1, 1 + curve.A_TENFOLD, 1 + 3 * curve.A_TENFOLD]


def test_a_curve_without_all_points_has_no_verdict_unless_a_point_is_above() -> None:
    assert points({1: 10, 10: None, 100: 10}).holds() is None
    assert points({1: None, 10: 10, 100: 1_000}).holds() is None
    assert points({1: 10, 10: None, 100: 1_000}).holds() is False


def test_the_judgement_is_said_with_its_figures() -> None:
    assert "**Worse than logarithmic**" in points({1: 10, 10: 20}).words()
    assert "2.00 at 10 (at most 1.50)" in points({1: 10, 10: 20}).words()
    assert points({1: 10, 10: 12}).words().startswith("No worse than logarithmic")
    assert points({1: 10, 10: None}).words() == "No verdict on us a trade: a point has no figure."


def test_a_time_beside_is_judged_in_a_sentence_of_its_own() -> None:
    found = [Point(1, {TIME: 10, "processor": 5}), Point(10, {TIME: 30, "processor": 5})]
    first, second = Curve("", "symbols", TIME, found, "processor").words().split(". ")
    assert first.startswith("**Worse than logarithmic**: us a trade")
    assert second.startswith("No worse than logarithmic: processor over the first point's 1.00 at 10")


def test_the_table_has_each_figure_with_its_ratio_and_a_line_without_where_none_counts() -> None:
    _, _, head, rule, *lines = curve.markdown(points({1: 10, 10: 12.5, 1_000: None})).splitlines()
    assert lines[0] == "| 1 | 100,000 (1.00) | 10.0 (1.00) | 1.00 |"
    assert lines[1] == "| 10 | 80,000 (0.80) | 12.5 (1.25) | 1.50 |"
    assert lines[2].startswith("| 1,000 | no figure: it ended |")
    assert {line.count("|") for line in (head, rule, *lines[:3])} == {5}


def test_a_figure_that_could_not_be_had_leaves_its_cell_empty() -> None:
    found = [Point(1, {TIME: 10, "PostgreSQL's": None}), Point(10, {TIME: 10, "PostgreSQL's": 3})]
    assert "| 10 | 10.0 (1.00) | 3.0 | 1.50 |" in curve.markdown(Curve("", "symbols", TIME, found))


def test_the_plot_is_xml_with_a_mark_for_each_figure() -> None:
    curves = [points({1: 10, 10: 12, 100: None}), points({1: 10, 2: 9}), points({1: None, 2: None})]
    drawn = ET.fromstring(curve.svg(curves, "a <subtitle>"))  # noqa: S314
    assert len([one for one in drawn.iter() if one.tag.endswith("circle")]) == 4
    assert len([one for one in drawn.iter() if one.get("class") == "bound"]) == 3
