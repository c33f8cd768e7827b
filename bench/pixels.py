"""Measure the latency from a trade to the screen: the running system with a real browser on its page.

    python -m bench.pixels                     two minutes at 2,000 trades a second, a refresh each second
    python -m bench.pixels --minutes 5

It runs ``candleflow up`` with the simulator, as ``bench.live`` does, and a headless Chromium, all on one
machine. After each drawing of the chart, the browser notes the time of that frame and the last trade id of
the newest candle, which the page writes beside the chart. A trade is shown by the first frame whose last
trade id is not lower than its own. Trade times are read from the Kafka topic.
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

# What was drawn is on the screen by the second animation frame after it.
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
    """Return the latencies from trade to screen of the page's symbol over ``seconds``."""
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
    parser.add_argument("--minutes", type=float, default=2, help="duration of the measurement (2)")
    parser.add_argument("--rate", type=float, default=2_000, help="trades a second, over two symbols (2000)")
    arguments = parser.parse_args()
    if MISSING:
        sys.exit(MISSING)
    print(machine.describe(), flush=True)
    with tempfile.TemporaryDirectory(prefix="candleflow-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        env = live.environment(folder)
        os.environ.update(env)  # this process loads its settings from here
        with live.loaded(env, arguments.rate, 0, folder / "load.log"), chromium() as driver:
            page = Page(driver, f"http://127.0.0.1:{settings_module.load().dashboard.port}")
            page.open(f"symbol={SYMBOL}")
            page.wait_for_candles()
            time.sleep(WARM_UP_SECONDS)
            shown = measure(page, arguments.minutes * 60)
    if not shown.milliseconds:
        sys.exit("the browser drew no frame of the chart: no figure")
    print(f"at {arguments.rate:,.0f} trades a second, trades of {SYMBOL} as a viewer sees them:")
    print("\n".join(shown.lines("trade to pixels")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
