"""A simulated exchange on this machine, with Binance's WebSocket and REST protocols on one port.

    async with Simulator(SeededMarket(seed=1, rate=40, symbols=["BTCUSDT"])) as simulator:
        ...  # connect to simulator.ws_url, send requests to simulator.rest_url

WebSocket: raw and combined streams, microseconds, SUBSCRIBE and the related requests, pings, connections that
end after 24 h, ``serverShutdown``, and the limits on streams and incoming messages.

REST: ``ping``, ``time``, ``exchangeInfo``, ``ticker/24hr`` (MINI), ``trades``, ``historicalTrades``,
``aggTrades`` and ``klines``, with weights.

A seeded market has trade streams only. Clients can subscribe to other streams, which stay silent, as unknown
streams do at Binance. A recording has the streams that were recorded.

``Faults`` injects faults, and ``sent`` records what was sent, for tests to compare with.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Final, Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from candleflow.errors import ExchangeError
from candleflow.simulator import rest as simulator_rest
from candleflow.simulator.audience import Audience, Client, Faults
from candleflow.simulator.rest import RestError, Stopped
from candleflow.simulator.session import RequestError, Session
from candleflow.simulator.source import Source

SERVER_HEADER: Final = "candleflow-simulator"
"""The ``Server`` header of every response, by which clients know that this is not a real market."""

_HISTORICAL_TRADES: Final = "/api/v3/historicalTrades"
_LOG: Final = logging.getLogger(__name__)
_DAY_SECONDS: Final = 86_400.0
_GOING_AWAY: Final = 1001  # RFC 6455 section 7.4.1
_POLICY_VIOLATION: Final = 1008
_MINUTE_SECONDS: Final = 60
_CLOSE_SECONDS: Final = 2.0
"""How long a client may take to answer a closing handshake."""


@dataclass(slots=True)
class Timing:
    """Binance's times, which tests may shorten."""

    ping_seconds: float = 20.0
    pong_seconds: float = 60.0
    """How long a client may leave a ping unanswered before it is disconnected."""
    lifetime_seconds: float = _DAY_SECONDS
    """How long a connection lasts before it is closed."""
    shutdown_notice_seconds: float | None = None
    """How long before the close ``serverShutdown`` is sent; None: it is not sent."""


class Simulator(Audience):
    """The simulated exchange's server; an async context manager. ``port`` 0 selects any free port.

    Raises ExchangeError if it can't listen on ``host``, such as if the port is in use.
    """

    def __init__(
        self,
        source: Source,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        timing: Timing | None = None,
        faults: Faults | None = None,
        weight_limit: int = 6_000,
        max_waiting_bytes: int = 64 * 2**20,
    ) -> None:
        super().__init__(faults, max_waiting_bytes)
        self.connection_attempts: deque[float] = deque(maxlen=10_000)
        """The times of the last WebSocket handshakes, by the event loop's clock."""
        self.rest_requests: deque[float] = deque(maxlen=10_000)
        """The times of the last REST requests, by the event loop's clock."""
        self._source = source
        self._host = host
        self.port = port
        self._timing = timing or Timing()
        self._weight_limit = weight_limit
        self._weight_used: tuple[int, int] = (0, 0)
        self._is_stopping = False
        self._server: Server | None = None
        self._feed: asyncio.Task[None] | None = None

    @property
    def ws_url(self) -> str:
        return f"ws://{self._host}:{self.port}"

    @property
    def rest_url(self) -> str:
        return f"http://{self._host}:{self.port}"

    async def __aenter__(self) -> Self:
        try:
            self._server = await serve(
                self._serve_client,
                self._host,
                self.port,
                process_request=self._process_request,
                server_header=SERVER_HEADER,
                compression=None,  # Binance offers none, and it would cost more than all other work
                ping_interval=self._timing.ping_seconds,
                ping_timeout=self._timing.pong_seconds,
                close_timeout=_CLOSE_SECONDS,
                open_timeout=None,  # REST requests are answered during the handshake, which may take long
            )
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ExchangeError(
                    f"the simulator can't listen on {self._host}:{self.port}: {error}"
                ) from error
            raise ExchangeError(
                f"port {self.port} on {self._host} is taken: "
                "choose another with --port or CANDLEFLOW_SIMULATOR_PORT, or stop the program that uses it"
            ) from error
        self.port = next(iter(self._server.sockets)).getsockname()[1]
        self._feed = asyncio.create_task(self._source.play(self), name="simulator feed")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_stopping = True
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        if self._feed is not None:
            self._feed.cancel()
            with suppress(asyncio.CancelledError):
                await self._feed  # raises the feed's error, if it failed

    async def run_until(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set. Raises the feed's error, for example for an unreadable recording."""
        waiter = asyncio.create_task(stop.wait())
        pending: set[asyncio.Task[None] | asyncio.Task[bool]] = {waiter}
        if self._feed is not None:
            pending.add(self._feed)
        while not waiter.done():
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task  # raises the feed's error; after a feed that has ended, clients stay connected

    async def feed_ended(self) -> None:
        """Wait until the source has sent everything. A seeded market never ends."""
        if self._feed is not None:
            await asyncio.wait({self._feed})

    async def shut_down_clients(self, after_seconds: float) -> None:
        """Send ``serverShutdown`` to every client, and close its connection ``after_seconds`` later."""
        await asyncio.gather(*(self._end(client, after_seconds) for client in tuple(self._clients)))

    # One connection.

    async def _serve_client(self, connection: ServerConnection) -> None:
        session = Session.of_path(connection.request.path if connection.request else "/ws")
        if session is None:
            return
        client = Client(connection, session)
        self._clients.add(client)
        self.note_streams()
        end = asyncio.create_task(self._end_of_life(client))
        try:
            async for request in connection:
                if not client.may_send(asyncio.get_running_loop().time()):
                    await connection.close(_POLICY_VIOLATION, "Too many requests")
                    return
                reply = session.answer(request)
                self.note_streams()
                if client.is_open:
                    client.write([reply])
        except ConnectionClosed as closed:
            _LOG.info("a client disconnected: %s", closed)
        finally:
            end.cancel()
            self._clients.discard(client)
            self.note_streams()

    async def _end_of_life(self, client: Client) -> None:
        notice = self._timing.shutdown_notice_seconds
        await asyncio.sleep(max(0.0, self._timing.lifetime_seconds - (notice or 0.0)))
        if notice is None:
            await client.connection.close(_GOING_AWAY, "the connection's lifetime is over")
        else:
            await self._end(client, notice)

    async def _end(self, client: Client, after_seconds: float) -> None:
        if client.is_open:
            event = f'{{"e":"serverShutdown","E":{time.time_ns() // 1_000_000}}}'
            client.write([client.session.wrap("!serverShutdown", event)])
        await asyncio.sleep(after_seconds)
        await client.connection.close(_GOING_AWAY, "the server is shutting down")

    # HTTP.

    async def _process_request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a plain GET; return None to continue a WebSocket handshake."""
        if "Upgrade" in request.headers:
            return self._check_handshake(request)
        if request.method != "GET":
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, b"")
        self.rest_requests.append(asyncio.get_running_loop().time())
        if self.faults.throttle_after > 0:
            self.faults.throttle_after -= 1
        elif self.faults.throttle_requests > 0:
            self.faults.throttle_requests -= 1
            return self._throttled(self.faults.throttle_status, self.faults.retry_after_seconds)
        if not self.faults.has_historical_trades and request.path.startswith(_HISTORICAL_TRADES):
            return _response(HTTPStatus.NOT_FOUND, b"")
        now = time.time_ns() // 1_000
        used = self._use_weight(simulator_rest.weight(request.path), now)
        if used > self._weight_limit:
            wait = _MINUTE_SECONDS - now // 1_000_000 % _MINUTE_SECONDS
            return self._throttled(HTTPStatus.TOO_MANY_REQUESTS, wait)
        response = await self._answer(request, now)
        response.headers["X-MBX-USED-WEIGHT-1M"] = str(used)
        return response

    async def _answer(self, request: Request, now: int) -> Response:
        """Answer in a thread: klines of many trades take long, and the live feed must not wait."""
        answer = partial(
            simulator_rest.answer,
            self._source,
            request.path,
            now,
            in_microseconds=request.headers.get("X-MBX-TIME-UNIT", "").upper() == "MICROSECOND",
            is_stopping=lambda: self._is_stopping,
        )
        try:
            return _response(HTTPStatus.OK, await asyncio.to_thread(answer))
        except RestError as error:
            return _response(HTTPStatus(error.status), error.body)
        except Stopped:
            return _response(HTTPStatus.SERVICE_UNAVAILABLE, b"")

    def _check_handshake(self, request: Request) -> Response | None:
        self.connection_attempts.append(asyncio.get_running_loop().time())
        if self.faults.refuse_connections > 0:
            self.faults.refuse_connections -= 1
            return _response(HTTPStatus.SERVICE_UNAVAILABLE, b"")
        try:
            is_served = Session.of_path(request.path) is not None
        except RequestError as error:
            return _response(HTTPStatus.BAD_REQUEST, error.message.encode())
        return None if is_served else _response(HTTPStatus.NOT_FOUND, b"")

    def _throttled(self, status: int, wait_seconds: int) -> Response:
        error = RestError(-1003, "Too much request weight used; please use WebSocket Streams.", status)
        response = _response(HTTPStatus(status), error.body)
        response.headers["Retry-After"] = str(wait_seconds)
        return response

    def _use_weight(self, weight: int, now: int) -> int:
        """Add to the weight used in the current minute, and return the sum."""
        minute, used = self._weight_used
        present = now // (_MINUTE_SECONDS * 1_000_000)
        self._weight_used = (present, (used if minute == present else 0) + weight)
        return self._weight_used[1]


def _response(status: HTTPStatus, body: bytes) -> Response:
    headers = Headers(
        {
            "Content-Type": "application/json;charset=UTF-8",
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
    )
    return Response(status.value, status.phrase, headers, body)
