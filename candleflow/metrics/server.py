"""The HTTP server of a process's pages: threads of its own, bounded in number and time.

Whoever asks gets figures and words, and can change nothing. On a loopback address only names of this machine
are answered, as a web page elsewhere could have its own name point here (DNS rebinding).
"""

from __future__ import annotations

import logging
import socket
import socketserver
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import urlsplit

from candleflow.metrics.pages import Answer, Pages
from candleflow.proxies import is_loopback

_log = logging.getLogger(__name__)

_SECONDS: Final = 5.0
"""A client that is slower than this is given up."""
_AT_ONCE: Final = 16
"""So many are answered at once; others are turned away."""


class PageServer(ThreadingHTTPServer):
    """Serves from the moment it is made until ``close``. Raises OSError where it can't listen."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, pages: Pages, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.pages = pages
        self.is_private = is_loopback(host)
        self._places = threading.BoundedSemaphore(_AT_ONCE)
        super().__init__((host, port), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def server_bind(self) -> None:
        """Without HTTPServer's question to the name service, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def close(self) -> None:
        """Stop listening; takes half a second at most."""
        self.shutdown()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own, if there is a place."""
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and give back the place."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""
        _log.debug("a client of the metrics went away", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    timeout = _SECONDS
    server_version = "candleflow"
    sys_version = ""

    def do_GET(self) -> None:
        self._send(self._answer(), with_body=True)

    def do_HEAD(self) -> None:
        self._send(self._answer(), with_body=False)

    def log_message(self, *_: object) -> None:
        """A line for each question would be many."""

    def _answer(self) -> Answer:
        asked = self.headers.get("Host", "")
        if self.server.is_private and not is_loopback(_host_of(asked)):
            return Answer(HTTPStatus.MISDIRECTED_REQUEST, b"not a name of this machine\n")
        return self.server.pages.answer(self.path.partition("?")[0])

    def _send(self, answer: Answer, *, with_body: bool) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if with_body:
            self.wfile.write(answer.body)


def _host_of(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""
