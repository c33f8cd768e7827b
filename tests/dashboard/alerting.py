"""An alert that fires, from a trade to a message and to the page: the real parts, but for the messenger.

``python -m tests.dashboard.alerting`` takes the README's pictures of it, the page's and the one that a
channel gets: part of ``make pictures``. The trades are made up, and both pictures say so.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import psycopg2
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from candleflow.market.window import SECOND_US
from candleflow.settings import Settings, load
from candleflow.stack.postgres import PostgresServer
from candleflow.stack.process import free_port
from candleflow.store import credentials, schema
from candleflow.store.alerts import DeliveredAlert, AlertReader
from tests.dashboard.browser import DESKTOP, MISSING, Page, chromium
from tests.dashboard.feed import Feed, now_us, wave
from tests.dashboard.picture import IMAGES, shrink
from tests.dashboard.server import PageServer, page_environment, page_server
from tests.messengers import TELEGRAM, Messengers, messengers
from tests.processes import ROOT, Running, awaited, environment, started

SYMBOL = "BTCUSDT"
CHANNEL = "phone"
NOTE = "look at it"
LOOKS = "look_back=5+m&candle=5+s"
HISTORY_SECONDS = 330
"""As long as the look-back, and some more."""
FIRED_SECONDS = 60.0
_TRADE_SECONDS = 0.25
_STEPS = 40
"""The price rises by so many steps, one a trade: ten seconds."""
_BEYOND = 15


class Market:
    """A price that goes like a wave, until it is told to rise."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._step = self._lift = Decimal(0)
        self._top = Decimal(0)
        self._stop = threading.Event()

    def rise(self, line: Decimal) -> None:
        """Above the line, and stay there."""
        self._top = line + _BEYOND
        self._step = ((self._top - wave(now_us())) / _STEPS).quantize(Decimal("0.01"))

    @contextmanager
    def going_on(self) -> Iterator[Market]:
        now = now_us()
        pace = round(_TRADE_SECONDS * SECOND_US)
        self._feed.send(SYMBOL, range(now - HISTORY_SECONDS * SECOND_US, now, pace))
        thread = threading.Thread(target=self._go_on)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()

    def _go_on(self) -> None:
        while not self._stop.wait(_TRADE_SECONDS):
            now = now_us()
            if wave(now) + self._lift < self._top:
                self._lift += self._step
            self._feed.send(SYMBOL, [now], price=wave(now) + self._lift)


@dataclass(frozen=True)
class Scene:
    """A simulated market, the page over it, and who decides and sends."""

    settings: Settings
    there: Messengers
    market: Market
    page: PageServer
    alerts: Running

    def line(self) -> Decimal:
        """A price that the market comes to within a minute only when it rises."""
        now = now_us()
        ahead = max(wave(now + second * SECOND_US) for second in range(round(FIRED_SECONDS)))
        return (ahead + 10).quantize(Decimal(1))

    def told(self) -> list[DeliveredAlert]:
        with closing(AlertReader.from_settings(self.settings)) as reader:
            return reader.latest(10)

    def fire(self, line: Decimal) -> DeliveredAlert:
        """Once the rule has looked at the price, let it rise above the line; the alert when it was sent."""
        self.alerts.wait_for(self._is_armed, FIRED_SECONDS)
        self.market.rise(line)
        self.alerts.wait_for(lambda: [one.state for one in self.told()] == ["sent"], FIRED_SECONDS)
        return self.told()[0]

    def _is_armed(self) -> bool:
        url = credentials.reader_url(self.settings)
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT bool_or((state ->> 'is_armed_up')::boolean) FROM alert_states")
            return bool((cursor.fetchone() or (False,))[0])

    def picture(self) -> bytes:
        """The picture that the channel got."""
        return awaited(lambda: list(self.there.pictures), FIRED_SECONDS, self.alerts.said)[0]


@contextmanager
def alerting(postgres: PostgresServer, folder: Path) -> Iterator[Scene]:
    """All of it, until the block ends. ``folder`` is the programs' data folder."""
    owner, password = f"alerting_{secrets.token_hex(4)}", secrets.token_urlsafe(16)
    with messengers() as there:
        settings = load(
            exchange="simulator",
            symbols=SYMBOL,
            postgres_url=f"postgresql://{owner}@127.0.0.1:{postgres.port}/{owner}",
            postgres_password=password,
            data_dir=folder,
            alert_channels=f"{CHANNEL}={TELEGRAM}",
            **there.settings,
        )
        postgres.provide(owner, settings.database.name, password)
        schema.apply(settings)
        ours = {"alert_channels": f"{CHANNEL}={TELEGRAM}", **there.settings}
        variables = {f"CANDLEFLOW_{name.upper()}": value for name, value in ours.items()}
        log = folder / "alerts.log"
        program = [sys.executable, str(ROOT / "alerts.py")]
        with (
            closing(Feed(settings)) as feed,
            Market(feed).going_on() as market,
            started(program, environment() | dict(page_environment(settings)) | variables, log) as process,
            page_server(settings, None, **variables) as page,
        ):
            yield Scene(
                settings, there, market, page, Running("alerts", process, settings.stack.run_dir, log)
            )


def add_rule(page: Page, line: Decimal) -> None:
    """By the page's form, as a viewer does."""
    open_menu(page)
    for key, text in (("threshold", f"{line}"), ("note", NOTE)):
        _field(page, f"alert-{key}").send_keys(text)
    page.press("Add")
    page.wait_for_text(f"crosses up {line}, to {CHANNEL}")


def open_menu(page: Page) -> None:
    """Open the menu of alerts on a page just opened."""
    page.wait_for_candles()
    page.driver.find_element(By.CSS_SELECTOR, ".st-key-alerts button").click()
    _field(page, "alert-threshold")


def _field(page: Page, key: str) -> WebElement:
    found = page.wait(
        lambda: page.driver.find_elements(By.CSS_SELECTOR, f".st-key-{key} input"), f"the field {key}"
    )
    return found[0]


def show(page: Page, told: DeliveredAlert, *, is_dark: bool) -> None:
    """The menu with the alert and its state."""
    page.open(LOOKS, size=DESKTOP, is_dark=is_dark)
    open_menu(page)
    page.wait_for_text(f"{CHANNEL}, {told.state}: {told.text.splitlines()[0]}")


def main() -> None:
    if MISSING:
        raise SystemExit(f"taking pictures {MISSING}")
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--out", type=Path, default=IMAGES, help="the folder for the two pictures")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as name, chromium() as driver:
        folder = Path(name)
        folder.chmod(0o755)
        server = PostgresServer(folder / "postgres", free_port(), credentials=folder / "superuser.json")
        server.start()
        try:
            server.wait_until_ready()
            with alerting(server, folder / "data") as scene:
                page = Page(driver, scene.page.url)
                take(scene, page, out)
        finally:
            server.stop()


def take(scene: Scene, page: Page, folder: Path) -> DeliveredAlert:
    """``alert.png``, the page, and ``alert-message.png``, what the channel got; the alert."""
    page.open(LOOKS, size=DESKTOP, is_dark=True)
    line = scene.line()
    add_rule(page, line)
    told = scene.fire(line)
    picture = scene.picture()
    show(page, told, is_dark=True)
    page.save(folder / "alert.png")
    shrink(folder / "alert.png")
    (folder / "alert-message.png").write_bytes(picture)
    return told


if __name__ == "__main__":
    main()
