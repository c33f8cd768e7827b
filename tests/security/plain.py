"""A server without TLS that records what it receives, to check that clients send nothing in plain text."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


class PlainServer:
    """Answers the first bytes of each connection and records everything."""

    def __init__(self, listening: socket.socket, answer: bytes) -> None:
        self.port: int = listening.getsockname()[1]
        self.heard: list[bytes] = []
        self._listening = listening
        self._answer = answer

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return  # the test has closed it
            # One thread for each connection, because a client may keep one open and open another.
            threading.Thread(target=self._talk, args=[connection], daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(60)
            self.heard.append(connection.recv(4_096))
            connection.sendall(self._answer)
            while more := connection.recv(4_096):
                self.heard.append(more)


@contextlib.contextmanager
def plain_server(answer: bytes) -> Iterator[PlainServer]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = PlainServer(listening, answer)
        threading.Thread(target=server.serve, daemon=True).start()
        yield server
