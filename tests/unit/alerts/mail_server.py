"""A local mail server that rejects or hangs up at a chosen step."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

GREETING = ""
TEXT = "."
"""The steps that aren't commands: the greeting, and the text after DATA."""
HANGS_UP = "hangs up"


class MailServer(socketserver.ThreadingTCPServer):
    """``replies``: by command, GREETING or TEXT, the reply to give instead of success; or HANGS_UP."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, replies: Mapping[str, str]) -> None:
        self.replies = replies
        self.texts: list[bytes] = []
        """The texts of the e-mails that arrived completely."""
        super().__init__(("127.0.0.1", 0), _Session)

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Session(socketserver.StreamRequestHandler):
    server: MailServer
    yes: ClassVar[Mapping[str, str]] = {
        GREETING: "220 here",
        "EHLO": "250-here\r\n250 AUTH PLAIN",
        "AUTH": "235 welcome",
        "DATA": "354 go on",
        "QUIT": "221 bye",
    }

    def handle(self) -> None:
        if not self._answer(GREETING):
            return
        for line in self.rfile:
            command = line.split()[0].decode().upper()
            if not self._answer(command) or command == "QUIT":
                return
            if command == "DATA" and "DATA" not in self.server.replies and not self._take_text():
                return

    def _take_text(self) -> bool:
        text = b""
        for line in self.rfile:
            if line == b".\r\n":
                break
            text += line
        self.server.texts.append(text)
        return self._answer(TEXT)

    def _answer(self, step: str) -> bool:
        reply = self.server.replies.get(step) or self.yes.get(step, "250 yes")
        if reply == HANGS_UP:
            return False
        self.wfile.write(f"{reply}\r\n".encode())
        return True


@contextmanager
def mail_server(replies: Mapping[str, str]) -> Iterator[MailServer]:
    with MailServer(replies) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
