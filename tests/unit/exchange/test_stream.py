"""The stream with real WebSocket servers: the simulator, and scripted servers for other behaviour."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from urllib.parse import unquote

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from candleflow.backoff import Backoff
from candleflow.exchange import stream as stream_module
from candleflow.exchange.messages import OtherStream, TradeMessage
from candleflow.exchange.reconnect import Rotation
from candleflow.exchange.stream import MAX_FRAME_BYTES, Received, TooLong, TradeStream
from candleflow.market.payload import NOT_JSON, Rejected
from candleflow.market.trade_ids import TradeIds
from candleflow.simulator.audience import Faults
from candleflow.simulator.market import SeededMarket
from candleflow.simulator.server import Simulator, Timing

DEADLINE_SECONDS = 20.0
NOON_MS = 1_795_348_800_000

Script = Callable[[ServerConnection], Awaitable[None]]


def frame(trade_id: int, symbol: str = "BTCUSDT") -> str:
    payload = (
        f'{{"e":"trade","E":{NOON_MS},"s":"{symbol}","t":{trade_id},"p":"1.00000000","q":"2.00000000",'
        f'"T":{NOON_MS},"m":true,"M":true}}'
    )
    return f'{{"stream":"{symbol.lower()}@trade","data":{payload}}}'


class Heard:
    """Records the messages that a stream delivers, in order."""

    def __init__(self) -> None:
        self.messages: list[Received] = []
        self.ids: dict[str, TradeIds] = {}
        self.twice = 0

    async def take(self, message: Received) -> None:
        self.messages.append(message)
        if isinstance(message, TradeMessage):
            self.twice += not self.ids.setdefault(message.symbol, TradeIds()).add(message.trade_id)

    def trades(self) -> list[int]:
        return [one.trade_id for one in self.messages if isinstance(one, TradeMessage)]


async def until(condition: Callable[[], bool], what: str = "") -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


def stream_of(
    heard: Heard,
    *base_urls: str,
    symbols: Sequence[str] = ("BTCUSDT",),
    lifetime_seconds: float = 1e6,
    silence_seconds: float = 60.0,
    max_streams: int = 1_024,
    take: Callable[[Received], Awaitable[None]] | None = None,
    advice: str = "",
) -> TradeStream:
    return TradeStream(
        base_urls,
        symbols,
        take or heard.take,
        rotation=Rotation(lifetime_seconds, silence_seconds),
        max_streams=max_streams,
        max_future_us=60_000_000,
        now_us=lambda: max(time.time_ns() // 1_000, NOON_MS * 1_000),
        random=lambda: 0.5,
        backoff=lambda: Backoff(0.1, 0.4, random=lambda: 0.5),
        advice=advice,
    )


@asynccontextmanager
async def running(stream: TradeStream) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(stream.run())
    try:
        yield task
        if task.done():
            task.result()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def scripted(
    *scripts: Script, answers: Sequence[Response | None] = ()
) -> AsyncIterator[tuple[str, list[Request]]]:
    """Run a server whose n-th connection runs the n-th script, and all further ones the last script.

    ``answers`` are HTTP answers to the first handshakes; None accepts the handshake.
    """
    requests: list[Request] = []
    left = list(answers)
    turns = iter([*scripts])
    last = scripts[-1]

    def answer(_connection: ServerConnection, request: Request) -> Response | None:
        requests.append(request)
        return left.pop(0) if left else None

    async def follow(connection: ServerConnection) -> None:
        await next(turns, last)(connection)

    async with serve(follow, "127.0.0.1", 0, process_request=answer, ping_interval=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}", requests


def sends(*frames: str | bytes, then_stays: bool = True) -> Script:
    async def script(connection: ServerConnection) -> None:
        for one in frames:
            await connection.send(one)
        if then_stays:
            await connection.wait_closed()

    return script


def refusal(status: int, **headers: str) -> Response:
    named = Headers({name.replace("_", "-"): value for name, value in headers.items()})
    return Response(status, HTTPStatus(status).phrase, named, b"")


async def test_every_trade_of_every_symbol_comes_in_the_order_of_its_ids() -> None:
    heard = Heard()
    symbols = ("BTCUSDT", "ETHUSDT")
    async with (
        Simulator(SeededMarket(1, 400, symbols)) as simulator,
        running(stream_of(heard, simulator.ws_url, symbols=symbols)),
    ):
        await until(lambda: len(heard.messages) >= 300)
    assert heard.ids.keys() == set(symbols)
    assert all(len(ids.ranges) == 1 for ids in heard.ids.values())
    for symbol in symbols:
        mine = [
            one.trade_id for one in heard.messages if isinstance(one, TradeMessage) and one.symbol == symbol
        ]
        assert mine == sorted(mine)


async def test_more_symbols_than_a_connection_may_have_take_more_connections() -> None:
    heard = Heard()
    symbols = tuple(f"{name}USDT" for name in ("BTC", "ETH", "BNB", "SOL", "XRP"))
    async with Simulator(SeededMarket(1, 500, symbols)) as simulator:
        stream = stream_of(heard, simulator.ws_url, symbols=symbols, max_streams=2)
        async with running(stream):
            await until(lambda: heard.ids.keys() == set(symbols))
            assert (stream.wanted, stream.connected, simulator.clients) == (3, 3, 3)
        assert stream.reconnects == 0


async def test_a_thousand_symbols_are_followed_over_one_connection() -> None:
    heard = Heard()
    symbols = tuple(f"{('SYMBOL', '币安人生')[number % 2]}{number:04d}USDT" for number in range(1_000))
    asked: set[str] = set()

    async def exchange(connection: ServerConnection) -> None:
        assert connection.request is not None
        path = connection.request.path
        assert path.isascii()
        asked.update(unquote(path.partition("streams=")[2]).split("/"))
        await connection.send(frame(1, symbols[0]))
        async for text in connection:
            request = json.loads(text)
            assert request["method"] == "SUBSCRIBE"
            assert len(text) < 4_096
            asked.update(request["params"])
            await connection.send(json.dumps({"result": None, "id": request["id"]}))
            await connection.send(frame(2 + request["id"], symbols[0]))

    async with scripted(exchange) as (url, requests):
        stream = stream_of(heard, url, symbols=symbols)
        async with running(stream):
            await until(lambda: len(asked) == 1_000)
    assert asked == {f"{symbol.lower()}@trade" for symbol in symbols}
    assert len(requests) == 1


async def test_a_connection_that_is_refused_streams_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    symbols = tuple(f"SYMBOL{number:04d}USDT" for number in range(600))
    caplog.set_level("INFO")

    async def exchange(connection: ServerConnection) -> None:
        async for text in connection:
            reply = {"code": 2, "msg": "Invalid request", "id": json.loads(text)["id"]}
            await connection.send(json.dumps(reply))

    async with (
        scripted(exchange) as (url, requests),
        running(stream_of(Heard(), url, symbols=symbols)),
    ):
        await until(lambda: len(requests) >= 2)
    assert "the exchange refuses streams: 2: Invalid request" in caplog.text


async def test_rotation_loses_no_trade_and_brings_some_twice() -> None:
    heard = Heard()
    async with Simulator(SeededMarket(1, 500, ["BTCUSDT"])) as simulator:
        stream = stream_of(heard, simulator.ws_url, lifetime_seconds=0.5)
        async with running(stream):
            await until(lambda: stream.reconnects >= 3)
            seen = len(heard.ids["BTCUSDT"])
            await until(lambda: len(heard.ids["BTCUSDT"]) > seen + 100)
    assert len(heard.ids["BTCUSDT"].ranges) == 1, "no trade is missing"
    assert heard.twice > 0, "the overlap, which the receiver drops"


async def test_the_old_connection_is_closed_only_after_the_new_one_has_brought_a_message() -> None:
    heard, events = Heard(), []

    async def old(connection: ServerConnection) -> None:
        await connection.send(frame(1))
        await connection.wait_closed()
        events.append("old closed")

    async def new(connection: ServerConnection) -> None:
        events.append("new opened")
        await asyncio.sleep(0.3)
        events.append("new sends")
        await connection.send(frame(2))
        await connection.wait_closed()

    async with scripted(old, new) as (url, _):
        stream = stream_of(heard, url, lifetime_seconds=0.2)
        async with running(stream):
            await until(lambda: "old closed" in events)
    assert events[:3] == ["new opened", "new sends", "old closed"]


async def test_a_new_connection_that_delivers_nothing_does_not_replace_one_that_does(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stream_module, "OPEN_SECONDS", 0.3)
    heard = Heard()

    async def talks(connection: ServerConnection) -> None:
        for trade_id in range(10_000):
            await connection.send(frame(trade_id))
            await asyncio.sleep(0.01)

    async with scripted(talks, sends(), talks) as (url, requests):
        stream = stream_of(heard, url, lifetime_seconds=0.3)
        async with running(stream):
            await until(lambda: len(requests) >= 3 and stream.reconnects >= 1)
    assert "delivers nothing, but the old one does" in caplog.text
    assert len(heard.ids["BTCUSDT"].ranges) == 1


async def test_an_announced_shutdown_is_followed_by_a_new_connection_without_a_gap() -> None:
    heard = Heard()
    async with Simulator(SeededMarket(1, 500, ["BTCUSDT"])) as simulator:
        stream = stream_of(heard, simulator.ws_url)
        async with running(stream):
            await until(lambda: len(heard.messages) > 100)
            await simulator.shut_down_clients(after_seconds=3.0)
            assert stream.reconnects == 1
            seen = len(heard.ids["BTCUSDT"])
            await until(lambda: len(heard.ids["BTCUSDT"]) > seen + 100)
    assert len(heard.ids["BTCUSDT"].ranges) == 1


async def test_a_silent_connection_is_replaced_though_its_socket_is_open_and_it_pings() -> None:
    heard, pings = Heard(), Counter[str]()

    async def stalls(connection: ServerConnection) -> None:
        await connection.send(frame(1))
        while True:
            await (await connection.ping())
            pings["answered"] += 1
            await asyncio.sleep(0.05)

    async with scripted(stalls, sends(frame(2))) as (url, _):
        stream = stream_of(heard, url, silence_seconds=0.5)
        async with running(stream):
            await until(lambda: heard.trades() == [1, 2])
    assert pings["answered"] >= 5


async def test_a_stream_whose_simulator_falls_silent_goes_on_once_it_talks_again() -> None:
    heard = Heard()
    async with Simulator(SeededMarket(1, 200, ["BTCUSDT"])) as simulator:
        stream = stream_of(heard, simulator.ws_url, silence_seconds=0.3)
        async with running(stream):
            await until(lambda: len(heard.messages) > 20)
            simulator.faults.is_silent = True
            before = len(simulator.connection_attempts)
            await until(lambda: len(simulator.connection_attempts) > before)
            simulator.faults.is_silent = False
            seen = len(heard.messages)
            await until(lambda: len(heard.messages) > seen + 20)


async def test_handshakes_refused_with_503_are_retried_with_a_line_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard = Heard()
    faults = Faults(refuse_connections=3)
    async with Simulator(SeededMarket(1, 200, ["BTCUSDT"]), faults=faults) as simulator:
        async with running(stream_of(heard, simulator.ws_url)):
            await until(lambda: len(heard.messages) > 5)
        assert len(simulator.connection_attempts) == 4
    assert caplog.text.count("HTTP 503") == 3
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("status", "words"), [(451, "not served to this country"), (403, "refused by its firewall")]
)
async def test_a_refusal_for_good_is_named_in_one_line(
    status: int, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard()
    async with (
        scripted(sends(frame(1)), answers=[refusal(status)]) as (url, _),
        running(stream_of(heard, url)),
    ):
        await until(lambda: heard.trades() == [1])
    assert len([one for one in caplog.records if words in one.getMessage()]) == 1


async def test_retry_after_is_honoured_by_every_connection(caplog: pytest.LogCaptureFixture) -> None:
    heard = Heard()
    async with (
        scripted(sends(frame(1)), answers=[refusal(429, Retry_After="1")]) as (url, requests),
        running(stream_of(heard, url)),
    ):
        await until(lambda: len(requests) == 1)
        asked_at = time.monotonic()
        await until(lambda: heard.trades() == [1])
    assert time.monotonic() - asked_at >= 0.9
    assert "rate limit: reconnecting in 1 s" in caplog.text


async def test_where_one_host_is_away_the_next_is_tried() -> None:
    heard = Heard()
    async with (
        Simulator(SeededMarket(1, 200, ["BTCUSDT"])) as simulator,
        running(stream_of(heard, "ws://127.0.0.1:1", simulator.ws_url)),
    ):
        await until(lambda: len(heard.messages) > 5)


async def test_where_no_host_answers_what_to_set_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async with running(stream_of(Heard(), "ws://127.0.0.1:1", "ws://127.0.0.1:2", advice="set this")):
        await until(lambda: caplog.text.count("can't be reached") >= 5)
    assert [one.getMessage() for one in caplog.records].count("set this") == 1


async def test_a_frame_above_a_mebibyte_is_refused_and_the_flow_goes_on() -> None:
    heard = Heard()
    huge = "x" * (MAX_FRAME_BYTES + 1)
    async with (
        scripted(sends(frame(1), huge), sends(frame(2))) as (url, _),
        running(stream_of(heard, url)),
    ):
        await until(lambda: heard.trades() == [1, 2])
    assert heard.messages[1] == TooLong(len(huge))


async def test_a_frame_is_refused_for_the_length_it_announces() -> None:
    """Otherwise a faulty exchange could fill the memory before the end of the frame arrives."""
    heard = Heard()
    announced = MAX_FRAME_BYTES + 1

    async def announces(connection: ServerConnection) -> None:
        await connection.send(frame(1))
        connection.transport.write(b"\x81\x7f" + announced.to_bytes(8))
        await connection.wait_closed()

    async with (
        scripted(announces, sends(frame(2))) as (url, _),
        running(stream_of(heard, url)),
    ):
        await until(lambda: heard.trades() == [1, 2])
    assert heard.messages[1] == TooLong(announced)


async def test_bad_frames_are_delivered_with_their_reason_and_the_stream_continues() -> None:
    heard = Heard()
    bad: list[str | bytes] = [b"\xff\xfe", "{", "[" * 100_000, frame(1, "NOTOURS"), ""]
    async with (
        scripted(sends(*bad, frame(1))) as (url, requests),
        running(stream_of(heard, url)),
    ):
        await until(lambda: heard.trades() == [1])
    assert len(requests) == 1, "the connection stays open"
    assert [isinstance(one, Rejected) for one in heard.messages] == [True] * 5 + [False]
    assert isinstance(heard.messages[1], Rejected)
    assert heard.messages[1].reason == NOT_JSON


async def test_a_text_frame_with_cut_utf8_is_refused_without_ending_the_connection() -> None:
    heard = Heard()

    async def cuts(connection: ServerConnection) -> None:
        await connection.send(b'{"e":"tr\xc3', text=True)
        await connection.send(frame(1))
        await connection.wait_closed()

    async with (
        scripted(cuts) as (url, requests),
        running(stream_of(heard, url)),
    ):
        await until(lambda: heard.trades() == [1])
    assert isinstance(heard.messages[0], Rejected)
    assert len(requests) == 1


async def test_a_message_of_another_stream_is_recognized() -> None:
    heard = Heard()
    ticker = '{"stream":"btcusdt@bookTicker","data":{"u":1,"s":"BTCUSDT","b":"1","B":"1","a":"1","A":"1"}}'
    async with (
        scripted(sends(ticker, frame(1))) as (url, _),
        running(stream_of(heard, url)),
    ):
        await until(lambda: heard.trades() == [1])
    assert heard.messages[0] == OtherStream("btcusdt@bookTicker")


async def test_a_cable_cut_again_and_again_never_leads_to_a_storm_of_attempts() -> None:
    heard = Heard()
    faults = Faults(disconnect_after=5)
    async with Simulator(SeededMarket(1, 500, ["BTCUSDT"]), faults=faults) as simulator:
        stream = stream_of(heard, simulator.ws_url)
        async with running(stream):
            began_at = time.monotonic()
            await until(lambda: stream.reconnects >= 6)
            seconds = time.monotonic() - began_at
        # Half of 0.1, 0.2, 0.4, 0.4 ... s, as the random number is fixed at one half.
        assert seconds >= 0.05 + 0.1 + 0.2 + 0.2 + 0.2
    assert len(heard.messages) >= 30


async def test_pings_are_answered_while_handing_over_waits() -> None:
    """Pings are answered as long as the unread frames fit into websockets' queue."""
    heard, answered = Heard(), asyncio.Event()
    gate = asyncio.Event()

    async def take(message: Received) -> None:
        await gate.wait()
        await heard.take(message)

    async def pings(connection: ServerConnection) -> None:
        await connection.send(frame(1))
        await (await connection.ping())
        answered.set()
        await connection.wait_closed()

    async with (
        scripted(pings) as (url, _),
        running(stream_of(heard, url, take=take, silence_seconds=0.2)),
    ):
        async with asyncio.timeout(DEADLINE_SECONDS):
            await answered.wait()
        gate.set()
        await until(lambda: heard.trades() == [1])


async def test_a_connection_is_not_silent_while_the_receiver_waits() -> None:
    heard, gate = Heard(), asyncio.Event()

    async def take(message: Received) -> None:
        await gate.wait()
        await heard.take(message)

    async with (
        scripted(sends(frame(1))) as (url, requests),
        running(stream_of(heard, url, take=take, silence_seconds=0.2)),
    ):
        await until(lambda: len(requests) == 1)
        await asyncio.sleep(0.6)  # three times the silence that would be due
        assert len(requests) == 1
        gate.set()
        await until(lambda: heard.trades() == [1])


async def test_a_defect_of_the_receiver_ends_the_stream_with_its_error() -> None:
    async def take(_message: Received) -> None:
        raise ZeroDivisionError

    async with scripted(sends(frame(1))) as (url, _):
        stream = stream_of(Heard(), url, take=take)
        with pytest.raises(ZeroDivisionError):
            async with asyncio.timeout(DEADLINE_SECONDS):
                await stream.run()


async def test_messages_sent_before_the_connection_ended_are_delivered() -> None:
    heard = Heard()
    async with (
        scripted(sends(*map(frame, range(1, 2_001)), then_stays=False), sends(frame(2_001))) as (
            url,
            _,
        ),
        running(stream_of(heard, url)),
    ):
        await until(lambda: len(heard.messages) == 2_001)
    assert heard.trades() == list(range(1, 2_002))


async def test_the_lifetimes_end_at_the_exchange_without_warning_is_survived() -> None:
    heard = Heard()
    timing = Timing(lifetime_seconds=0.5)
    async with Simulator(SeededMarket(1, 300, ["BTCUSDT"]), timing=timing) as simulator:
        stream = stream_of(heard, simulator.ws_url)
        async with running(stream):
            await until(lambda: stream.reconnects >= 2)
