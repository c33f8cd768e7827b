"""Telegram's Bot API and Discord's webhooks on the loopback, as far as messages go.

They stand for nothing but those two servers: their paths, their statuses, their headers, their JSON. What
they answer next is said by ``answer_next``; otherwise they take the message.
"""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "123456789:AAcanary-Telegram-token-abcdefghijk"
CHAT = "4242"
GROUP = "-100987654"
WEBHOOK = "111222333444555666/canary-Discord-token-abcdefghijklmnop"
TELEGRAM = f"tgram://{TOKEN}/{CHAT}"
DISCORD = f"discord://{WEBHOOK}"
SECRETS = (TOKEN, TOKEN.partition(":")[2], WEBHOOK, WEBHOOK.partition("/")[2])


@dataclass(frozen=True)
class Reply:
    """What the server does with a request. ``hangs``: takes it, and never answers."""

    status: int = 200
    body: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    hangs: bool = False


def telegram_refusal(status: int, description: str, **parameters: int) -> Reply:
    more = {"parameters": parameters} if parameters else {}
    return Reply(status, {"ok": False, "error_code": status, "description": description, **more})


TELEGRAM_FLOOD = telegram_refusal(429, "Too Many Requests: retry after 1", retry_after=1)
TELEGRAM_BAD_TOKEN = telegram_refusal(401, "Unauthorized")
TELEGRAM_BLOCKED = telegram_refusal(403, "Forbidden: bot was blocked by the user")
TELEGRAM_BROKEN = telegram_refusal(500, "Internal Server Error")
DISCORD_FLOOD = Reply(
    429,
    {"message": "You are being rate limited.", "retry_after": 1.5, "global": False},
    {"Retry-After": "2", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset-After": "1.5"},
)
DISCORD_GONE = Reply(404, {"message": "Unknown Webhook", "code": 10015})
HANG = Reply(hangs=True)


class Messengers:
    """Both of them on one port, which tell by the path who is meant."""

    def __init__(self) -> None:
        self.replies: deque[Reply] = deque()
        self.messages: list[str] = []
        """The text of each message that was taken, a hung one's too."""
        self.requests: list[str] = []
        """The path of every request."""
        self.pictures = 0
        self.is_ending = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer_next(self, *replies: Reply) -> None:
        self.replies.extend(replies)

    @property
    def settings(self) -> dict[str, str]:
        """For settings and for processes."""
        return {"alert_telegram_url": self.url, "alert_discord_url": self.url}

    def take(self, path: str, content: bytes) -> Reply:
        """As the two do: what is not theirs is not found."""
        self.requests.append(path)
        if not _is_known(path):
            return telegram_refusal(404, "Not Found")
        reply = self.replies.popleft() if self.replies else Reply()
        if reply.status < 300:
            self.messages += _texts(content)
            self.pictures += b"\x89PNG" in content
        if reply.body or reply.hangs or reply.status != 200:
            return reply
        if "/sendMessage" in path or "Photo" in path:
            return Reply(200, {"ok": True, "result": {"message_id": len(self.messages)}}, reply.headers)
        return Reply(204, {}, {"X-RateLimit-Remaining": "4", **reply.headers})

    @contextmanager
    def serving(self) -> Iterator[Messengers]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self.is_ending.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        messengers = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                reply = messengers.take(self.path, content)
                if reply.hangs:
                    messengers.is_ending.wait(60)
                    self.close_connection = True
                    return
                body = json.dumps(reply.body).encode() if reply.body else b""
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def _is_known(path: str) -> bool:
    return path.startswith((f"/bot{TOKEN}/", f"/api/webhooks/{WEBHOOK}"))


def _texts(content: bytes) -> Sequence[str]:
    """Telegram's text, or Discord's content; of a form with a picture, its caption."""
    try:
        told = json.loads(content)
    except ValueError:
        found = re.search(rb'name="caption"\r\n\r\n(.*?)\r\n--', content, re.DOTALL)
        return [found[1].decode()] if found else []
    return [str(told.get("text") or told.get("content"))]


@contextmanager
def messengers() -> Iterator[Messengers]:
    with Messengers().serving() as serving:
        yield serving
