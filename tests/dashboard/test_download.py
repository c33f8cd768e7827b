"""Files downloaded by the browser, compared with PostgreSQL."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from candleflow.store import credentials
from candleflow.store.credentials import Role
from tests.dashboard.browser import PHONE, Page
from tests.dashboard.conftest import OLD, Running

_COLUMNS = (
    "symbol, interval, open_time, end_time, open, high, low, close, volume, quote_volume, taker_buy_volume,"
    " taker_buy_quote_volume, trade_count, first_trade_id, last_trade_id, is_closed, is_complete, revision,"
    " source"
)
_IN_ORDER = "FROM candles WHERE symbol = %s AND interval = '5s' ORDER BY open_time DESC LIMIT 61"


@pytest.fixture
def downloads(page: Page, tmp_path: Path) -> Iterator[Path]:
    """The folder in which the browser saves files."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    page.driver.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)}
    )
    yield folder
    page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "default"})


def test_both_files_are_what_postgresql_has(page: Page, running: Running, downloads: Path) -> None:
    page.open(f"symbol={OLD}&look_back=5+m&candle=5+s")
    page.wait_for_candles()
    page.open_download_menu()
    page.press("CSV")
    page.press("Parquet")
    name = f"{OLD}_5s_2024-08-08T115455Z_2024-08-08T120000Z"
    saved_csv, saved_parquet = (
        page.wait(lambda ending=ending: _whole(downloads / f"{name}.{ending}"), ending)  # type: ignore[misc]
        for ending in ("csv", "parquet")
    )
    assert pq.read_table(saved_parquet).to_pylist() == _stored(running, _COLUMNS)
    # Values as PostgreSQL writes them, except times and booleans, which it formats differently.
    texts = ", ".join(_as_text(one.strip()) for one in _COLUMNS.split(","))
    with saved_csv.open(newline="") as file:
        assert list(csv.DictReader(file)) == _stored(running, texts)


@pytest.mark.slow
def test_a_download_leaves_chart_zoom_and_updates_alone(page: Page, downloads: Path, pictures: Path) -> None:
    page.open()
    page.wait_for_candles()
    page.drag_over_chart((0.55, 0.25), (0.8, 0.75))
    page.wait(lambda: page.mode() == "free", "the chart is zoomed")
    page.wait_for_updates(1)
    zoomed = page.ranges()
    page.mark_chart()
    page.open_download_menu()
    page.save(pictures / "download.png")
    page.press("CSV")
    saved = page.wait(lambda: next(downloads.glob("*.csv"), None), "the file")
    page.wait_for_updates(3)
    assert page.ranges() == zoomed
    assert page.is_same_chart()
    with saved.open(newline="") as file:
        assert len(list(csv.DictReader(file))) >= 360


def test_the_menu_fits_a_phone_a_refresh_makes_no_file_and_it_says_where_there_is_nothing(
    page: Page, pictures: Path
) -> None:
    page.open(size=PHONE)
    page.wait_for_candles()
    page.open_download_menu()
    box: dict[str, Any] = page.script(
        "return document.querySelector('[data-testid=stPopoverBody]').getBoundingClientRect().toJSON()"
    )
    assert 0 <= box["left"] < box["right"] <= PHONE[0]
    page.save(pictures / "download-phone.png")
    address = "return document.querySelector('[data-testid=stDownloadButton] a, .st-key-csv-0').outerHTML"
    made = page.script(address)
    page.wait_for_updates(2)
    assert page.script(address) == made
    page.open("symbol=NOTRADEUSDT", size=PHONE)
    page.wait_for_text("NOTRADEUSDT is not followed")
    page.press("Data")
    page.wait_for_text("No candles are shown.")


def _whole(path: Path) -> Path | None:
    """Return the file if it is complete: the browser renames it at the end."""
    return path if path.exists() and path.stat().st_size else None


def _stored(running: Running, columns: str) -> list[dict[str, Any]]:
    connection = credentials.dsn(running.settings, Role.READER).connect()
    with closing(connection), connection.cursor() as cursor:
        cursor.execute(f"SELECT {columns} {_IN_ORDER}", (OLD,))
        names = [one.name for one in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in reversed(cursor.fetchall())]


def _as_text(column: str) -> str:
    if column in ("open_time", "end_time"):
        return f"""to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS {column}"""
    return f"{column}::text AS {column}"
