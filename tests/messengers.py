"""Local test doubles of Telegram's Bot API and Discord's webhooks, for messages and pictures.

They imitate the paths, statuses, headers and JSON of the two servers. ``answer_next`` sets the next replies
to messages, ``answer_next_picture`` those to pictures. Without a set reply, a valid request succeeds.
"""

from __future__ import annotations

import io
import json
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

TOKEN = "123456789:AAcanary-Telegram-token-abcdefghijk"
CHAT = "4242"
GROUP = "-100987654"
WEBHOOK = "111222333444555666/canary-Discord-token-abcdefghijklmnop"
TELEGRAM = f"tgram://{TOKEN}/{CHAT}"
DISCORD = f"discord://{WEBHOOK}"
SECRETS = (TOKEN, TOKEN.partition(":")[2], WEBHOOK, WEBHOOK.partition("/")[2])


@dataclass(frozen=True)
class Reply:
    """What the server does with a request. ``hangs``: it accepts the request but never answers."""

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
TELEGRAM_NO_TEXT = telegram_refusal(400, "Bad Request: message text is empty")
TELEGRAM_NO_CHAT = telegram_refusal(400, "Bad Request: chat_id is empty")
TELEGRAM_NO_PHOTO = telegram_refusal(400, "Bad Request: there is no photo in the request")
TELEGRAM_NO_IMAGE = telegram_refusal(400, "Bad Request: IMAGE_PROCESS_FAILED")
DISCORD_EMPTY = Reply(400, {"message": "Cannot send an empty message", "code": 50006})


@dataclass(frozen=True)
class Form:
    """The content of a request: fields, and for a multipart form also files."""

    fields: Mapping[str, Any]
    files: Mapping[str, bytes]

    @classmethod
    def of(cls, content_type: str, content: bytes) -> Form:
        if not content_type.startswith("multipart/form-data"):
            return cls(json.loads(content or b"{}"), {})
        parsed = BytesParser(policy=HTTP).parsebytes(
            f"Content-Type: {content_type}\r\n\r\n".encode() + content
        )
        fields: dict[str, Any] = {}
        files: dict[str, bytes] = {}
        for part in parsed.iter_parts():
            name = str(part.get_param("name", header="content-disposition"))
            data = bytes(part.get_payload(decode=True))
            if part.get_filename():
                files[name] = data
            elif name == "payload_json":
                fields |= json.loads(data)
            else:
                fields[name] = data.decode()
        return cls(fields, files)


class Messengers:
    """Both servers on one port; the path of a request says which one it is for."""

    def __init__(self) -> None:
        self.replies: deque[Reply] = deque()
        self.picture_replies: deque[Reply] = deque()
        self.messages: list[str] = []
        """Texts of all accepted messages, including those that were never answered."""
        self.paths: list[str] = []
        """Request path of each message in ``messages``."""
        self.times: list[int] = []
        """Arrival time of each message in ``messages``, in microseconds since the epoch."""
        self.requests: list[str] = []
        """Paths of all requests without a file."""
        self.chats: list[str] = []
        """Chat ids of all requests that have one."""
        self.picture_requests: list[str] = []
        """Paths of all requests with a file."""
        self.pictures: list[bytes] = []
        """All accepted files, including those that were never answered."""
        self.is_ending = threading.Event()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer_next(self, *replies: Reply) -> None:
        self.replies.extend(replies)

    def answer_next_picture(self, *replies: Reply) -> None:
        self.picture_replies.extend(replies)

    @property
    def settings(self) -> dict[str, str]:
        """Settings that make our programs use these servers."""
        return {"alert_telegram_url": self.url, "alert_discord_url": self.url}

    def take(self, path: str, content_type: str, content: bytes) -> Reply:
        """Answer like the real servers: 404 for an unknown path, 400 for a message without content."""
        at = time.time_ns() // 1_000
        with self._lock:
            return self._take(path, Form.of(content_type, content), at)

    def _take(self, path: str, form: Form, at: int) -> Reply:
        (self.picture_requests if form.files else self.requests).append(path)
        self.chats += [str(form.fields["chat_id"])] if "chat_id" in form.fields else []
        if not _is_known(path):
            return telegram_refusal(404, "Not Found")
        planned = self.picture_replies if form.files else self.replies
        reply = planned.popleft() if planned else _refusal(path, form) or Reply()
        if reply.status < 300:
            for text in (str(form.fields[name]) for name in _TEXTS if form.fields.get(name)):
                self.paths.append(path)
                self.times.append(at)
                self.messages.append(text)
            self.pictures += form.files.values()
        if reply.body or reply.hangs or reply.status != 200:
            return reply
        if path.startswith("/bot"):
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
                reply = messengers.take(self.path, self.headers.get("Content-Type", ""), content)
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


_TEXTS = ("text", "content", "caption")


def _is_known(path: str) -> bool:
    return path.startswith((f"/bot{TOKEN}/", f"/api/webhooks/{WEBHOOK}"))


def _refusal(path: str, form: Form) -> Reply | None:
    """Return the real servers' error for a request without text, chat or picture; None if it is valid."""
    if path.startswith("/api/"):
        return None if form.files or form.fields.get("content") else DISCORD_EMPTY
    if not form.fields.get("chat_id"):
        return TELEGRAM_NO_CHAT
    if path.lower().endswith("/sendmessage"):
        return None if form.fields.get("text") else TELEGRAM_NO_TEXT
    photo = form.files.get("photo")
    if photo is None:
        return TELEGRAM_NO_PHOTO
    try:
        with Image.open(io.BytesIO(photo)) as image:
            image.verify()
    except (OSError, SyntaxError):
        return TELEGRAM_NO_IMAGE
    return None


@contextmanager
def messengers() -> Iterator[Messengers]:
    with Messengers().serving() as serving:
        yield serving
