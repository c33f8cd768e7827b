"""The trust strip in a real browser: known and unknown items, and that no item is green without evidence.

Heartbeats are real files, written as the processes write them.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys

from candleflow.market.window import SECOND_US
from candleflow.settings import Settings
from candleflow.stack.postgres import PostgresServer
from candleflow.store import schema
from candleflow.telemetry import HeartbeatFile
from tests.dashboard.browser import DESKTOP, PHONE, Page
from tests.dashboard.conftest import GAPPED, LIVE, OLD, Running
from tests.dashboard.feed import Feed, live_feed, now_us
from tests.dashboard.picture import shrink
from tests.dashboard.server import page_server
from tests.store_fixtures import Database

NAMES = ("age", "latency", "lag", "complete", "klines", "processes")
PRODUCER = {"missing": 0, "connected": 1}
PROCESSOR = {
    "lag": 14, "merged_per_s": 1_970.2, "latency_ms_p50": 212.3, "latency_ms_p99": 481.0,
    "latency_trades": 118_204, "batch_ms_p50": 180.0, "restarts": 0,
}  # fmt: skip
AUDIT = {"repaired": 0}
UNKNOWN_WHERE_NOBODY_TELLS = dict.fromkeys(("latency", "lag", "klines", "processes"), "unknown")


class Processes:
    """Stand-in for the processes: writes a heartbeat of each every 0.25 s, unless its name is in
    ``silenced``."""

    def __init__(self, run_dir: Path) -> None:
        self.counts: dict[str, dict[str, Any]] = {
            "producer": dict(PRODUCER),
            "processor": dict(PROCESSOR),
            "audit": dict(AUDIT),
        }
        self.by_symbol: dict[str, dict[str, dict[str, float]]] = {
            "producer": {"age_s": {LIVE: 0.2}},
            "audit": {"equal": {LIVE: 128}, "compared_age_s": {LIVE: 31.0}, "different": {GAPPED: 2}},
        }
        self.silenced: set[str] = set()
        self.state = "running"
        self.message = "as it should"
        self._files = {name: HeartbeatFile(run_dir, name) for name in self.counts}

    def beat(self) -> None:
        for name, counts in self.counts.items():
            if name not in self.silenced:
                self._files[name].beat(self.state, self.message, counts, self.by_symbol.get(name))

    def remove(self) -> None:
        for file in self._files.values():
            file.remove()


@contextmanager
def beating(settings: Settings) -> Iterator[Processes]:
    """Write heartbeats during the block, and remove them after it."""
    processes = Processes(settings.stack.run_dir)
    stop = threading.Event()

    def go_on() -> None:
        while not stop.wait(0.25):
            processes.beat()

    processes.beat()
    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield processes
    finally:
        stop.set()
        thread.join()
        processes.remove()


@pytest.fixture
def processes(running: Running) -> Iterator[Processes]:
    with beating(running.settings) as found:
        yield found


def states(page: Page) -> dict[str, str]:
    """Return each item's state, as its icon shows it."""
    return dict(
        page.script(
            "return Object.fromEntries([...document.querySelectorAll('.cf-item')]"
            ".map((one) => [one.dataset.name, one.dataset.state]))"
        )
    )


def wait_for_states(page: Page, expected: Mapping[str, str], seconds: float = 45) -> None:
    page.wait(lambda: expected.items() <= states(page).items(), f"the states {expected}", seconds)


def panel(page: Page) -> str:
    """Return the text of the open panel; empty if none is open."""
    return str(page.script("return document.querySelector('.cf-panel:not([hidden])')?.innerText ?? ''"))


def wait_for_strip_updates(page: Page, count: int) -> None:
    def seen() -> int:
        return int(page.script("return document.querySelector('.cf-trust')?.dataset.updates ?? 0"))

    reached = seen() + count
    page.wait(lambda: seen() >= reached, f"{count} updates of the strip")


def test_with_fresh_data_and_no_fault_every_icon_is_good(page: Page, processes: Processes) -> None:
    page.open()
    wait_for_states(page, dict.fromkeys(NAMES, "good"))
    assert page.trust("latency") == "212 / 481 ms"
    assert page.trust("lag") == "14 records"
    assert page.trust("klines") == "128 equal"
    page.wait(lambda: page.trust("age") in ("now", "1 second ago"), "the last trade's age")
    assert page.trust("complete").partition(" of ")[0] == page.trust("complete").partition(" of ")[2]


def test_without_heartbeats_their_items_are_grey(page: Page, running: Running, pictures: Path) -> None:
    assert not list(running.settings.stack.run_dir.glob("p*.json"))
    page.open()
    wait_for_states(page, UNKNOWN_WHERE_NOBODY_TELLS | {"age": "good", "complete": "good"})
    assert {page.trust(name) for name in UNKNOWN_WHERE_NOBODY_TELLS} == {"unknown"}
    page.press_trust("latency")
    assert "There is no heartbeat of the processor here" in panel(page)
    page.save(pictures / "grey.png")


def test_the_strip_is_that_of_the_symbol_shown(page: Page, processes: Processes) -> None:
    page.open(f"symbol={GAPPED}")
    wait_for_states(page, {"complete": "bad", "klines": "unknown"})
    processes.by_symbol["audit"]["compared_age_s"][GAPPED] = 3.0
    page.wait(lambda: page.trust("klines") == "2 differ", "how many differ")
    page.open(f"symbol={OLD}")
    wait_for_states(page, {"age": "bad"})
    page.wait(lambda: page.trust("age").endswith("days ago"), "the age")


def test_an_open_gap_is_listed_with_its_ids_and_the_commands(page: Page, pictures: Path) -> None:
    page.open(f"symbol={GAPPED}")
    page.wait(lambda: page.trust("complete") == "7 trades missing", "what is missing")
    page.press_trust("complete")
    text = panel(page)
    assert "ids 21 to 27, 7 trades" in text
    assert "Open gaps\n1" in text
    for command in ("gaps", "verify", "repair"):
        assert f"python -m candleflow {command}" in text
    page.save(pictures / "open-gap.png")


def test_items_of_a_silent_process_change_and_recover(
    page: Page, processes: Processes, pictures: Path
) -> None:
    page.open()
    wait_for_states(page, dict.fromkeys(NAMES, "good"))
    processes.silenced.add("processor")
    wait_for_states(page, {"processes": "bad", "latency": "unknown", "lag": "unknown", "klines": "good"}, 15)
    assert page.trust("processes") == "processor silent"
    page.save(pictures / "processor-silent.png")
    processes.silenced.clear()
    wait_for_states(page, dict.fromkeys(NAMES, "good"), 15)


def test_what_is_open_stays_open_on_the_same_node_through_updates(page: Page, processes: Processes) -> None:
    page.open()
    wait_for_states(page, dict.fromkeys(NAMES, "good"))
    page.press_trust("lag")
    page.script(
        "document.querySelector('.cf-panel').dataset.mark = 'the same';"
        "document.querySelector('.cf-panel dl div').dataset.mark = 'the same';"
        "document.querySelector('.cf-item[data-name=lag]').dataset.mark = 'the same'"
    )
    for lag in range(1_000, 1_003):
        processes.counts["processor"]["lag"] = lag
        page.wait(lambda: page.trust("lag") == f"{lag:,} records", "a new lag")  # noqa: B023
        assert f"Waiting\n{lag:,} records" in panel(page)
    marked = "return [...document.querySelectorAll('[data-mark]')].map((one) => one.dataset.mark)"
    assert page.script(marked) == ["the same"] * 3
    expanded = "return document.querySelector('.cf-item[data-name=lag]').getAttribute('aria-expanded')"
    assert page.script(expanded) == "true"


def test_it_opens_and_closes_by_keyboard(page: Page, processes: Processes) -> None:
    page.open()
    wait_for_states(page, dict.fromkeys(NAMES, "good"))
    page.script("document.querySelector('.cf-item[data-name=age]').focus()")
    keys = ActionChains(page.driver)
    keys.send_keys(Keys.TAB, Keys.ENTER).perform()
    assert "Trade to row: good" in panel(page)
    wait_for_strip_updates(page, 2)
    keys.send_keys(Keys.ESCAPE).perform()
    assert panel(page) == ""
    assert page.script("return document.activeElement.dataset.name") == "latency"
    keys.send_keys(Keys.TAB, Keys.SPACE).perform()
    assert "Lag: good" in panel(page)


@pytest.mark.slow
def test_the_chart_does_not_move_when_a_panel_opens_or_a_notice_appears(
    page: Page, processes: Processes
) -> None:
    box = (
        "const {x, y, width, height} = document.querySelector('.cf-plot').getBoundingClientRect();"
        "return [x, y, width, height,"
        " ...[...document.querySelectorAll('.cf-item')].flatMap((one) => [one.offsetLeft, one.offsetWidth])]"
    )
    for size in (DESKTOP, PHONE):
        processes.counts["processor"]["lag"] = 7
        page.open(size=size)
        page.wait_for_candles()
        wait_for_states(page, dict.fromkeys(NAMES, "good"))
        before = page.script(box)
        for name in NAMES:
            page.press_trust(name)
            assert panel(page)
            assert page.script(box) == before
        processes.counts["processor"]["lag"] = 123_456_789
        page.wait(lambda: page.trust("lag") == "123,456,789 records", "a long value")
        assert page.script(box) == before
        panel_box = "return document.querySelector('.cf-panel').getBoundingClientRect().toJSON()"
        place = page.script(panel_box)
        assert place["left"] >= 0
        assert place["right"] <= size[0]
        page.press_trust(NAMES[-1])


def test_text_of_data_is_never_html(page: Page, processes: Processes) -> None:
    processes.message = "<img src=x onerror='window.wasRun = true'><b>bold</b>"
    page.open()
    wait_for_states(page, {"processes": "good"})
    page.press_trust("processes")
    page.wait(lambda: processes.message in panel(page), "the text, literally")
    assert page.script("return window.wasRun === undefined && !document.querySelector('.cf-panel img')")


@pytest.mark.slow
def test_a_page_that_is_paused_or_whose_server_hangs_turns_grey(
    page: Page, processes: Processes, running: Running, pictures: Path
) -> None:
    page.open()
    wait_for_states(page, dict.fromkeys(NAMES, "good"))
    running.server.process.send_signal(signal.SIGSTOP)
    try:
        wait_for_states(page, dict.fromkeys(NAMES, "unknown"), 15)
        page.press_trust("age")
        assert "no news from its server since 20" in panel(page)
        page.save(pictures / "server-stands-still.png")
    finally:
        running.server.process.send_signal(signal.SIGCONT)
    wait_for_states(page, dict.fromkeys(NAMES, "good"))
    page.choose("Refresh", "Paused")
    wait_for_states(page, dict.fromkeys(NAMES, "unknown"), 15)
    assert "The page is paused" in panel(page)
    page.save(pictures / "paused.png")
    page.choose("Refresh", "1 s")
    wait_for_states(page, dict.fromkeys(NAMES, "good"))


@pytest.mark.slow
def test_the_strip_adds_little_to_a_refresh(page: Page, processes: Processes) -> None:
    page.open()
    page.wait_for_candles()
    wait_for_states(page, dict.fromkeys(NAMES, "good"))
    page.script(
        "window.sizes = [];"
        "const parse = JSON.parse;"
        "JSON.parse = (text) => {"
        "  const found = parse(text);"
        "  if (found?.good_for_ms) window.sizes.push([text.length, 'whole' in found]);"
        "  return found;"
        "}"
    )
    for lag in range(10):
        processes.counts["processor"] |= {"lag": lag, "latency_ms_p50": 200.0 + lag}
        page.wait(lambda: page.trust("lag") == ("1 record" if lag == 1 else f"{lag} records"), "a new lag")  # noqa: B023
    sizes = page.script("return window.sizes")
    patches = [size for size, is_whole in sizes if not is_whole]
    print(f"bytes of the strip's messages: {patches}, of {len(sizes)}")
    assert len(patches) >= len(sizes) - 1
    # A patch refers to a whole value sent earlier, in which everything was different. Up to 1,000 bytes of
    # patch are cheaper than the whole, 3,000 bytes.
    assert max(patches) < 1_200


@pytest.mark.slow
@pytest.mark.parametrize("is_dark", [True, False], ids=["dark", "light"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_it_is_readable_in_all_sizes_and_themes(
    page: Page, processes: Processes, pictures: Path, size: tuple[int, int], is_dark: bool
) -> None:
    page.open(size=size, is_dark=is_dark)
    page.wait_for_candles()
    wait_for_states(page, dict.fromkeys(NAMES, "good"))
    page.press_trust("latency")
    page.wait_for_updates(1)
    cut = (
        "return [...document.querySelectorAll('.cf-label, .cf-value')]"
        ".filter((one) => one.scrollWidth > one.clientWidth).map((one) => one.innerText)"
    )
    assert page.script(cut) == []
    main = "return document.querySelector('[data-testid=stMain]').scrollWidth"
    assert page.script(main) <= size[0]
    name = f"trust-{'phone' if size == PHONE else 'desktop'}-{'dark' if is_dark else 'light'}.png"
    page.save(pictures / name)
    shrink(pictures / name)


@pytest.mark.slow
def test_while_postgresql_is_away_items_of_stored_data_are_unknown(
    driver: webdriver.Chrome, own_postgres: PostgresServer, tmp_path: Path, pictures: Path
) -> None:
    database = Database(own_postgres, "candles_trusted", tmp_path, "secret")
    database.make()
    schema.apply(database.settings)
    with (
        page_server(database.settings) as server,
        beating(database.settings),
    ):
        with live_feed(database.settings, LIVE, history_seconds=300):
            page = Page(driver, server.url)
            page.open()
            wait_for_states(page, {"latency": "good", "age": "good", "processes": "good"})
        for connection in database.opened:
            connection.close()
        own_postgres.stop()
        wait_for_states(page, {"age": "unknown", "complete": "unknown", "processes": "bad", "lag": "good"})
        assert page.trust("processes") == "PostgreSQL away"
        page.save(pictures / "postgresql-away-trust.png")
        page.driver.refresh()  # now there is no last view
        page.wait_for_text("PostgreSQL is away")
        page.save(pictures / "postgresql-away-from-the-start.png")
        wait_for_states(page, {"age": "unknown", "complete": "unknown", "processes": "bad", "lag": "good"})
        own_postgres.start()
        own_postgres.wait_until_ready()
        with closing(Feed(database.settings)) as feed:
            feed.skip_ids(LIVE, 1_000_000)
            feed.send(LIVE, [now_us() - SECOND_US])
        wait_for_states(page, {"age": "good", "processes": "good"})
