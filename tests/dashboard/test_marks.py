"""Marks of incomplete and repaired candles and of gaps are drawn at the right places.

The tests read the drawn SVG, not the figure given to Plotly. The candles are made by ``merge_batch``.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from candleflow.market.window import SECOND_US, floor_time
from tests.dashboard.browser import Page
from tests.dashboard.conftest import GAPPED, Running
from tests.dashboard.feed import now_us

MENDED = "MENDUSDT"
WINDOW_US = 5 * SECOND_US
# For a trace's uid: the place of each of its bars or points on the page, and the pattern that fills it.
_DRAWN = """
const groups = [...document.querySelectorAll('.cf-plot .cartesianlayer .trace')];
const group = groups.find((one) => one.__data__[0].trace.uid === arguments[0]);
return [...(group?.querySelectorAll('path') ?? [])].map((path) => {
  const {left, width, height} = path.getBoundingClientRect();
  const pattern = getComputedStyle(path).fill.match(/#([^"')]+)/)?.[1];
  return {left, width, height, fill: document.getElementById(pattern)?.tagName ?? null};
});
"""
_SHADES = """
return [...document.querySelectorAll('.cf-plot .layer-below .shapelayer path')].map((path) => {
  const {left, width, height} = path.getBoundingClientRect();
  return {left, width, height, opacity: Number(getComputedStyle(path).opacity)};
});
"""
_WRITTEN = """
return [...document.querySelectorAll('.cf-plot .annotation-text')].map((text) => {
  const {left, width} = text.getBoundingClientRect();
  return {text: text.textContent, middle: left + width / 2};
});
"""
# The horizontal place of a time (milliseconds) on the page.
_PLACE = """
const plot = document.querySelector('.cf-plot');
const {xaxis} = plot._fullLayout;
return plot.getBoundingClientRect().left + xaxis._offset + xaxis.d2p(arguments[0]);
"""


def test_incomplete_candles_are_hatched_and_an_open_gap_is_shaded_and_says_what_is_missing(
    page: Page, pictures: Path
) -> None:
    page.open(f"symbol={GAPPED}&candle=5+s")
    page.wait_for_candles()
    page.wait_for_text("7 trades missing")
    page.choose("Refresh", "Paused")
    page.wait_for_text("Paused at")
    _assert_hatched(page)
    _assert_shaded(page)
    page.save(pictures / "incomplete.png")


def _assert_hatched(gapped: Page) -> None:
    """Assert that two are hatched: the very first candle, and the one after the gap."""
    times = gapped.script("return document.querySelector('.cf-plot').data[2].x")
    assert len(times) == 2
    assert set(times) < set(gapped.times())
    hatched = _drawn(gapped, "incomplete")
    assert [one["fill"] for one in hatched] == ["pattern"] * 2
    assert all(one["height"] > 100 for one in hatched), "as high as the prices"
    assert [one["left"] + one["width"] / 2 for one in hatched] == pytest.approx(_places(gapped, times), abs=1)
    assert len(_drawn(gapped, "incomplete-foot")) == 2


def _assert_shaded(gapped: Page) -> None:
    times = gapped.times()
    before, after = max(pairwise(times), key=lambda pair: pair[1] - pair[0])
    assert after - before > 10_000
    begin, end = _places(gapped, [before + 2_500, after - 2_500])
    (shade,) = gapped.script(_SHADES)
    assert (shade["left"], shade["width"]) == pytest.approx((begin, end - begin), abs=1)
    assert shade["height"] > 300
    assert 0 < shade["opacity"] < 1
    (words,) = [one for one in gapped.script(_WRITTEN) if "missing" in one["text"]]
    assert words["text"] == "7 missing"
    assert words["middle"] == pytest.approx((begin + end) / 2, abs=2)


def test_a_repaired_candle_is_marked_and_no_longer_hatched(
    page: Page, running: Running, pictures: Path
) -> None:
    """Lost trades are filled in after their candle has closed."""
    begin = floor_time(now_us(), WINDOW_US) - 24 * WINDOW_US
    broken = begin + 12 * WINDOW_US
    whole_again = broken + 2 * SECOND_US
    running.feed.send(MENDED, range(begin, broken, SECOND_US))
    lost = running.feed.lose(MENDED, range(broken, whole_again, SECOND_US))
    running.feed.send(MENDED, range(whole_again, begin + 20 * WINDOW_US, SECOND_US))
    page.open(f"symbol={MENDED}&candle=5+s&look_back=5+m")
    page.wait_for_candles()
    page.wait(lambda: len(_drawn(page, "incomplete")) == 2, "the first one and the broken one hatched")
    assert _drawn(page, "repaired") == []

    running.feed.fill(lost)

    page.wait(lambda: len(_drawn(page, "repaired")) == 1, "the mark")
    page.wait(lambda: len(_drawn(page, "incomplete")) == 1, "only the first one hatched")
    page.choose("Refresh", "Paused")
    page.wait_for_text("Paused at")
    (mark,) = _drawn(page, "repaired")
    (place,) = _places(page, [broken / 1_000])
    assert mark["left"] + mark["width"] / 2 == pytest.approx(place, abs=1)
    page.save(pictures / "repaired.png")


def _drawn(page: Page, uid: str) -> list[dict[str, Any]]:
    return list(page.script(_DRAWN, uid))


def _places(page: Page, times: list[float]) -> list[float]:
    return [page.script(_PLACE, time) for time in times]
