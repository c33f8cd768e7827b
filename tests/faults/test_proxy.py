"""Tests of each fault of the proxy, with a real echo server."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from candleflow.stack.process import wait_for
from tests.faults.proxy import LOOPBACK, Direction, Proxy, Watch

SECONDS = 10.0


@dataclass
class Echo:
    """A server that sends each client its own bytes back, until the client closes."""

    port: int
    seen: bytearray = field(default_factory=bytearray)


@pytest.fixture
def echo() -> Iterator[Echo]:
    with socket.create_server((LOOPBACK, 0)) as listener:
        server = Echo(listener.getsockname()[1])

        def serve(connected: socket.socket) -> None:
            with connected, contextlib.suppress(OSError):
                while chunk := connected.recv(65_536):
                    server.seen.extend(chunk)
                    connected.sendall(chunk)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connected, _ = listener.accept()
                    threading.Thread(target=serve, args=(connected,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield server
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.port) as one:
        yield one


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with connect(proxy) as one:
        assert echoed(one, b"hello") == b"hello"
        yield one


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection((LOOPBACK, proxy.port), timeout=SECONDS)


def received(client: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count and (chunk := client.recv(count - len(found))):
        found += chunk
    return found


def until_reset(client: socket.socket) -> bytes:
    """Return what is received until the connection is reset; fail if it ends without a reset."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := client.recv(1):
            found += chunk
        pytest.fail(f"the stream ended without a reset after {found!r}")
    return found


def echoed(client: socket.socket, sent: bytes) -> bytes:
    client.sendall(sent)
    return received(client, len(sent))


def test_it_forwards_what_it_gets_and_ends_when_either_side_does(proxy: Proxy, client: socket.socket) -> None:
    sent = bytes(range(256)) * 8_000
    sender = threading.Thread(target=client.sendall, args=(sent,))
    sender.start()
    assert received(client, len(sent)) == sent
    sender.join()
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    assert wait_for(lambda: proxy.connections == 0, SECONDS)


def test_latency_delays_each_direction_and_keeps_the_order(proxy: Proxy, client: socket.socket) -> None:
    proxy.delay(0.2)
    began_at = time.monotonic()
    for number in range(20):
        client.sendall(bytes([number]))
        time.sleep(0.005)
    assert received(client, 20) == bytes(range(20))
    assert 0.4 <= time.monotonic() - began_at < 2, "delayed, but not one after another"
    proxy.heal()
    began_at = time.monotonic()
    assert echoed(client, b"quick") == b"quick"
    assert time.monotonic() - began_at < 0.2


def test_a_stall_holds_bytes_back_and_keeps_connections(proxy: Proxy, client: socket.socket) -> None:
    proxy.stall()
    client.sendall(b"held")
    client.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.recv(1)
    with connect(proxy) as another:
        another.sendall(b"new")
        another.settimeout(0.1)
        with pytest.raises(TimeoutError):
            another.recv(1)
        proxy.heal()
        another.settimeout(SECONDS)
        client.settimeout(SECONDS)
        assert received(another, 3) == b"new"
    assert received(client, 4) == b"held"


def test_new_clients_are_refused_and_open_connections_stay(proxy: Proxy, client: socket.socket) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    assert echoed(client, b"still here") == b"still here"
    proxy.heal()
    with connect(proxy) as again:
        assert echoed(again, b"back") == b"back"


def test_a_reset_is_a_reset(proxy: Proxy, client: socket.socket) -> None:
    proxy.reset()
    assert until_reset(client) == b""
    assert wait_for(lambda: proxy.connections == 0, SECONDS)
    with connect(proxy) as again:
        assert echoed(again, b"back") == b"back"


def test_a_server_that_is_away_resets_the_client() -> None:
    with socket.socket() as bound:
        bound.bind((LOOPBACK, 0))  # bound, but not listening
        with Proxy(bound.getsockname()[1]) as proxy, pytest.raises(ConnectionResetError):
            _talk(proxy)


def _talk(proxy: Proxy) -> None:
    """Connect and read; a fast reset already fails the connect."""
    with connect(proxy) as client:
        client.recv(1)


def test_half_closed_to_the_client_it_sees_the_end_and_the_server_does_not(
    proxy: Proxy, client: socket.socket
) -> None:
    proxy.half_close(Direction.TO_CLIENT)
    assert client.recv(1) == b""
    client.sendall(b"into the void")
    assert proxy.connections == 1


def test_half_closed_to_the_server_it_ends_and_so_does_the_client(
    proxy: Proxy, client: socket.socket
) -> None:
    proxy.half_close(Direction.TO_SERVER)
    assert client.recv(1) == b"", "the echo server closes when its client does"


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("count", [0, 1, 6, 7, 10])
def test_a_cut_lets_exactly_that_many_bytes_through(
    proxy: Proxy, echo: Echo, client: socket.socket, direction: Direction, count: int
) -> None:
    echo.seen.clear()
    proxy.cut_after(count, direction)
    client.sendall(b"0123456")
    found = received(client, 7) if count > 7 else b""
    if count > 7:
        client.sendall(b"789abc")
    found += until_reset(client)
    if direction is Direction.TO_CLIENT:
        assert found == b"0123456789abc"[:count]
    else:
        assert wait_for(lambda: bytes(echo.seen) == b"0123456789abc"[:count], SECONDS)
    assert proxy.cuts == 1
    with connect(proxy) as again:
        assert echoed(again, b"only once") == b"only once"


def test_a_cut_may_start_at_the_position_that_its_watch_returns(echo: Echo) -> None:
    def make_watch() -> Watch:
        return lambda chunk: at if (at := chunk.find(b"COMMIT")) >= 0 else None

    with Proxy(echo.port, make_watch) as proxy, connect(proxy) as client:
        proxy.cut_after(3, Direction.TO_CLIENT, when_watched=True)
        assert echoed(client, b"not yet") == b"not yet"
        assert proxy.cuts == 0
        client.sendall(b"COMMIT")
        assert received(client, 3) == b"COM"
        assert until_reset(client) == b""
        proxy.cut_after(3, when_watched=True)
        echo.seen.clear()
        with connect(proxy) as another:
            another.sendall(b"then COMMIT")
            assert wait_for(lambda: proxy.cuts == 2, SECONDS)
        assert wait_for(lambda: bytes(echo.seen) == b"then COM", SECONDS)


def test_a_cut_may_stall_only_and_healing_forwards_the_held_bytes(
    proxy: Proxy, echo: Echo, client: socket.socket
) -> None:
    echo.seen.clear()
    proxy.cut_after(4, only_stalls=True)
    client.sendall(b"0123456")
    assert wait_for(lambda: proxy.cuts == 1, SECONDS)
    assert wait_for(lambda: bytes(echo.seen) == b"0123", SECONDS)
    proxy.heal()
    assert received(client, 7) == b"0123456"


def test_a_slow_link_limits_the_bytes_per_second(proxy: Proxy, client: socket.socket) -> None:
    proxy.slow(20_000)
    began_at = time.monotonic()
    assert len(echoed(client, bytes(10_000))) == 10_000
    assert 0.4 < time.monotonic() - began_at < 3
    proxy.heal()
    assert echoed(client, b"quick") == b"quick"


def test_healing_cancels_a_cut_that_has_not_happened(proxy: Proxy, client: socket.socket) -> None:
    proxy.cut_after(100)
    proxy.heal()
    assert len(echoed(client, bytes(200))) == 200
    assert proxy.cuts == 0
