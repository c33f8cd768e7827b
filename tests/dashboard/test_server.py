"""The page's server: who can connect, and what it sends."""

from __future__ import annotations

import socket
import tomllib
import urllib.request
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import InvalidHandshake
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from candleflow.dashboard import process as dashboard
from candleflow.errors import StackError
from candleflow.settings import load
from tests.dashboard.browser import Page
from tests.dashboard.conftest import Running

_RESOURCES = "return performance.getEntriesByType('resource').map((one) => [one.name, one.transferSize])"


def test_nothing_listens_off_this_machine(running: Running) -> None:
    listening = [c for c in running.server.process.net_connections() if c.status == "LISTEN"]
    assert [(c.laddr.ip, c.laddr.port) for c in listening] == [("127.0.0.1", running.server.port)]


def connected(port: int, host: str, origin: str) -> ClientConnection:
    """Open a WebSocket to the page's server with this Host and Origin."""
    there = socket.create_connection(("127.0.0.1", port))
    try:
        return connect(
            f"ws://{host}:{port}/_stcore/stream", sock=there, origin=Origin(origin), open_timeout=10
        )
    except BaseException:
        there.close()
        raise


@pytest.mark.parametrize(
    ("host", "origin"),
    [("127.0.0.1", "http://evil.example"), ("evil.example", "http://evil.example:{port}")],
    ids=["another origin", "another name for this machine"],
)
def test_pages_of_other_sites_are_rejected(running: Running, host: str, origin: str) -> None:
    port = running.server.port
    with pytest.raises(InvalidHandshake), connected(port, host, origin.format(port=port)):
        pass


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_its_own_pages_are_accepted(running: Running, host: str) -> None:
    port = running.server.port
    with connected(port, host, f"http://{host}:{port}") as connection:
        assert connection.response is not None
        assert connection.response.status_code == 101


def test_the_servers_settings_are_the_safe_ones() -> None:
    config = tomllib.loads((dashboard.SCRIPT.parent / ".streamlit" / "config.toml").read_text())
    assert config["server"]["address"] == "127.0.0.1"
    assert config["server"]["enableCORS"] is True
    assert config["server"]["enableXsrfProtection"] is True
    assert config["server"]["allowedHosts"] == list(dashboard.LOCAL_HOSTS) == ["localhost", "127.0.0.1"]
    assert config["server"]["headless"] is True
    assert config["server"]["maxUploadSize"] == 1
    assert config["server"]["fileWatcherType"] == "none"
    assert config["client"]["showErrorDetails"] == "none"
    assert config["client"]["showErrorLinks"] is False
    assert config["client"]["toolbarMode"] == "minimal"
    assert config["browser"]["gatherUsageStats"] is False


def test_a_page_loads_plotly_once_from_its_own_host_and_a_reload_fetches_no_script(page: Page) -> None:
    """Plotly alone is 1.5 MB compressed, and compiling it takes a second of CPU time."""
    page.open()
    page.wait_for_candles()
    loaded = page.script(_RESOURCES)
    assert {urlsplit(name).netloc for name, _ in loaded} == {urlsplit(page.url).netloc}
    assert sum("plotly.min.js" in name for name, _ in loaded) == 1
    page.script("performance.clearResourceTimings()")
    page.wait_for_updates(2)
    assert page.script(_RESOURCES) == [], "with a refresh nothing is loaded"
    page.open()
    page.wait_for_candles()
    first, again = (sum(size for _, size in one) for one in (loaded, page.script(_RESOURCES)))
    print(f"bytes fetched by a page, and by the same loaded again: {first}, {again}")
    assert again < 50_000


def test_only_files_with_a_version_are_cached(running: Running) -> None:
    path = "component/candleflow.dashboard.component.scripts/patch.js"
    for query, kept in (("?1", True), ("", False)):
        with urllib.request.urlopen(f"{running.server.url}/{path}{query}", timeout=10) as answer:  # noqa: S310
            assert ("immutable" in answer.headers["Cache-Control"]) is kept


def test_the_error_of_a_taken_port_names_the_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StackError, match=rf"port {port} is taken; set CANDLEFLOW_DASHBOARD_PORT"):
            dashboard.run(load(dashboard_port=port))
