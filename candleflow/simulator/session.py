"""One client's subscriptions at the simulator's WebSocket, and the replies to its requests. No socket.

Requests are JSON objects with ``method``, ``params`` and ``id``. A wrong request is answered with an error
code and message, and changes nothing.

Source: web-socket-streams.md, "Live Subscribing/Unsubscribing to streams".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

MAX_STREAMS: Final = 1_024
_METHODS: Final = "SUBSCRIBE, UNSUBSCRIBE, LIST_SUBSCRIPTIONS, SET_PROPERTY, GET_PROPERTY"
_UNSIGNED_LIMIT: Final = 2**64


class Event(NamedTuple):
    """One message of the live feed.

    ``text`` is the data object alone, with times in milliseconds; ``text_us`` has them in microseconds.
    ``symbol`` and ``trade_id`` are set for trades. ``stream`` is empty if the message belongs to no stream.
    A ``line`` is sent unchanged to every client, whatever its subscriptions.
    """

    stream: str
    text: str
    text_us: str
    symbol: str = ""
    trade_id: int = -1
    line: str | None = None


class RequestError(Exception):
    """A wrong request, with Binance's error code and message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(slots=True)
class Session:
    """The streams of one connection, and the format of its messages."""

    streams: dict[str, None] = field(default_factory=dict)
    """In the order of subscription."""
    is_combined: bool = False
    in_microseconds: bool = False

    @classmethod
    def of_path(cls, path: str) -> Session | None:
        """Return the session for a WebSocket handshake at ``path``; None if there is no WebSocket.

        Paths are ``/ws``, ``/ws/<stream>/<stream>``, ``/stream`` and ``/stream?streams=<stream>/<stream>``,
        each optionally with ``timeUnit=MICROSECOND``. Raises RequestError for too many streams.
        """
        url = urlsplit(path)
        query = parse_qs(url.query)
        session = cls(in_microseconds=query.get("timeUnit", [""])[0].upper() == "MICROSECOND")
        if url.path == "/stream":
            session.is_combined = True
            session.subscribe("/".join(query.get("streams", [])).split("/"))
        elif url.path == "/ws" or url.path.startswith("/ws/"):
            session.subscribe(unquote(url.path).split("/")[2:])
        else:
            return None
        return session

    def subscribe(self, streams: Iterable[str]) -> None:
        wanted = self.streams | dict.fromkeys(stream for stream in streams if stream)
        if len(wanted) > MAX_STREAMS:
            raise RequestError(2, f"Invalid request: more than {MAX_STREAMS} streams")
        self.streams = wanted

    def wants(self, event: Event) -> bool:
        return event.stream in self.streams or event.line is not None

    def frame(self, event: Event) -> str:
        """Return the event in this client's format."""
        if event.line is not None:
            return event.line
        return self.wrap(event.stream, event.text_us if self.in_microseconds else event.text)

    def wrap(self, stream: str, text: str) -> str:
        return f'{{"stream":"{stream}","data":{text}}}' if self.is_combined else text

    def answer(self, request: str | bytes) -> str:
        """Carry out a client's request, and return the reply."""
        request_id: Any = None
        try:
            fields = _parse(request)
            request_id = _request_id(fields)
            result = self._do(_method(fields), fields.get("params", []))
        except RequestError as error:
            reply: dict[str, Any] = {"code": error.code, "msg": error.message}
            return _compact(reply if request_id is None else reply | {"id": request_id})
        return _compact({"result": result, "id": request_id})

    def _do(self, method: str, params: Any) -> Any:
        actions: dict[str, Callable[[Any], Any]] = {
            "SUBSCRIBE": lambda params: self.subscribe(_streams(params)),
            "UNSUBSCRIBE": self._unsubscribe,
            "LIST_SUBSCRIPTIONS": lambda params: list(self.streams),
            "SET_PROPERTY": self._set_property,
            "GET_PROPERTY": self._get_property,
        }
        if method not in actions:
            raise RequestError(2, f"Invalid request: unknown variant `{method}`, expected one of {_METHODS}")
        return actions[method](params)

    def _unsubscribe(self, params: Any) -> None:
        for stream in _streams(params):
            self.streams.pop(stream, None)

    def _set_property(self, params: Any) -> None:
        if not isinstance(params, list) or len(params) != 2:
            raise RequestError(2, "Invalid request: too many parameters")
        _check_property(params[0])
        if not isinstance(params[1], bool):
            raise RequestError(1, "Invalid value type: expected Boolean")
        self.is_combined = params[1]

    def _get_property(self, params: Any) -> bool:
        if not isinstance(params, list) or len(params) != 1:
            raise RequestError(2, "Invalid request: too many parameters")
        _check_property(params[0])
        return self.is_combined


def _check_property(name: Any) -> None:
    if not isinstance(name, str):
        raise RequestError(2, "Invalid request: property name must be a string")
    if name != "combined":
        raise RequestError(0, "Unknown property")


def _parse(request: str | bytes) -> dict[str, Any]:
    try:
        fields = json.loads(request)
    except (ValueError, RecursionError):
        raise RequestError(3, "Invalid JSON: expected value at line 1 column 1") from None
    if not isinstance(fields, dict):
        raise RequestError(2, "Invalid request: expected an object")
    return fields


def _method(fields: dict[str, Any]) -> str:
    method = fields.get("method")
    if not isinstance(method, str):
        raise RequestError(2, "Invalid request: missing field `method` at line 1 column 1")
    return method


def _request_id(fields: dict[str, Any]) -> int | str | None:
    request_id = fields.get("id")
    if isinstance(request_id, bool) or not isinstance(request_id, int | str | None):
        raise RequestError(2, "Invalid request: request ID must be an unsigned integer")
    if isinstance(request_id, int) and not 0 <= request_id < _UNSIGNED_LIMIT:
        raise RequestError(2, "Invalid request: request ID must be an unsigned integer")
    return request_id


def _streams(params: Any) -> list[str]:
    if not isinstance(params, list) or not all(isinstance(stream, str) for stream in params):
        raise RequestError(2, "Invalid request: params must be an array of strings")
    return params


def _compact(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"))
