"""A WebSocket server that sends prepared frames as fast as the socket accepts them. It has no REST API.

    python -m bench.frames PORT TRADES

The simulator makes each frame when it is due, which on two cores limits the producer that reads them. This
server prepares TRADES trades of two symbols, prints ``ready``, and sends them to the first client. As from
Binance, frames are unmasked and unfragmented (RFC 6455, section 5).
"""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import struct
import sys
import time
from typing import Final

SYMBOLS: Final = ("BTCUSDT", "ETHUSDT")
_GUID: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""A constant of the WebSocket handshake (RFC 6455, section 1.3)."""
_FINAL_TEXT: Final = 0x81
_SIXTEEN_BITS: Final = 126
_TRADES_A_WRITE: Final = 256


def payload(number: int, time_ms: int) -> tuple[str, str]:
    """Return the symbol and the payload of the ``number``-th trade."""
    symbol = SYMBOLS[number % 2]
    at = time_ms + number // 100
    price = f"{61_000 + number % 997}.{number % 100:02}000000"
    quantity = f"0.{number % 99_999 + 1:05}000"
    is_maker = "true" if number % 3 else "false"
    return symbol, (
        f'{{"e":"trade","E":{at},"s":"{symbol}","t":{3_000_000_000 + number // 2},"p":"{price}",'
        f'"q":"{quantity}","T":{at},"m":{is_maker},"M":true}}'
    )


def payloads(count: int) -> list[tuple[str, str]]:
    """Return ``count`` trades that begin an hour ago, as (symbol, payload)."""
    time_ms = time.time_ns() // 1_000_000 - 3_600_000
    return [payload(number, time_ms) for number in range(count)]


def frame(symbol: str, text: str) -> bytes:
    """Return the trade as one frame of a combined stream."""
    message = f'{{"stream":"{symbol.lower()}@trade","data":{text}}}'.encode()
    return struct.pack("!BBH", _FINAL_TEXT, _SIXTEEN_BITS, len(message)) + message


def writes(count: int) -> list[bytes]:
    """Return the frames of ``count`` trades, joined into chunks for one socket write each."""
    frames = [frame(*one) for one in payloads(count)]
    return [b"".join(frames[at : at + _TRADES_A_WRITE]) for at in range(0, count, _TRADES_A_WRITE)]


def accept(client: socket.socket) -> None:
    """Do the server's part of the WebSocket handshake."""
    request = b""
    while b"\r\n\r\n" not in request:
        request += client.recv(4_096)
    key = re.search(rb"Sec-WebSocket-Key: *(\S+)", request, re.IGNORECASE)
    if key is None:
        raise ValueError(f"not a WebSocket handshake: {request[:200]!r}")
    digest = hashlib.sha1(key[1] + _GUID.encode(), usedforsecurity=False).digest()
    client.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
    )


def main() -> None:
    port, count = map(int, sys.argv[1:])
    prepared = writes(count)
    with socket.create_server(("127.0.0.1", port)) as server:
        print("ready", flush=True)
        client, _ = server.accept()
        with client:
            accept(client)
            for one in prepared:
                client.sendall(one)
            while client.recv(4_096):  # until the client disconnects
                pass


if __name__ == "__main__":
    main()
