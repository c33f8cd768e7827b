"""Takes the docs' pictures of the running page: ``make pictures``.

``python -m tests.dashboard.picture`` starts ``candleflow up`` with the simulator, in a temporary folder and
on free ports. It takes a still picture of the page, a short animation, and a picture of forecasts with their
scores: each in the light and in the dark theme. With ``--url`` it takes them of a page that runs already.
"""

from __future__ import annotations

import argparse
import base64
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from candleflow.forecast.scores import FEWEST
from candleflow.stack.process import free_port
from tests.dashboard.browser import DESKTOP, MISSING, Page, chromium
from tests.processes import ROOT, environment, started

IMAGES = ROOT / "docs" / "images"
SYMBOLS = "BTCUSDT,ETHUSDT,SOLUSDT"
THEMES = {"light": False, "dark": True}
"""For the last part of a picture's name: whether the browser prefers the dark theme."""
STILL_LOOKS = "overlays=SMA&sma=50&overlays=Bollinger&below=RSI"
"""The average has another period than the bands, or it would lie on their middle line."""
MOVING_LOOKS = "look_back=5+m&candle=5+s"
FORECAST_LOOKS = "look_back=5+m&candle=5+s&forecasts=true"

HISTORY_CANDLES = 350
"""Nearly a look-back of half an hour, in 5-second candles."""
START_SECONDS = 300
HISTORY_SECONDS = 900
"""Time limit for loading the exchange's history on a busy machine."""
SCORED_SECONDS = 2 * FEWEST * 5
"""Time limit for scores: half of it is enough for ``FEWEST`` forecasts of 5-second candles."""

_COLOURS = 256  # palette size: the page has few colours, and the file is a third as large
_FRAMES_A_SECOND = 4
_MOVING_SIZE = (800, 500)
_MOVING_QUALITY = 40

# A headless browser draws no pointer.
_POINTER = """
const pointer = document.createElement('div');
pointer.id = 'pointer';
pointer.innerHTML = '<svg width="26" height="26" viewBox="0 0 16 16">'
    + '<path d="M2 1l11 8-5 .6 3 5-2 1-3-5-4 3.4z" fill="#fff" stroke="#000"/></svg>';
pointer.style.cssText = 'position:fixed;z-index:1000000;pointer-events:none;left:0;top:0';
document.body.append(pointer);
"""
_AT = "document.getElementById('pointer').style.translate = `${arguments[0]}px ${arguments[1]}px`"


def main() -> None:
    if MISSING:
        raise SystemExit(f"taking pictures {MISSING}")
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--url", help="of a page that runs already, such as http://localhost:8501")
    parser.add_argument("--out", type=Path, default=IMAGES, help="the folder for the pictures")
    arguments = parser.parse_args()
    if arguments.url:
        take(arguments.url, arguments.out)
        return
    with simulated_system() as url:
        take(url, arguments.out)


@contextmanager
def simulated_system() -> Iterator[str]:
    """Run the whole system with the simulator during the block; yield the page's address."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        variables = environment(
            exchange="simulator",
            symbols=SYMBOLS,
            simulator_port=free_port(),
            kafka_bootstrap=f"127.0.0.1:{free_port()}",
            postgres_url=f"postgresql://candleflow@127.0.0.1:{free_port()}/candleflow",
            dashboard_port=port,
            data_dir=Path(folder) / "data",
        )
        command = [sys.executable, "-m", "candleflow", "up"]
        with started(command, variables, Path(folder) / "up.log") as process:
            _wait_until_ready(process, variables)
            yield f"http://127.0.0.1:{port}"


def _wait_until_ready(process: subprocess.Popen[bytes], variables: dict[str, str]) -> None:
    deadline = time.monotonic() + START_SECONDS
    asking = [sys.executable, "-m", "candleflow", "status", "--json"]
    while time.monotonic() < deadline and process.poll() is None:
        answer = subprocess.run(asking, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
        if '"is_ready": true' in answer.stdout:
            return
        time.sleep(1)
    raise SystemExit(f"the system was not ready within {START_SECONDS} s")


def take(url: str, folder: Path) -> None:
    """Save the still pictures and the animation of the page at ``url``, in both themes."""
    folder.mkdir(parents=True, exist_ok=True)
    # Forecasts first: their scores take minutes, and after that the other pictures show no trace of the
    # start.
    takers = {"forecast-{}.png": _take_forecast, "page-{}.png": _take_still, "zoom-{}.webp": _take_moving}
    with chromium() as driver:
        page = Page(driver, url.rstrip("/"))
        for name, take_one in takers.items():
            for theme, is_dark in THEMES.items():
                picture = folder / name.format(theme)
                take_one(page, picture, is_dark=is_dark)
                print(f"{picture}: {picture.stat().st_size / 1_000:,.0f} kB", flush=True)


def _take_still(page: Page, out: Path, *, is_dark: bool) -> None:
    page.open(STILL_LOOKS, size=DESKTOP, is_dark=is_dark)
    page.wait(lambda: len(page.times()) >= HISTORY_CANDLES, "half an hour of candles", HISTORY_SECONDS)
    page.point_at_chart(0.7)
    page.wait_for_updates(2)
    page.save(out)
    shrink(out)


def _take_forecast(page: Page, out: Path, *, is_dark: bool) -> None:
    """Take the next forecast and past ones, with the panel of their scores."""
    page.open(FORECAST_LOOKS, size=DESKTOP, is_dark=is_dark)
    page.wait(page.times, "candles drawn", HISTORY_SECONDS)
    page.wait(lambda: page.trust("forecast").startswith(("no ", "better ")), "scores", SCORED_SECONDS)
    page.drag_over_chart((0.95, 0.5), (0.5, 0.5), is_pan=True)  # the panel opens over the right half
    page.press_trust("forecast")
    page.wait_for_text("closes within the 80 % interval")
    page.wait(page.forecast_ahead, "a forecast ahead")
    page.save(out)
    shrink(out)


def shrink(picture: Path) -> None:
    with Image.open(picture) as image:
        small = image.convert("RGB").quantize(_COLOURS, Image.Quantize.FASTOCTREE)
    small.save(picture, optimize=True)


def _take_moving(page: Page, out: Path, *, is_dark: bool) -> None:
    """Film the live chart, a zoom by mouse that stays through updates, and the way back to live."""
    page.open(MOVING_LOOKS, size=DESKTOP, is_dark=is_dark)
    page.wait_for_candles()
    page.wait_for_updates(2)
    page.script(_POINTER)
    film = _Film(page)
    film.run(2.5)
    start, end = _on_chart(page, 0.45, 0.3), _on_chart(page, 0.72, 0.85)
    film.move((640, 400), start)
    film.drag(start, end)
    film.run(4)
    button = _middle(page, ".cf-live")
    film.move(end, button)
    page.driver.find_element("css selector", ".cf-live").click()
    film.run(2)
    film.save(out)


class _Film:
    """An animation: screenshots at an even pace, with mouse moves in between."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._frames: list[Image.Image] = []
        self._started: float | None = None

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds * _FRAMES_A_SECOND)):
            self._shoot()

    def move(self, start: Sequence[float], end: Sequence[float], *, frames: int = 4) -> None:
        for step in range(1, frames + 1):
            self._page.script(_AT, *_between(start, end, step / frames))
            self._shoot()

    def drag(self, start: Sequence[float], end: Sequence[float], *, frames: int = 6) -> None:
        self._mouse("mousePressed", start)
        for step in range(1, frames + 1):
            place = _between(start, end, step / frames)
            self._mouse("mouseMoved", place)
            self._page.script(_AT, *place)
            self._shoot()
        self._mouse("mouseReleased", end)

    def save(self, out: Path) -> None:
        first, *others = self._frames
        pace = round(1_000 / _FRAMES_A_SECOND)
        first.save(
            out, save_all=True, append_images=others, duration=pace, loop=0, quality=_MOVING_QUALITY, method=4
        )

    def _shoot(self) -> None:
        """Take one frame when it is due, or later on a slow machine."""
        if self._started is None:
            self._started = time.monotonic()
        due = self._started + len(self._frames) / _FRAMES_A_SECOND
        time.sleep(max(0.0, due - time.monotonic()))
        taken = self._page.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        with Image.open(io.BytesIO(base64.b64decode(taken["data"]))) as image:
            self._frames.append(image.convert("RGB").resize(_MOVING_SIZE, Image.Resampling.LANCZOS))

    def _mouse(self, kind: str, place: Sequence[float]) -> None:
        x, y = place
        event = {"type": kind, "x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1}
        self._page.driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)


def _between(start: Sequence[float], end: Sequence[float], part: float) -> list[float]:
    return [one + part * (other - one) for one, other in zip(start, end, strict=True)]


def _on_chart(page: Page, across: float, down: float) -> list[float]:
    """Return a point of the price panel, given as fractions of its size, in window pixels."""
    left, top, width, height = page.script(
        "const panel = document.querySelector(\".cf-plot .nsewdrag[data-subplot='xy']\");"
        "const box = panel.getBoundingClientRect();"
        "return [box.left, box.top, box.width, box.height]"
    )
    return [left + across * width, top + down * height]


def _middle(page: Page, selector: str) -> list[float]:
    return list(
        page.script(
            "const box = document.querySelector(arguments[0]).getBoundingClientRect();"
            "return [box.left + box.width / 2, box.top + box.height / 2]",
            selector,
        )
    )


if __name__ == "__main__":
    main()
