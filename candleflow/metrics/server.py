"""The HTTP server of a process's pages, with a limited number of threads and a timeout per client.

It is read-only and has no login. On a loopback address it answers only requests whose Host header names this
machine: otherwise a foreign web page could read it by pointing its own name here (DNS rebinding).
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
"""Timeout of a client."""
_AT_ONCE: Final = 16
"""Maximum number of requests at a time; the connection of any further one is closed."""


class PageServer(ThreadingHTTPServer):
    """Serves in a background thread until ``close``. The constructor raises OSError if it can't listen."""

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
        """Bind without HTTPServer's DNS lookup, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def close(self) -> None:
        """Stop listening, within half a second."""
        self.shutdown()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a new thread, or close the connection if all are in use."""
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, then free the thread's place."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log at DEBUG only: clients disconnect all the time."""
        _log.debug("a metrics client disconnected", exc_info=True)


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
        """Log no requests: a scraper sends one every few seconds."""

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
