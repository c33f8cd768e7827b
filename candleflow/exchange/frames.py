"""websockets' connection, with the frames that nearly all traffic consists of cut out of it many at once.

websockets reads each frame by a generator, a queue and a step of the reading task; a busy exchange sends a
thousand frames in one read of the socket. Cut here is the plain text frame alone: whole, unmasked, with no
reserved bit, shorter than 64 kB (RFC 6455, section 5.2). All else goes to websockets as it came, which knows
what to do with it: the handshake, pings, closing, fragments, frames that are long or break the protocol. A
property test holds that what is received is the same as without this.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final

from websockets.asyncio import client
from websockets.asyncio.client import ClientConnection
from websockets.protocol import State

_TEXT: Final = 0x81
"""A frame's first byte: the last of its message, with no reserved bit, of text."""
_IN_TWO_BYTES: Final = 126
_IN_EIGHT_BYTES: Final = 127
"""A frame's second byte is its length, if less than these, which say in how many more bytes it is told."""
_LONGEST: Final = 4 + 0xFFFF
_HEAD_END: Final = b"\r\n\r\n"
_WAITING_MESSAGES: Final = 2_048
"""With so many waiting the socket is read no more; one read of it, of 256 kB, brings some 1,300 trades."""


class _ProxyConnection(client.HTTPProxyConnection):
    """websockets 17.4 raises EOFError in the event loop where a proxy closes before its answer is whole: it
    ends its reader twice. Nothing is lost by the second, as the failure is in ``response`` by then."""

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.response.done():
            super().connection_lost(exc)


client.HTTPProxyConnection = _ProxyConnection  # type: ignore[misc]  # `connect` has no parameter for it


class FrameConnection(ClientConnection):
    """For websockets' ``connect(create_connection=...)``; to be read by ``receive``, not by ``recv``."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._messages: list[bytes] = []
        self._head_tail = b""
        self._rest = b""
        """The beginning of a frame that isn't whole yet."""
        self._owed = 0
        """So many bytes are to come of a frame whose beginning websockets has."""
        self._news: asyncio.Future[None] | None = None

    async def receive(self) -> list[bytes]:
        """The messages that have come since, in their order, one at least.

        One task may read at a time. Raises ConnectionClosed as ``recv`` does.
        """
        while not self._messages:
            if self._is_left_to_websockets() or self.connection_lost_waiter.done():
                return [await self.recv(decode=False)]
            self._news = self.loop.create_future()
            await self._news
        messages, self._messages = self._messages, []
        self.transport.resume_reading()
        return messages

    def data_received(self, data: bytes) -> None:
        if self.protocol.state is State.CONNECTING:
            data = self._shake_hands(data)
        if self._owed:
            data = self._pay(data)
        if data:
            self._rest = self._cut(self._rest + data)
        if len(self._messages) > _WAITING_MESSAGES:
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        if self._rest:  # for websockets to say what it lacked
            super().data_received(self._rest)
        super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        # No connection was made where a proxy dropped the TLS handshake: websockets 17.4 would raise
        # AttributeError in the event loop. Who asked for the connection gets the handshake's own error.
        if hasattr(self, "recv_messages"):
            super().connection_lost(exc)
            self._wake()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _shake_hands(self, data: bytes) -> bytes:
        """Give websockets the answer to our handshake; what came after it."""
        seen = self._head_tail + data
        found = seen.find(_HEAD_END)
        until = len(data) if found < 0 else found + len(_HEAD_END) - len(self._head_tail)
        self._head_tail = seen[-len(_HEAD_END) + 1 :]
        super().data_received(data[:until])
        return data[until:]

    def _pay(self, data: bytes) -> bytes:
        """Give websockets what belongs to the frame whose beginning it has; what came after it."""
        paid = data[: self._owed]
        self._owed -= len(paid)
        super().data_received(paid)
        return data[len(paid) :]

    def _cut(self, data: bytes) -> bytes:
        """Take the frames of ``data``, which begins with one; the beginning of one that isn't whole."""
        at, end = 0, len(data)
        while at < end:
            if self.protocol.state is not State.OPEN:
                super().data_received(data[at:])
                return b""
            if not self._is_left_to_websockets():
                at = self._cut_texts(data, at)
            until = _frame_end(data, at)
            if until is None or (until > end and until - at <= _LONGEST):
                break
            super().data_received(data[at:until])
            self._owed = max(0, until - end)
            at = until
        return data[at:]

    def _cut_texts(self, data: bytes, at: int) -> int:
        """Take plain text frames from ``at`` on; where the first begins that is none, or isn't whole."""
        messages, end = self._messages, len(data) - 4
        while at <= end and data[at] == _TEXT:
            length = data[at + 1]
            begin = at + 2
            if length >= _IN_TWO_BYTES:
                if length > _IN_TWO_BYTES:
                    break
                length = data[at + 2] << 8 | data[at + 3]
                begin = at + 4
            until = begin + length
            if until > len(data):
                break
            messages.append(data[begin:until])
            at = until
        return at

    def _is_left_to_websockets(self) -> bool:
        """Whether messages, or a part of one, wait in websockets' own queue: what follows comes after."""
        return len(self.recv_messages.frames) > 0 or self.protocol.current_size is not None


def _frame_end(data: bytes, at: int) -> int | None:
    """Where the frame that begins at ``at`` ends, in ``data`` or behind it; None if that isn't known yet.

    A masked one, which no server may send, is said never to end: websockets fails the connection for it.
    """
    if at + 2 > len(data):
        return None
    length = data[at + 1]
    if length < _IN_TWO_BYTES:
        return at + 2 + length
    if length > _IN_EIGHT_BYTES:
        return sys.maxsize
    begin = at + (4 if length == _IN_TWO_BYTES else 10)
    return begin + int.from_bytes(data[at + 2 : begin]) if begin <= len(data) else None
