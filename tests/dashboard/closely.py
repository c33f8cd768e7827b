"""A chart as a viewer left it (zoomed, a line hidden, the pointer on a candle), and whether it stays so."""

from __future__ import annotations

from dataclasses import dataclass

from tests.dashboard.browser import Page

_HIDDEN = (
    "return document.querySelector('.cf-plot')._fullData"
    ".filter((one) => one.visible === 'legendonly').map((one) => one.uid)"
)


@dataclass(frozen=True)
class Left:
    """The chart's state as the viewer left it."""

    page: Page
    ranges: list[list[float]]
    readout: dict[str, str]

    def assert_as_it_was(self) -> None:
        assert self.page.is_same_chart()
        assert self.page.ranges() == self.ranges
        assert hidden(self.page) == ["SMA"]
        assert self.page.is_pointed_at()
        assert self.page.readout() == self.readout


def look_closely(page: Page) -> Left:
    page.open("overlays=SMA")
    page.wait_for_candles()
    hide_average(page)
    page.drag_over_chart((0.35, 0.25), (0.6, 0.75))
    page.wait(lambda: page.mode() == "free", "the chart is zoomed")
    page.point_at_chart(0.3)
    page.wait(page.is_pointed_at, "the crosshair")
    page.wait_for_updates(1)
    page.mark_chart()
    return Left(page, page.ranges(), page.readout())


def hide_average(page: Page) -> None:
    """Hide the average by a click in the legend, whose only entry it is."""
    page.driver.find_element("css selector", ".cf-plot .legendtoggle").click()
    page.wait(lambda: hidden(page) == ["SMA"], "the line hidden")


def hidden(page: Page) -> list[str]:
    """Return the lines that the viewer has hidden."""
    return list(page.script(_HIDDEN))
