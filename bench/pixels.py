"""From a trade's time to its candle's pixels: the running system with a real browser on its page.

    python -m bench.pixels                     two minutes at 2,000 trades a second, a refresh each second
    python -m bench.pixels --minutes 5

It starts ``candleflow up`` on the simulator as ``bench.live`` does, and a headless Chromium on its page, all
on one machine. Whenever the chart was drawn, the browser notes when that frame was on the screen and which is
the last trade of the newest candle, as the page writes it beside the chart. So a trade is shown from the
first such frame on whose last trade isn't before it; trade times are read from Kafka's topic.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

from bench import live, machine
from candleflow import settings as settings_module
from candleflow.processor.latency import Latencies, Watch, follow_topic
from tests.dashboard.browser import MISSING, Page, chromium

SYMBOL: Final = "BTCUSDT"
WARM_UP_SECONDS: Final = 30.0
TAKE_SECONDS: Final = 1.0

# A frame that was drawn is on the screen by the second animation frame after it.
_NOTE_FRAMES: Final = """
window.shownFrames = [];
document.querySelector('.cf-plot').on('plotly_afterplot', () => {
  requestAnimationFrame(() => requestAnimationFrame(() => {
    const ids = document.querySelector('.cf-readout').textContent.match(/ids[0-9]+-([0-9]+)/);
    if (ids) window.shownFrames.push([Number(ids[1]), performance.timeOrigin + performance.now()]);
  }));
});
"""
_TAKE_FRAMES: Final = "return window.shownFrames.splice(0)"


def measure(page: Page, seconds: float) -> Latencies:
    """What a viewer of the open page saw of each trade of its symbol in so many seconds."""
    settings = settings_module.load()
    watches = {symbol: Watch() for symbol in settings.symbols}
    stop = threading.Event()
    follower = threading.Thread(target=follow_topic, args=(settings, watches, stop), daemon=True)
    found: list[float] = []
    page.script(_NOTE_FRAMES)
    follower.start()
    began = time.monotonic()
    try:
        while time.monotonic() < began + seconds:
            time.sleep(TAKE_SECONDS)
            for last_trade_id, shown_at_ms in page.script(_TAKE_FRAMES):
                found += watches[SYMBOL].sighted(last_trade_id, shown_at_ms / 1_000)
    finally:
        stop.set()
        follower.join()
    return Latencies(sorted(found), seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2, help="how long to watch (2)")
    parser.add_argument("--rate", type=float, default=2_000, help="trades a second, over two symbols (2000)")
    arguments = parser.parse_args()
    if MISSING:
        sys.exit(MISSING)
    print(machine.describe(), flush=True)
    with tempfile.TemporaryDirectory(prefix="candleflow-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        env = live.environment(folder)
        os.environ.update(env)  # so that our own settings are those of what runs
        with live.loaded(env, arguments.rate, 0, folder / "load.log"), chromium() as driver:
            page = Page(driver, f"http://127.0.0.1:{settings_module.load().dashboard.port}")
            page.open(f"symbol={SYMBOL}")
            page.wait_for_candles()
            time.sleep(WARM_UP_SECONDS)
            shown = measure(page, arguments.minutes * 60)
    if not shown.milliseconds:
        sys.exit("no frame of the chart was seen")
    print(f"at {arguments.rate:,.0f} trades a second, those of {SYMBOL}, as a viewer of its chart sees them:")
    print("\n".join(shown.lines("trade to pixels")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
