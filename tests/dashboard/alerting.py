"""An alert that fires, from the trade to the message and the page: all parts are real but the messenger.

``python -m tests.dashboard.alerting`` takes the docs' pictures of it (part of ``make pictures``): the page,
and the picture sent to the channel. The trades are simulated, and both pictures say so.
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
from typing import Any

import psycopg2
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from candleflow.market.window import SECOND_US
from candleflow.settings import Settings, load
from candleflow.stack.postgres import PostgresServer
from candleflow.stack.process import free_port
from candleflow.store import credentials, schema
from candleflow.store.alerts import AlertReader, DeliveredAlert
from tests.dashboard.browser import DESKTOP, MISSING, Page, chromium
from tests.dashboard.feed import Feed, now_us, wave
from tests.dashboard.picture import IMAGES, THEMES, shrink
from tests.dashboard.server import PageServer, page_environment, page_server
from tests.messengers import TELEGRAM, Messengers, messengers
from tests.processes import ROOT, Running, awaited, environment, started

SYMBOL = "BTCUSDT"
CHANNEL = "phone"
NOTE = "look at it"
LOOKS = "look_back=5+m&candle=5+s"
HISTORY_SECONDS = 330
"""The look-back (300 s), and some more."""
FIRED_SECONDS = 60.0
_TRADE_SECONDS = 0.25
PACE_US = round(_TRADE_SECONDS * SECOND_US)
_STEPS = 40
"""The price rises in this many steps, one a trade: ten seconds."""
_BEYOND = 15


class Market:
    """Live trades at the price of ``wave``, until ``rise`` is called."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._step = self._lift = Decimal(0)
        self._top = Decimal(0)
        self._stop = threading.Event()

    def rise(self, line: Decimal) -> None:
        """Make the price rise above the line and stay there."""
        self._top = line + _BEYOND
        self._step = ((self._top - wave(now_us())) / _STEPS).quantize(Decimal("0.01"))

    @contextmanager
    def going_on(self, history_seconds: int = HISTORY_SECONDS) -> Iterator[Market]:
        now = now_us()
        self._feed.send(SYMBOL, range(now - history_seconds * SECOND_US, now, PACE_US))
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
    """A simulated market, its page, the alerts process and the messenger."""

    settings: Settings
    there: Messengers
    market: Market
    page: PageServer
    alerts: Running

    def line(self) -> Decimal:
        """Return a price that the market reaches within a minute only after ``Market.rise``."""
        now = now_us()
        ahead = max(wave(now + second * SECOND_US) for second in range(round(FIRED_SECONDS)))
        return (ahead + 10).quantize(Decimal(1))

    def latest_alerts(self) -> list[DeliveredAlert]:
        with closing(AlertReader.from_settings(self.settings)) as reader:
            return reader.latest(10)

    def fire(self, line: Decimal) -> DeliveredAlert:
        """Wait until the rule is armed, let the price rise above the line, and return the alert once sent."""
        self.alerts.wait_for(self._is_armed, FIRED_SECONDS)
        self.market.rise(line)
        self.alerts.wait_for(lambda: [one.state for one in self.latest_alerts()] == ["sent"], FIRED_SECONDS)
        return self.latest_alerts()[0]

    def _is_armed(self) -> bool:
        url = credentials.reader_url(self.settings)
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT bool_or((state ->> 'is_armed_up')::boolean) FROM alert_states")
            return bool((cursor.fetchone() or (False,))[0])

    def picture(self) -> bytes:
        """Return the picture that the channel received."""
        return awaited(lambda: list(self.there.pictures), FIRED_SECONDS, self.alerts.said)[0]


@contextmanager
def postgres_server() -> Iterator[tuple[PostgresServer, Path]]:
    """Run PostgreSQL in a temporary folder during the block; yield the server and the folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = PostgresServer(folder / "postgres", free_port(), credentials=folder / "superuser.json")
        server.start()
        try:
            server.wait_until_ready()
            yield server, folder
        finally:
            server.stop()


def own_database(postgres: PostgresServer, folder: Path, **overrides: Any) -> Settings:
    """Create a database on the server, with the schema, and return its settings."""
    owner, password = f"alerting_{secrets.token_hex(4)}", secrets.token_urlsafe(16)
    settings = load(
        exchange="simulator",
        symbols=SYMBOL,
        postgres_url=f"postgresql://{owner}@127.0.0.1:{postgres.port}/{owner}",
        postgres_password=password,
        data_dir=folder,
        **overrides,
    )
    postgres.provide(owner, settings.database.name, password)
    schema.apply(settings)
    return settings


@contextmanager
def alerting(postgres: PostgresServer, folder: Path) -> Iterator[Scene]:
    """Run all parts during the block. ``folder`` is the programs' data folder."""
    with messengers() as there:
        ours = {"alert_channels": f"{CHANNEL}={TELEGRAM}", **there.settings}
        settings = own_database(postgres, folder, **ours)
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
    """Add a rule with the page's form."""
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


def show(page: Page, alert: DeliveredAlert, *, is_dark: bool) -> None:
    """Open the page with the menu that shows the alert and its state."""
    page.open(LOOKS, size=DESKTOP, is_dark=is_dark)
    open_menu(page)
    page.wait_for_text(f"{CHANNEL}, {alert.state}: {alert.text.splitlines()[0]}")


def main() -> None:
    if MISSING:
        raise SystemExit(f"taking pictures {MISSING}")
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--out", type=Path, default=IMAGES, help="the folder for the pictures")
    out = parser.parse_args().out
    with (
        chromium() as driver,
        postgres_server() as (server, folder),
        alerting(server, folder / "data") as scene,
    ):
        take(scene, Page(driver, scene.page.url), out)


def take(scene: Scene, page: Page, folder: Path) -> DeliveredAlert:
    """Save pictures of the page in both themes, and ``alert-message.png`` (the channel's)."""
    page.open(LOOKS, size=DESKTOP, is_dark=True)
    line = scene.line()
    add_rule(page, line)
    alert = scene.fire(line)
    picture = scene.picture()
    for theme, is_dark in THEMES.items():
        show(page, alert, is_dark=is_dark)
        page.save(folder / f"alert-{theme}.png")
        shrink(folder / f"alert-{theme}.png")
    (folder / "alert-message.png").write_bytes(picture)
    return alert


if __name__ == "__main__":
    main()
