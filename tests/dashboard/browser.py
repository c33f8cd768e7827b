"""A headless Chromium, and the page as a viewer sees and uses it."""

from __future__ import annotations

import base64
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
MISSING = None if CHROMIUM and CHROMEDRIVER else "needs chromium and chromedriver (Debian: chromium-driver)"

DESKTOP = (1_280, 800)
PHONE = (390, 844)
SMALL_PHONE = (360, 740)
MARKS_OF_A_REFRESH = 4
PATIENCE_SECONDS = 45  # for a busy machine; on an idle one nothing takes 5 s
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run",
    "--disable-default-apps", "--disable-extensions", "--no-default-browser-check",
)  # fmt: skip

T = TypeVar("T")


@dataclass(frozen=True)
class Received:
    """What the server sent over the WebSocket: the size of each message, and the number of refreshes.

    That number is of the fragment with the most. It is counted in the messages, not in the chart, because a
    busy browser draws two refreshes at once.
    """

    sizes: Sequence[int]
    refreshes: int

    @property
    def per_refresh(self) -> float:
        return sum(self.sizes) / self.refreshes

    @classmethod
    def of(cls, messages: Sequence[bytes]) -> Received:
        ended: Counter[str] = Counter()
        fragment = ""
        for message in map(ForwardMsg.FromString, messages):
            fragment = message.delta.fragment_id or fragment
            if message.script_finished == ForwardMsg.FINISHED_FRAGMENT_RUN_SUCCESSFULLY:
                ended[fragment] += 1
        return cls([len(one) for one in messages], max(ended.values(), default=0))


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in _FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(CHROMEDRIVER or ""))
    try:
        yield driver
    finally:
        driver.quit()


class Page:
    """The page in a browser tab."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        self.url = url

    def open(self, query: str = "", *, size: tuple[int, int] = DESKTOP, is_dark: bool = False) -> None:
        self.look_like(size, is_dark=is_dark)
        self.driver.get(f"{self.url}/?{query}")

    def look_like(self, size: tuple[int, int], *, is_dark: bool) -> None:
        """Set the window's size, and whether the viewer prefers the dark theme."""
        width, height = size
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def script(self, body: str, *arguments: object) -> Any:
        return self.driver.execute_script(body, *arguments)

    def wait(self, condition: Callable[[], T | None], what: str, seconds: float = PATIENCE_SECONDS) -> T:
        """Return the condition's first true value; fail with the page's text if there is none in time."""
        waiting = WebDriverWait(
            self.driver, seconds, poll_frequency=0.1, ignored_exceptions=[StaleElementReferenceException]
        )
        try:
            found = waiting.until(lambda _: condition())
        except TimeoutException as error:
            raise AssertionError(f"not in {seconds} s: {what}; the page says:\n{self.text()}") from error
        assert found is not None
        return found

    def text(self) -> str:
        return str(self.script("return document.body.innerText"))

    def wait_for_text(self, words: str, seconds: float = PATIENCE_SECONDS) -> None:
        self.wait(lambda: words in self.text(), words, seconds)

    def wait_for_candles(self) -> int:
        """Wait until candles are drawn; return how many."""
        return self.wait(lambda: len(self.times()), "candles drawn")

    def times(self) -> list[int]:
        """Return the open times of the candles that Plotly has drawn, in milliseconds."""
        found = self.script(
            "const plot = document.querySelector('.cf-plot');"
            "return plot && plot.data && plot.querySelector('path.box')"
            " ? plot.data[0].x.slice(0, -1) : []"
        )
        return list(found)

    def newest(self) -> int:
        """Return the open time of the last candle drawn; 0 if there is none, as during a redraw."""
        return max(self.times(), default=0)

    def updates(self) -> int:
        return int(self.script("return document.querySelector('.cf-chart')?.dataset.updates ?? 0"))

    def wait_for_updates(self, count: int, seconds: float = PATIENCE_SECONDS) -> None:
        reached = self.updates() + count
        self.wait(lambda: self.updates() >= reached, f"{count} updates", seconds)

    def marks(self) -> int:
        """Return the number of the browser's performance entries: Streamlit adds some at each refresh."""
        return int(
            self.script(
                "return ['mark', 'measure'].flatMap((type) => performance.getEntriesByType(type)).length"
            )
        )

    def wait_for_marks(self, count: int) -> None:
        """Wait until ``count`` more entries were made, whether they are kept or not."""
        self.script(
            "window.marked = 0;"
            "const count = (made) => { window.marked += made.getEntries().length };"
            "new PerformanceObserver(count).observe({type: 'mark'})"
        )
        self.wait(lambda: self.script("return window.marked") >= count, f"{count} marks")

    def mode(self) -> str:
        """Return ``following`` (the chart follows the live edge) or ``free``."""
        return str(self.script("return document.querySelector('.cf-chart').dataset.mode"))

    def ranges(self) -> list[list[float]]:
        """Return the ranges of the time axis (milliseconds) and the price axis, as Plotly draws them now."""
        return list(
            self.script(
                "const full = document.querySelector('.cf-plot')._fullLayout;"
                "return [full.xaxis.range.map(full.xaxis.d2l), full.yaxis.range]"
            )
        )

    def drag_over_chart(
        self, start: tuple[float, float], end: tuple[float, float], *, at: int = 0, is_pan: bool = False
    ) -> None:
        """Drag the mouse over a chart's price panel between two points, given as fractions of its size.

        This zooms; with ``is_pan`` the shift key is held, and the drag pans.
        """
        panel = self._panel(at)
        width, height = panel.size["width"], panel.size["height"]
        offsets = [(int((x - 0.5) * width), int((y - 0.5) * height)) for x, y in (start, end)]
        actions = ActionChains(self.driver)
        if is_pan:
            actions.key_down(Keys.SHIFT)
        actions.move_to_element_with_offset(panel, *offsets[0]).click_and_hold()
        actions.move_to_element_with_offset(panel, *offsets[1]).release()
        if is_pan:
            actions.key_up(Keys.SHIFT)
        actions.perform()

    def turn_wheel_over_chart(self, pixels: int) -> None:
        """Turn the wheel in the middle of the price panel; away from the viewer if negative."""
        middle = ScrollOrigin.from_element(self._panel())
        ActionChains(self.driver).scroll_from_origin(middle, 0, pixels).perform()

    def double_click_chart(self) -> None:
        ActionChains(self.driver).double_click(self._panel()).perform()

    def choose(self, group: str, option: str) -> None:
        """Press ``option`` in the row of buttons called ``group``."""
        self.wait(lambda: self._button(group, option), f"the button {option} of {group}").click()

    def chosen(self, group: str) -> str:
        return str(
            self.script(
                "return document.querySelector("
                "`[role=radiogroup][aria-label='${arguments[0]}'] [aria-checked=true]`)?.innerText",
                group,
            )
        )

    def choose_symbol(self, symbol: str, *, key: str = "symbol") -> None:
        self.driver.find_element(By.CSS_SELECTOR, f".st-key-{key} [role=group] button").click()
        self.wait(lambda: self._option(symbol), f"the option {symbol}").click()

    def readout(self) -> dict[str, str]:
        """Return the visible fields of the readout: of the candle under the crosshair, or of the last one."""
        return dict(
            self.script(
                "return Object.fromEntries([...document.querySelectorAll('.cf-readout span')]"
                ".filter((one) => one.getClientRects().length)"
                ".map((one) => [one.dataset.field, one.lastChild.textContent]))"
            )
        )

    def is_pointed_at(self) -> bool:
        """Return whether the crosshair is on a candle."""
        return bool(self.script("return document.querySelector('.cf-upright:not([hidden])') !== null"))

    def failures(self) -> list[str]:
        """Return the exceptions that the page shows; there must never be any."""
        shown = self.driver.find_elements(By.CSS_SELECTOR, "[data-testid=stException]")
        return [*(one.text for one in shown), *(["a traceback"] if "Traceback" in self.text() else [])]

    def save(self, picture: Path) -> None:
        assert self.failures() == []
        picture.parent.mkdir(parents=True, exist_ok=True)
        assert self.driver.save_screenshot(str(picture))

    def problems(self) -> list[str]:
        """Return the errors in the browser's console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]  # type: ignore[no-untyped-call]

    def received(self) -> Received:
        """Return what the server has sent over the WebSocket since the last call."""
        messages = [json.loads(one["message"])["message"] for one in self.driver.get_log("performance")]  # type: ignore[no-untyped-call]
        frames = [
            one["params"]["response"] for one in messages if one["method"] == "Network.webSocketFrameReceived"
        ]
        # The log has binary frames (opcode 2) as base64; Streamlit's server sends only those.
        return Received.of([base64.b64decode(one["payloadData"]) for one in frames if one["opcode"] == 2])

    def point_at_chart(self, x: float, y: float = 0.5) -> None:
        """Move the pointer to the price panel, at these fractions of its width and height."""
        panel = self._panel()
        offsets = (int((x - 0.5) * panel.size["width"]), int((y - 0.5) * panel.size["height"]))
        ActionChains(self.driver).move_to_element_with_offset(panel, *offsets).perform()

    def tap_chart(self, x: float) -> None:
        """Tap on the price panel with a finger, at this fraction of its width."""
        box = self.script(
            "arguments[0].scrollIntoView({block: 'center'});"
            "return arguments[0].getBoundingClientRect().toJSON()",
            self._panel(),
        )
        place = {"x": box["x"] + x * box["width"], "y": box["y"] + 0.5 * box["height"]}
        for kind, touches in (("touchStart", [place]), ("touchEnd", [])):
            self.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})

    def press(self, label: str) -> None:
        """Click the button labelled ``label``."""
        self.wait(lambda: self._labelled(label), f"the button {label}").click()

    def press_by_key(self, label: str) -> None:
        """Press the button by keyboard, so that the pointer stays where it is."""
        button = self.wait(lambda: self._labelled(label), f"the button {label}")
        self.script("arguments[0].focus({preventScroll: true})", button)
        self.hit(Keys.ENTER)

    def lines(self) -> dict[str, str]:
        """Return the names of all traces, by uid."""
        drawn = "return (document.querySelector('.cf-plot')?.data ?? []).map((one) => [one.uid, one.name])"
        return dict(self.script(drawn))

    def trust(self, name: str) -> str:
        """Return the value of the trust strip's item ``name``; empty if there is no such item."""
        value = f".cf-item[data-name={name}] .cf-value"
        return str(self.script("return document.querySelector(arguments[0])?.innerText ?? ''", value))

    def press_trust(self, name: str) -> None:
        """Open or close the details of the trust strip's item ``name``."""
        self.driver.find_element(By.CSS_SELECTOR, f".cf-item[data-name={name}]").click()

    def forecast_ahead(self) -> int | None:
        """Return how far after the last candle the next forecast is drawn, in milliseconds; None without
        one."""
        ahead = self.script(
            "const traces = document.querySelector('.cf-plot')?.data ?? [];"
            "const drawn = Object.fromEntries(traces.map((one) => [one.uid, one.x]));"
            "return drawn.forecast?.length ? drawn.forecast[0] - drawn.volume.at(-1) : null"
        )
        return None if ahead is None else int(ahead)

    def turn(self, key: str) -> None:
        """Click the toggle with that Streamlit key, in a menu that is open."""
        switch = f".st-key-{key} label"
        self.wait(lambda: self.driver.find_elements(By.CSS_SELECTOR, switch), switch)[0].click()

    def symbols(self) -> list[str]:
        """Return the symbols that the picker offers."""
        opener = self.driver.find_element(By.CSS_SELECTOR, ".st-key-symbol [role=group] button")
        opener.click()
        shown = self.script(
            "return [...document.querySelectorAll('[role=option]')].map((one) => one.innerText)"
        )
        opener.click()
        return list(shown)

    def is_cut_off(self) -> bool:
        """Return whether the page says that it has no connection to its server."""
        said = self.script("return getComputedStyle(document.querySelector('.cf-chart'), '::after').content")
        return "No connection" in said

    def open_download_menu(self) -> None:
        self.driver.find_element(By.CSS_SELECTOR, ".st-key-download button").click()
        self.wait(lambda: self._labelled("CSV"), "the menu's files")

    def hit(self, *keys: str) -> None:
        """Press these keys, wherever the focus is."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def mark_chart(self) -> None:
        """Mark the chart's DOM nodes, for ``is_same_chart``."""
        self.script("for (const node of document.querySelectorAll('.cf-plot, .cf-plot .main-svg'))"
                    " node.dataset.mark = 'the same';")  # fmt: skip

    def is_same_chart(self) -> bool:
        return bool(
            self.script(
                "return ['.cf-plot', '.cf-plot .main-svg'].every("
                "(one) => document.querySelector(one)?.dataset.mark === 'the same')"
            )
        )

    def _labelled(self, label: str) -> WebElement | None:
        buttons = self.driver.find_elements(By.TAG_NAME, "button")
        return next((one for one in buttons if one.text.split("\n")[0] == label), None)

    def _panel(self, at: int = 0) -> WebElement:
        return self.driver.find_elements(By.CSS_SELECTOR, ".cf-plot .nsewdrag[data-subplot='xy']")[at]

    def _button(self, group: str, option: str) -> WebElement | None:
        found = self.driver.find_elements(
            By.CSS_SELECTOR, f"[role=radiogroup][aria-label='{group}'] [role=radio]"
        )
        return next((one for one in found if one.text == option), None)

    def _option(self, text: str) -> WebElement | None:
        found = self.driver.find_elements(By.CSS_SELECTOR, "[role=option]")
        return next((one for one in found if one.text == text), None)
