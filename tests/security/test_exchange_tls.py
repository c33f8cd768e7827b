"""TLS to the exchange: the simulator behind a TLS proxy, for the stream and for REST.

The trusted authority is set as a user sets it, with SSL_CERT_FILE. A wrong authority, host name or date, or
a server without TLS, is refused with a log line that names the cause. The client never falls back to plain
text.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Final

import pytest
from websockets.datastructures import Headers
from websockets.http11 import Response

from candleflow.errors import ExchangeError
from candleflow.exchange import archive
from candleflow.exchange.history import TradeHistory
from candleflow.exchange.probe import probe
from candleflow.settings import Exchange
from candleflow.simulator.market import SeededMarket
from candleflow.simulator.server import Simulator
from tests.security.certificates import Authority, Certificate
from tests.security.plain import PlainServer, plain_server
from tests.unit.exchange.test_stream import Heard, frame, running, scripted, sends, stream_of, until

HERE: Final = "IP:127.0.0.1,DNS:localhost"
REFUSED: Final = {
    "stranger": "its certificate is not signed by an authority that this machine trusts",
    "other": "its certificate is for another host name",
    "expired": "its certificate has expired",
}
PLAIN: Final = "the server offers no TLS"
TRADES: Final = 20_000
"""More than one read and the queue can take, so reading has to pause and resume."""
LINE_BYTES: Final = 65_536


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("exchange-tls"))


@pytest.fixture(scope="module")
def certificates(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Certificate]:
    stranger = Authority(tmp_path_factory.mktemp("stranger"), "stranger")
    return {
        "right": authority.certificate("right", HERE),
        "stranger": stranger.certificate("right", HERE),
        "other": authority.certificate("other", "DNS:stream.example.org"),
        "expired": authority.certificate("expired", HERE, is_expired=True),
    }


@pytest.fixture(autouse=True)
def trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    return authority.file


@asynccontextmanager
async def tls_proxy(url: str, shown: Certificate) -> AsyncIterator[int]:
    """Run a TLS proxy in front of a server without TLS; yield its port."""
    port = int(url.rpartition(":")[2])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(shown.certificate, shown.key)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    async with await asyncio.start_server(pass_on, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while part := await reader.read(LINE_BYTES):
            writer.write(part)
            await writer.drain()
    writer.close()


async def stream_refusal(url: str, caplog: pytest.LogCaptureFixture) -> str:
    """Return the producer's log line about an untrusted exchange; check that it keeps retrying."""
    heard = Heard()
    caplog.set_level(logging.WARNING)

    def lines() -> list[str]:
        return [line for line in caplog.messages if f"{url} can't be reached: " in line]

    async with running(stream_of(heard, url)) as task:
        await until(lambda: len(lines()) >= 2)
        assert not task.done()
    assert not heard.messages
    assert len(set(lines())) == 1
    return lines()[0]


async def history_refusal(url: str) -> str:
    async with TradeHistory([url]) as history:
        with pytest.raises(ExchangeError, match=url) as caught:
            await history.page("BTCUSDT", 1, 10)
    return str(caught.value)


async def test_trades_come_by_the_stream(certificates: dict[str, Certificate]) -> None:
    """A burst of trades arrives complete and in order, wherever TLS records split the frames."""
    heard = Heard()
    async with (
        scripted(sends(*(frame(number) for number in range(TRADES)))) as (url, _),
        tls_proxy(url, certificates["right"]) as port,
        running(stream_of(heard, f"wss://127.0.0.1:{port}")),
    ):
        await until(lambda: len(heard.messages) >= TRADES)
    assert heard.trades() == list(range(TRADES))


async def test_the_simulators_trades_and_history_come(certificates: dict[str, Certificate]) -> None:
    heard = Heard()
    async with (
        Simulator(SeededMarket(1, 100, ["BTCUSDT"])) as simulator,
        tls_proxy(simulator.rest_url, certificates["right"]) as port,
        running(stream_of(heard, f"wss://localhost:{port}")),
    ):
        await until(lambda: len(heard.trades()) >= 10)
        first = heard.trades()[0]
        async with TradeHistory([f"https://127.0.0.1:{port}"]) as history:
            page = await history.page("BTCUSDT", first - 10, 10)
        assert [trade.trade_id for trade in page.trades] == list(range(first - 10, first))
        answers = await probe(
            {Exchange.BINANCE: (f"wss://127.0.0.1:{port}", "")}, (Exchange.BINANCE,), within_seconds=10
        )
        assert answers[0].problem is None


@pytest.mark.parametrize("shown", REFUSED)
async def test_a_certificate_that_does_not_hold_is_refused(
    certificates: dict[str, Certificate], shown: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    async with (
        Simulator(SeededMarket(1, 100, ["BTCUSDT"])) as simulator,
        tls_proxy(simulator.rest_url, certificates[shown]) as port,
    ):
        assert REFUSED[shown] in await stream_refusal(f"wss://127.0.0.1:{port}", caplog)
        assert REFUSED[shown] in await history_refusal(f"https://127.0.0.1:{port}")
        answers = await probe(
            {Exchange.BINANCE: (f"wss://127.0.0.1:{port}", "")}, (Exchange.BINANCE,), within_seconds=10
        )
        assert REFUSED[shown] in (answers[0].problem or "")
        with pytest.raises(ExchangeError, match=REFUSED[shown]):
            await asyncio.to_thread(
                archive.fetch, f"https://127.0.0.1:{port}/a.zip", tmp_path, lambda *_: None
            )
        assert not simulator.connection_attempts


async def test_without_a_word_from_the_environment_a_made_up_authority_is_not_trusted(
    certificates: dict[str, Certificate], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    async with scripted(sends(frame(1))) as (url, requests), tls_proxy(url, certificates["right"]) as port:
        assert REFUSED["stranger"] in await stream_refusal(f"wss://127.0.0.1:{port}", caplog)
        assert REFUSED["stranger"] in await history_refusal(f"https://127.0.0.1:{port}")
        assert not requests


async def test_a_server_without_tls_gets_nothing_in_plain_text(caplog: pytest.LogCaptureFixture) -> None:
    with plain_server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as server:
        assert PLAIN in await stream_refusal(f"wss://127.0.0.1:{server.port}", caplog)
        assert PLAIN in await history_refusal(f"https://127.0.0.1:{server.port}")
        assert_only_tls_was_tried(server)


def assert_only_tls_was_tried(server: PlainServer) -> None:
    assert len(server.heard) >= 3
    assert not [said for said in server.heard if b"HTTP/1.1" in said or b"BTCUSDT" in said]


async def test_a_redirect_to_plain_text_is_not_followed(
    certificates: dict[str, Certificate], caplog: pytest.LogCaptureFixture
) -> None:
    async with scripted(sends(frame(1))) as (plain, heard_in_plain_text):
        away = Response(HTTPStatus.FOUND, "Found", Headers(Location=f"{plain}/stream"), b"")
        async with (
            scripted(sends(frame(2)), answers=[away] * 100) as (url, asked),
            tls_proxy(url, certificates["right"]) as port,
        ):
            said = await stream_refusal(f"wss://127.0.0.1:{port}", caplog)
            assert "cannot follow redirect to non-secure URI" in said
            assert "HTTP 302" in await history_refusal(f"https://127.0.0.1:{port}")
            assert asked
        assert not heard_in_plain_text


async def test_the_archive_leads_nowhere_in_plain_text(
    certificates: dict[str, Certificate], tmp_path: Path
) -> None:
    async with scripted(sends()) as (plain, heard_in_plain_text):
        place = f"{plain.replace('ws:', 'http:')}/a.zip"
        away = Response(HTTPStatus.FOUND, "Found", Headers(Location=place), b"")
        async with (
            scripted(sends(), answers=[away]) as (url, _),
            tls_proxy(url, certificates["right"]) as port,
        ):
            with pytest.raises(ExchangeError, match="without TLS"):
                await asyncio.to_thread(
                    archive.fetch, f"https://127.0.0.1:{port}/a.zip", tmp_path, lambda *_: None
                )
        assert not heard_in_plain_text
