"""Which exchange is chosen and why others can't be used, with real sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from candleflow.exchange.probe import Answer, explain, probe
from candleflow.settings import Exchange
from candleflow.stack.up import chosen_exchange, exchange_lines

FIRST, SECOND, THIRD = Exchange.BINANCE, Exchange.BINANCE_VISION, Exchange.BINANCE_US


@asynccontextmanager
async def exchange(status: int = 101) -> AsyncIterator[str]:
    """A WebSocket server that accepts connections (101) or answers the handshake with another status."""

    async def talk(connection: ServerConnection) -> None:
        await connection.wait_closed()

    def answer(_: ServerConnection, __: Request) -> Response | None:
        return None if status == 101 else Response(status, "No", Headers())

    async with serve(talk, "127.0.0.1", 0, process_request=answer) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"


def urls(*ws_urls: str) -> dict[Exchange, tuple[str, str]]:
    return dict(zip((FIRST, SECOND, THIRD), ((url, "") for url in ws_urls), strict=False))


async def test_the_first_host_that_answers_is_chosen() -> None:
    async with exchange() as good:
        answers = await probe(urls("ws://127.0.0.1:1", good, good), within_seconds=5)
    assert [one.exchange for one in answers] == [FIRST, SECOND]
    assert chosen_exchange(answers) is SECOND
    assert exchange_lines(answers)[-1] == "Trades come from 127.0.0.1"


async def test_a_preferred_host_is_taken_though_others_answer_too() -> None:
    async with exchange() as good:
        answers = await probe(urls(good, good, good), within_seconds=5)
    assert answers == [Answer(FIRST, "127.0.0.1", None)]


@pytest.mark.parametrize(
    ("status", "words"),
    [(451, "HTTP 451: not served to this country"), (403, "HTTP 403"), (429, "HTTP 429"), (500, "HTTP 500")],
)
async def test_a_refusal_is_explained_by_its_status(status: int, words: str) -> None:
    async with exchange(status) as refusing:
        answers = await probe(urls(refusing), (FIRST,), within_seconds=5)
    assert answers[0].problem is not None
    assert answers[0].problem.startswith(words)


async def test_silent_hosts_are_waited_for_in_parallel() -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}"
        began = loop.time()
        answers = await probe(urls(url, url, url), within_seconds=0.5)
    assert loop.time() - began < 1.4
    assert [one.problem for one in answers] == ["no answer within 0 s"] * 3
    assert chosen_exchange(answers) is Exchange.SIMULATOR


async def test_when_none_can_be_reached_each_has_a_line_and_the_simulator_is_announced() -> None:
    answers = await probe(urls(*["ws://127.0.0.1:1"] * 3), within_seconds=5)
    lines = exchange_lines(answers)
    assert len(lines) == 5
    assert all("no network" in line for line in lines[1:4])
    assert "CANDLEFLOW_EXCHANGE=binance" in lines[-1]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (socket.gaierror(-2, "Name or service not known"), "no network: the host name can't be resolved"),
        (ConnectionRefusedError(111, "Connection refused"), "no network: Connection refused"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER]"), "TLS failure"),
        (TimeoutError(), "no answer within 10 s"),
    ],
)
def test_each_kind_of_failure_has_its_own_message(error: Exception, words: str) -> None:
    assert explain(error).startswith(words)
