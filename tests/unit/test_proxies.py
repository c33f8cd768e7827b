"""Each value of a proxy variable works for all clients, or is refused with the variable's name."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2 as httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.proxy import parse_proxy

from candleflow.errors import ExchangeError, SettingError
from candleflow.exchange import archive
from candleflow.exchange.probe import probe
from candleflow.exchange.reconnect import Rotation
from candleflow.exchange.rest import ExchangeRest
from candleflow.exchange.stream import TradeStream
from candleflow.proxies import proxy_for
from candleflow.settings import EXCHANGE_URLS, Exchange
from candleflow.stack.jar_download import download

REST = "https://api.binance.com"
STREAM = "wss://stream.binance.com:9443"
PASSWORD = "canary-of-a-password"


@pytest.fixture(autouse=True)
def _no_proxies_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [one for one in os.environ if one.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("value", "used"),
    [
        ("http://proxy.example:3128", "http://proxy.example:3128"),
        ("proxy.example:3128", "http://proxy.example:3128"),
        ("proxy.example", "http://proxy.example"),
        ("  http://proxy.example:3128/  ", "http://proxy.example:3128"),
        ("HTTP://Proxy.Example:3128", "http://proxy.example:3128"),
        ("https://proxy.example", "https://proxy.example"),
        ("http://127.0.0.1:3128", "http://127.0.0.1:3128"),
        ("http://[::1]:3128", "http://[::1]:3128"),
        ("[2001:DB8::1]:3128", "http://[2001:db8::1]:3128"),
        ("http://user:secret@proxy.example:1", "http://user:secret@proxy.example:1"),
        ("user:secret@proxy.example:1", "http://user:secret@proxy.example:1"),
        ("http://user@proxy.example:1", "http://user:@proxy.example:1"),
        ("http://us%40er:canary%2F@proxy.example:1", "http://us%40er:canary%2F@proxy.example:1"),
        ("http://bücher.example:1", "http://xn--bcher-kva.example:1"),
        ("http://proxy.example:3128/path?query#fragment", "http://proxy.example:3128"),
        ("http://my_proxy:3128", "http://my_proxy:3128"),
    ],
)
def test_an_address_of_an_http_proxy_is_used_by_every_client(
    monkeypatch: pytest.MonkeyPatch, value: str, used: str
) -> None:
    for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            assert proxy_for(REST) == proxy_for(STREAM) == used
    assert httpx.Proxy(used).url.host
    assert parse_proxy(used).host


BAD = [
    ("socks5://127.0.0.1:1080", "SOCKS proxies aren't supported"),
    ("SOCKS5H://127.0.0.1:1080", "SOCKS proxies aren't supported"),
    ("socks4://127.0.0.1", "SOCKS proxies aren't supported"),
    ("ftp://proxy.example", "neither http:// nor https://"),
    ("://proxy.example", "neither http:// nor https://"),
    ("http:/proxy.example:3128", "can't be read"),
    ("http://", "can't be read"),
    ("http://:3128", "can't be read"),
    ("http://proxy.example:http", "can't be read"),
    ("http://proxy.example:0", "can't be read"),
    ("http://proxy.example:65536", "can't be read"),
    ("http://proxy.example:" + "9" * 5_000, "can't be read"),
    ("http://pro xy.example:3128", "can't be read"),
    ("http://proxy\\example:3128", "can't be read"),
    ("http://proxy..example:3128", "can't be read"),
    ("http://[::1:3128", "can't be read"),
    ("http://::1:3128", "can't be read"),
    ("http://[proxy.example]:3128", "can't be read"),
    (f"http://user:{PASSWORD}#1@proxy.example:3128", "can't be read"),
    (f"http://user:{PASSWORD}/1@proxy.example:3128", "can't be read"),
    (f"http://user:1/{PASSWORD}@proxy.example:3128", "can't be read"),
    ("http://user:" + PASSWORD + "%ff@proxy.example:3128", "can't be read"),
    (f"socks5://user:{PASSWORD}@127.0.0.1:1080", "SOCKS proxies aren't supported"),
    (f"htp://user:{PASSWORD}@127.0.0.1:1080", "neither http:// nor https://"),
]


@pytest.mark.parametrize(("value", "fault"), BAD)
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "all_proxy"])
def test_any_other_value_is_one_sentence_that_names_the_variable_and_never_the_password(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, fault: str
) -> None:
    monkeypatch.setenv(variable, value)
    for url in (REST, STREAM):
        with pytest.raises(SettingError) as raised:
            proxy_for(url)
        said = str(raised.value)
        assert said.startswith(f"{variable}: ")
        assert fault in said
        assert PASSWORD not in said
        assert "\n" not in said
        assert raised.value.__cause__ is None


async def _take(_: object) -> None:
    pass


def stream(*urls: str) -> TradeStream:
    rotation = Rotation(1e6, 60)
    return TradeStream(
        urls, ["BTCUSDT"], _take, rotation=rotation, max_streams=10, max_future_us=0, now_us=lambda: 0
    )


@pytest.mark.parametrize("value", ["socks5://127.0.0.1:1080", "http://[::1"])
async def test_each_client_raises_the_setting_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(SettingError, match=r"^HTTPS_PROXY: "):
        ExchangeRest(REST)
    with pytest.raises(SettingError, match=r"^HTTPS_PROXY: "):
        await stream(STREAM).run()
    with pytest.raises(SettingError, match=r"^HTTPS_PROXY: "):
        await probe()
    url = archive.address("https://data.binance.vision", "BTCUSDT", "2026-11-01")
    with pytest.raises(SettingError, match=r"^HTTPS_PROXY: "):
        archive.fetch(url, tmp_path, lambda *_: None)
    with pytest.raises(SettingError, match=r"^HTTPS_PROXY: "):
        download([], tmp_path, "https://repo1.maven.org/maven2", None, "no")


@pytest.mark.parametrize(
    ("given", "rest", "websocket"),
    [
        ({}, None, None),
        ({"HTTPS_PROXY": "a"}, "http://a", "http://a"),
        ({"HTTPS_PROXY": "a", "https_proxy": "b"}, "http://b", "http://b"),
        ({"HTTPS_PROXY": "a", "https_proxy": ""}, None, None),
        ({"HTTPS_PROXY": "", "ALL_PROXY": "c"}, "http://c", "http://c"),
        ({"Https_Proxy": "a"}, "http://a", "http://a"),
        ({"HTTPS_PROXY": "a", "WSS_PROXY": "d"}, "http://a", "http://d"),
        ({"wss_proxy": "d"}, None, "http://d"),
        ({"HTTP_PROXY": "e", "WS_PROXY": "f"}, None, None),
        ({"HTTPS_PROXY": "a", "ALL_PROXY": "socks5://h"}, "http://a", "http://a"),
        ({"HTTPS_PROXY": "a", "SOCKS_PROXY": "socks5://h", "FTP_PROXY": "[::1"}, "http://a", "http://a"),
        ({"HTTPS_PROXY": "socks5://h", "NO_PROXY": "binance.com"}, None, None),
    ],
)
def test_the_most_specific_variable_counts_and_the_others_are_not_checked(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], rest: str | None, websocket: str | None
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert (proxy_for(REST), proxy_for(STREAM)) == (rest, websocket)


@pytest.mark.parametrize(
    ("members", "is_direct"),
    [
        ("*", True),
        ("example.com,*", True),
        ("api.binance.com", True),
        ("API.Binance.com.", True),
        ("binance.com", True),
        (".binance.com", True),
        ("*.binance.com", True),
        ("com", True),
        ("api.binance.com:443", True),
        ("https://api.binance.com", True),
        ("example.com api.binance.com", True),
        ("[::1,api.binance.com", True),
        ("api.binance.com:9443", False),
        ("nance.com", False),
        ("binance.org", False),
        ("stream.binance.com", False),
        ("[::1", False),
        ("::1", False),
        ("[::1]:443", False),
        ("http://[", False),
        ("10.0.0.0/8,192.168.0.0/33", False),
        ("api.binance.com:port", False),
        (",,  ,", False),
        (".", False),
        (":", False),
        ("[]:443", False),
    ],
)
@pytest.mark.parametrize("variable", ["NO_PROXY", "no_proxy"])
def test_an_entry_of_no_proxy_is_a_host_or_is_ignored(
    monkeypatch: pytest.MonkeyPatch, variable: str, members: str, is_direct: bool
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    monkeypatch.setenv(variable, members)
    assert (proxy_for(REST) is None) is is_direct
    ExchangeRest(REST)


@pytest.mark.parametrize(
    ("members", "is_direct"),
    [
        ("10.0.0.0/8", True), ("10.1.2.3", True), ("10.1.2.3:8443", True), ("10.1.2.3:443", False),
        ("11.0.0.0/8", False), ("::/0", False),
    ],
)  # fmt: skip
def test_networks_are_valid_entries_of_no_proxy(
    monkeypatch: pytest.MonkeyPatch, members: str, is_direct: bool
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", members)
    assert (proxy_for("https://10.1.2.3:8443") is None) is is_direct


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9443", "ws://localhost:1", "http://[::1]:80", "ws://127.9.9.9"]
)
def test_connections_to_this_machine_use_no_proxy(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY", "WS_PROXY"):
        monkeypatch.setenv(name, "socks5://nowhere")
    assert proxy_for(url) is None


PARTS = st.sampled_from(
    [
        "http",
        "https",
        "socks5",
        ":",
        "//",
        "/",
        "@",
        "[",
        "]",
        "::1",
        "proxy.example",
        "3128",
        "%",
        "%40",
        "#",
        "é",
        " ",
    ]
)


@given(value=st.lists(PARTS, max_size=8).map("".join), members=st.lists(PARTS, max_size=8).map("".join))
def test_both_libraries_accept_every_value_that_we_accept(value: str, members: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HTTPS_PROXY", value)
        patch.setenv("NO_PROXY", members)
        try:
            found = proxy_for(STREAM)
        except SettingError as error:
            assert str(error).startswith("HTTPS_PROXY: ")  # noqa: PT017 - or it is none
        else:
            httpx.Client(proxy=found, trust_env=False).close()
            assert found is None or parse_proxy(found).host


# With a real proxy ------------------------------------------------------------------------------------------


@dataclass
class ConnectProxy:
    """An HTTP proxy that answers CONNECT with ``answer`` and then drops the connection."""

    port: int = 0
    asked: list[str] = field(default_factory=list)


Drop = Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


@asynccontextmanager
async def dropping(
    answer: bytes, *, reads: bool = False, resets: bool = False
) -> AsyncIterator[ConnectProxy]:
    proxy = ConnectProxy()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        proxy.asked.append(head.split(b"\r\n")[0].decode())
        writer.write(answer)
        await writer.drain()
        if reads:
            await reader.read(100)
        if resets:
            writer.transport.abort()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        proxy.port = server.sockets[0].getsockname()[1]
        yield proxy


@pytest.mark.parametrize(
    ("answer", "reads", "resets", "said"),
    [
        (b"", False, False, "the proxy failed: did not receive a valid HTTP response"),
        (b"", False, True, "the proxy failed: did not receive a valid HTTP response"),
        (b"HTTP/1.1 200 Conn", False, False, "the proxy failed: did not receive a valid HTTP response"),
        (
            b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n",
            False,
            False,
            "the proxy failed: proxy rejected connection: HTTP 407",
        ),
        (ESTABLISHED, False, False, "the connection was dropped"),
        (ESTABLISHED, True, False, "the connection was dropped"),
        (ESTABLISHED, True, True, "the connection was dropped"),
    ],
)
async def test_a_proxy_that_drops_is_reported_and_asyncio_logs_nothing(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    answer: bytes,
    reads: bool,
    resets: bool,
    said: str,
) -> None:
    left_over: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: left_over.append(context))
    async with dropping(answer, reads=reads, resets=resets) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:{PASSWORD}@127.0.0.1:{proxy.port}")
        (found,) = await probe({Exchange.BINANCE: EXCHANGE_URLS[Exchange.BINANCE]}, [Exchange.BINANCE])
        assert said in str(found.problem)
        assert await stream(STREAM).open(["btcusdt@trade"]) is None
        async with ExchangeRest(REST) as rest:
            with pytest.raises(ExchangeError, match="can't be reached"):
                await rest.server_time()
        # The last connection still closes: its callbacks run in the next turns of the event loop.
        for _ in range(100):
            await asyncio.sleep(0)
    assert proxy.asked[:2] == ["CONNECT stream.binance.com:9443 HTTP/1.1"] * 2
    assert proxy.asked[2] == "CONNECT api.binance.com:443 HTTP/1.1"
    assert left_over == []
    assert said in caplog.text
    assert PASSWORD not in caplog.text
    assert not [one for one in caplog.records if one.name == "asyncio" and one.levelno >= logging.WARNING]
