"""What is cut out of the socket's bytes many at once is what websockets reads from them frame by frame."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection, Sequence
from typing import NamedTuple

from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed
from websockets.frames import Close
from websockets.uri import parse_uri
from websockets.utils import accept_key

from candleflow.exchange.frames import FrameConnection

MAX_SIZE = 70_000
DEADLINE_SECONDS = 20.0
FINAL, RESERVED, MASKED = 0x80, 0x40, 0x80
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


class Outcome(NamedTuple):
    """What became of a connection: messages, how many bytes it answered, and how it ended."""

    messages: list[bytes]
    answered: int
    received: Close | None
    sent: Close | None
    why: str


def frame(first: int, payload: bytes, mask: int = 0) -> bytes:
    length = len(payload)
    if length < 126:
        return bytes([first, mask | length]) + payload
    if length < 2**16:
        return bytes([first, mask | 126]) + length.to_bytes(2) + payload
    return bytes([first, mask | 127]) + length.to_bytes(8) + payload


def text(payload: bytes) -> bytes:
    return frame(FINAL | TEXT, payload)


def in_pieces(pieces: Sequence[bytes]) -> bytes:
    """One message in several frames, with a ping between the first two."""
    first, *middle, last = pieces
    frames = [frame(TEXT, first), frame(FINAL | PING, b"?")]
    return b"".join([*frames, *(frame(CONTINUATION, one) for one in middle), frame(FINAL, last)])


lengths = st.sampled_from([0, 1, 2, 125, 126, 127, 190, 255, 256, 65_535, 65_536, MAX_SIZE])
payloads = st.one_of(
    st.binary(max_size=8),
    st.builds(lambda length, byte: byte * length, lengths, st.binary(min_size=1, max_size=1)),
)
short = st.binary(max_size=125)
usual = st.one_of(
    payloads.map(text),
    short.map(lambda data: frame(FINAL | PING, data)),
    short.map(lambda data: frame(FINAL | PONG, data)),
    payloads.map(lambda data: frame(FINAL | BINARY, data)),
    st.lists(short, min_size=2, max_size=4).map(in_pieces),
)
ending = st.one_of(
    st.just(b""),
    st.just(frame(FINAL | CLOSE, b"\x03\xe8bye")),
    st.just(frame(FINAL | TEXT, b"abcd" + b"x" * 9, mask=MASKED)),
    st.just(frame(FINAL | RESERVED | TEXT, b"x")),
    st.just(frame(FINAL | TEXT, b"x" * (MAX_SIZE + 1))),
    st.just(frame(FINAL, b"the end of nothing")),
    st.just(frame(TEXT, b"begun and ") + text(b"begun anew")),
    st.just(text(b"cut short")[:-1]),
    st.binary(max_size=20),
)
traffic = st.builds(
    lambda frames, end, after: b"".join([*frames, end, *after]),
    st.lists(usual, max_size=12),
    ending,
    st.lists(payloads.map(text), max_size=2),
)
cuts = st.lists(st.one_of(st.integers(-10, 400), st.integers(0, 300_000)), max_size=12)
"""Places, counted from the handshake's end."""


async def outcome(
    kind: type[ClientConnection], traffic: bytes, cuts: Sequence[int], turns: Collection[int]
) -> Outcome:
    """What a connection of this kind makes of an answer to its handshake and of ``traffic``.

    All of it comes in as many pieces as ``cuts`` make; before those numbered in ``turns`` the reader has its
    turn.
    """
    ours, theirs = socket.socketpair()
    protocol = ClientProtocol(parse_uri("ws://exchange/"), max_size=MAX_SIZE)
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: kind(protocol, ping_interval=None, max_queue=None), sock=ours
    )
    request = protocol.connect()
    accepted = accept_key(request.headers["Sec-WebSocket-Key"])
    head = (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accepted}\r\n\r\n"
    ).encode()
    messages: list[bytes] = []
    reading = asyncio.create_task(read(connection, messages))
    whole = head + traffic
    at = 0
    for number, until in enumerate([*sorted(min(len(head) + cut, len(whole)) for cut in cuts), len(whole)]):
        if number in turns:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        connection.data_received(whole[at:until])
        at = until
    await asyncio.sleep(0)
    theirs.shutdown(socket.SHUT_WR)
    async with asyncio.timeout(DEADLINE_SECONDS):
        closed = await reading
    answered = 0
    while some := theirs.recv(65_536):
        answered += len(some)
    theirs.close()
    return Outcome(messages, answered, closed.rcvd, closed.sent, str(closed.__cause__))


async def read(connection: ClientConnection, messages: list[bytes]) -> ConnectionClosed:
    try:
        while True:
            if isinstance(connection, FrameConnection):
                messages += await connection.receive()
            else:
                messages.append(await connection.recv(decode=False))
    except ConnectionClosed as closed:
        return closed


@settings(max_examples=300)
@given(traffic, cuts, st.sets(st.integers(0, 12)))
@example(text(b"x" * 190) * 50, [], set())
@example(text(b"x" * 190) * 50, list(range(0, 10_000, 777)), set(range(13)))
@example(
    text(b"a") + frame(FINAL | BINARY, b"b") + text(b"c") + in_pieces([b"d", b"e"]) + text(b"f"), [], set()
)
@example(text(b"x" * 190) * 50, [-2, 100], set())
@example(text(b"x" * 65_536) + text(b"y"), [30_000], {1})
@example(text(text(b"x") * 22_000), [30_000, 30_001, 30_002], set())
def test_the_same_is_received_as_by_websockets_alone(
    traffic: bytes, cuts: list[int], turns: set[int]
) -> None:
    ours = asyncio.run(outcome(FrameConnection, traffic, cuts, turns))
    theirs = asyncio.run(outcome(ClientConnection, traffic, cuts, turns))
    assert ours == theirs
