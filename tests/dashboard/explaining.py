"""Takes the docs' picture of a candle's states, with callouts (part of ``make pictures``).

The page, its database and the states are real; the trades are made up. The callouts are drawn over the page
in the browser.
"""

from __future__ import annotations

import argparse
import base64
from contextlib import closing
from pathlib import Path

from selenium.webdriver.common.keys import Keys

from candleflow.market.window import SECOND_US, floor_time
from tests.dashboard.alerting import LOOKS, PACE_US, SYMBOL, Market, own_database, postgres_server
from tests.dashboard.browser import MISSING, Page, chromium
from tests.dashboard.feed import Feed, now_us
from tests.dashboard.picture import IMAGES, THEMES, shrink
from tests.dashboard.server import page_server

SIZE = (640, 900)
"""Of the window. Shown on a phone, at 390 pixels, the texts are still 13 pixels high."""
HEIGHT = 380
"""Of the chart, in pixels."""
SCALE = 2
CANDLE_US = 5 * SECOND_US
REBUILT, INCOMPLETE, GAP = -28, -22, range(-17, -13)
"""The candles with that state, counted from the present one."""
LIVE_SECONDS = 20
ZOOMS = 2

_DRAWN_HEIGHT = "return document.querySelector('.cf-plot')._fullLayout.height"
# Each callout starts above the chart, and a line leads down to its candle. The leftmost is the topmost, so
# that no line crosses a text.
_CALLOUTS = """
const plot = document.querySelector('.cf-plot');
const traces = Object.fromEntries(plot.data.map((one) => [one.uid, one]));
const [gap] = plot.layout.shapes.filter((one) => one.type === 'rect');
const {xaxis, yaxis} = plot._fullLayout;
const box = plot.getBoundingClientRect();
const rebuilt = traces.repaired.x[0], bucket = traces.incomplete.width;
const callouts = [
  [rebuilt - 3 * bucket, 'complete', 'every trade id is there'],
  [rebuilt, 'rebuilt', 'corrected after it closed'],
  [traces.incomplete.x[0], 'incomplete', 'trade ids are missing'],
  [(gap.x0 + gap.x1) / 2, 'gap', 'no candle at all'],
  [traces.volume.x.at(-1), 'forming', 'not over yet'],
];
const ROW = 32, PAD = 14;
const top = box.top - callouts.length * ROW - PAD;
const style = document.createElement('style');
style.textContent = '.cf-readout, .cf-live, .cf-help { display: none !important }';
document.head.append(style);
const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
svg.style.cssText = 'position:fixed;inset:0;width:100vw;height:100vh;z-index:1000000;pointer-events:none';
document.body.append(svg);
const app = getComputedStyle(document.querySelector('[data-testid=stApp]'));
const add = (name, attributes, text = '') => {
  const node = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.textContent = text;
  svg.append(node);
  return node;
};
add('rect', {x: 0, y: 0, width: '100%', height: box.top - 2, fill: app.backgroundColor});
callouts.forEach(([time, name, meaning], row) => {
  const x = box.left + xaxis._offset + xaxis.d2p(time);
  const at = traces.price.x.indexOf(time);
  const down = at < 0 ? 6 : yaxis.d2p(traces.price.high[at]) - 8;
  const high = box.top + yaxis._offset + down;
  const y = top + PAD + row * ROW;
  const isLast = row === callouts.length - 1;
  add('line', {x1: x, y1: y, x2: x, y2: high, stroke: app.color, 'stroke-width': 1.5});
  add('circle', {cx: x, cy: high, r: 4, fill: app.color});
  const text = add('text', {
    x: isLast ? x - 8 : x + 8, y: y + 16, fill: app.color, 'text-anchor': isLast ? 'end' : 'start',
    style: `font: 22px ${app.fontFamily}`,
  });
  const bold = document.createElementNS('http://www.w3.org/2000/svg', 'tspan');
  bold.textContent = name;
  bold.style.fontWeight = 700;
  text.append(bold, `: ${meaning}`);
});
for (const mark of [traces.repaired, traces['incomplete-foot']]) {
  const cx = box.left + xaxis._offset + xaxis.d2p(mark.x[0]);
  const cy = box.top + yaxis._offset + (1 - mark.y[0]) * yaxis._length;
  add('circle', {cx, cy, r: 11, fill: 'none', stroke: app.color, 'stroke-width': 1.5});
}
return {x: 0, y: top, width: innerWidth, height: box.bottom - top};
"""


def main() -> None:
    if MISSING:
        raise SystemExit(f"taking pictures {MISSING}")
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(",")[0])
    parser.add_argument("--out", type=Path, default=IMAGES, help="the folder for the pictures")
    out = parser.parse_args().out
    with postgres_server() as (postgres, folder), chromium() as driver:
        settings = own_database(postgres, folder / "data")
        with closing(Feed(settings)) as feed, page_server(settings) as server:
            page = Page(driver, server.url)
            page.open(LOOKS)
            _send_states(feed)
            with Market(feed).going_on(LIVE_SECONDS):
                for theme, is_dark in THEMES.items():
                    _take(page, out / f"states-{theme}.png", is_dark=is_dark)


def _send_states(feed: Feed) -> None:
    """Store candles of which some have missing trades, and fill in those of one candle."""
    now = now_us()
    opens = [floor_time(now, CANDLE_US) + at * CANDLE_US for at in (REBUILT, INCOMPLETE, GAP[0], GAP[-1] + 1)]
    rebuilt, incomplete, gap, after = opens
    late = range(rebuilt + SECOND_US, rebuilt + 3 * SECOND_US, PACE_US)
    missing = range(incomplete + SECOND_US, incomplete + 3 * SECOND_US, PACE_US)
    feed.send(SYMBOL, range(now - 600 * SECOND_US, late[0], PACE_US))
    lost = feed.lose(SYMBOL, late)
    feed.send(SYMBOL, range(rebuilt + 3 * SECOND_US, missing[0], PACE_US))
    feed.lose(SYMBOL, missing)
    feed.send(SYMBOL, range(incomplete + 3 * SECOND_US, gap, PACE_US))
    feed.lose(SYMBOL, range(gap, after, PACE_US))
    feed.send(SYMBOL, range(after, now - LIVE_SECONDS * SECOND_US, PACE_US))
    feed.fill(lost)


def _take(page: Page, out: Path, *, is_dark: bool) -> None:
    page.open(LOOKS, size=SIZE, is_dark=is_dark)
    page.wait_for_candles()
    page.wait_for_updates(2)
    page.choose("Refresh", "Paused")
    page.wait_for_text("Paused at")
    page.script("document.querySelector('.cf-plot').focus()")
    for _ in range(ZOOMS):
        page.hit(Keys.ARROW_UP)
        page.wait(lambda: page.mode() == "free", "the zoom")
    page.script("document.activeElement.blur()")
    page.script("document.querySelector('.cf-chart').style.height = arguments[0]", f"{HEIGHT}px")
    page.wait(lambda: page.script(_DRAWN_HEIGHT) == HEIGHT, "the chart at its new height")
    clip = page.script(_CALLOUTS)
    assert page.failures() == []
    taken = page.driver.execute_cdp_cmd(
        "Page.captureScreenshot", {"format": "png", "clip": clip | {"scale": SCALE}}
    )
    out.write_bytes(base64.b64decode(taken["data"]))
    shrink(out)
    print(f"{out}: {out.stat().st_size / 1_000:,.0f} kB", flush=True)


if __name__ == "__main__":
    main()
