"""Requests to the simulator's WebSocket and their replies, as a table."""

from __future__ import annotations

import json
from typing import Any

import pytest

from candleflow.exchange.messages import ControlReply, decode
from candleflow.simulator.session import MAX_STREAMS, Event, RequestError, Session

EVENT = Event("btcusdt@trade", '{"T":1}', '{"T":1000}')


@pytest.mark.parametrize(
    ("path", "streams", "is_combined", "in_microseconds"),
    [
        ("/ws", [], False, False),
        ("/ws/", [], False, False),
        ("/ws/btcusdt@trade", ["btcusdt@trade"], False, False),
        ("/ws/btcusdt@trade/ethusdt@trade", ["btcusdt@trade", "ethusdt@trade"], False, False),
        ("/ws/btcusdt%40trade", ["btcusdt@trade"], False, False),
        ("/ws/btcusdt@trade?timeUnit=MICROSECOND", ["btcusdt@trade"], False, True),
        ("/stream", [], True, False),
        ("/stream?streams=", [], True, False),
        ("/stream?streams=btcusdt@trade/ethusdt@trade", ["btcusdt@trade", "ethusdt@trade"], True, False),
        (
            "/stream?streams=btcusdt%40trade%2Fethusdt%40trade",
            ["btcusdt@trade", "ethusdt@trade"],
            True,
            False,
        ),
        ("/stream?streams=btcusdt@trade/btcusdt@trade", ["btcusdt@trade"], True, False),
        ("/stream?streams=btcusdt@trade&timeUnit=microsecond", ["btcusdt@trade"], True, True),
        ("/stream?streams=btcusdt@trade&timeUnit=MILLISECOND", ["btcusdt@trade"], True, False),
    ],
)
def test_a_path_opens_its_session(
    path: str, streams: list[str], is_combined: bool, in_microseconds: bool
) -> None:
    session = Session.of_path(path)
    assert session is not None
    assert list(session.streams) == streams
    assert (session.is_combined, session.in_microseconds) == (is_combined, in_microseconds)


@pytest.mark.parametrize("path", ["/", "/wsx", "/streams", "/api/v3/time", "/ws2/btcusdt@trade"])
def test_other_paths_open_none(path: str) -> None:
    assert Session.of_path(path) is None


def test_the_form_of_a_frame_is_the_sessions() -> None:
    assert Session().frame(EVENT) == '{"T":1}'
    assert Session(is_combined=True).frame(EVENT) == '{"stream":"btcusdt@trade","data":{"T":1}}'
    assert Session(in_microseconds=True).frame(EVENT) == '{"T":1000}'


REQUESTS: list[tuple[Any, Any]] = [
    ({"method": "SUBSCRIBE", "params": ["x@trade"], "id": 1}, {"result": None, "id": 1}),
    ({"method": "SUBSCRIBE", "params": [], "id": "word"}, {"result": None, "id": "word"}),
    ({"method": "UNSUBSCRIBE", "params": ["btcusdt@trade", "x"], "id": 312}, {"result": None, "id": 312}),
    ({"method": "LIST_SUBSCRIPTIONS", "id": 3}, {"result": ["btcusdt@trade"], "id": 3}),
    ({"method": "SET_PROPERTY", "params": ["combined", True], "id": 5}, {"result": None, "id": 5}),
    ({"method": "GET_PROPERTY", "params": ["combined"], "id": 2}, {"result": False, "id": 2}),
    (
        {"method": "SET_PROPERTY", "params": ["other", True], "id": 1},
        {"code": 0, "msg": "Unknown property", "id": 1},
    ),
    (
        {"method": "SET_PROPERTY", "params": ["combined", "yes"], "id": 1},
        {"code": 1, "msg": "Invalid value type: expected Boolean", "id": 1},
    ),
    (
        {"method": "SET_PROPERTY", "params": [1, True], "id": 1},
        {"code": 2, "msg": "Invalid request: property name must be a string", "id": 1},
    ),
    (
        {"method": "SET_PROPERTY", "params": ["combined", True, 1], "id": 1},
        {"code": 2, "msg": "Invalid request: too many parameters", "id": 1},
    ),
    (
        {"method": "SUBSCRIBE", "params": ["x"], "id": -1},
        {"code": 2, "msg": "Invalid request: request ID must be an unsigned integer"},
    ),
    (
        {"method": "SUBSCRIBE", "params": ["x"], "id": 1.5},
        {"code": 2, "msg": "Invalid request: request ID must be an unsigned integer"},
    ),
    (
        {"method": "SUBSCRIBE", "params": "x@trade", "id": 1},
        {"code": 2, "msg": "Invalid request: params must be an array of strings", "id": 1},
    ),
    (
        {"params": ["x"], "id": 1},
        {"code": 2, "msg": "Invalid request: missing field `method` at line 1 column 1", "id": 1},
    ),
    ([1], {"code": 2, "msg": "Invalid request: expected an object"}),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "reply"), REQUESTS)
def test_each_request_has_its_reply(request_: Any, reply: Any) -> None:
    session = Session.of_path("/ws/btcusdt@trade")
    assert session is not None
    answer = session.answer(json.dumps(request_))
    assert json.loads(answer) == reply
    assert isinstance(decode(answer.encode(), (), 0, 0), ControlReply)


@pytest.mark.parametrize("request_", ["", "{", b"\xff", "[" * 100_000])
def test_invalid_json_is_reported_as_such(request_: str | bytes) -> None:
    assert json.loads(Session().answer(request_))["code"] == 3


def test_an_unknown_method_is_named_with_those_that_are_known() -> None:
    reply = json.loads(Session().answer('{"method":"DANCE","id":1}'))
    assert reply["code"] == 2
    assert "unknown variant `DANCE`, expected one of SUBSCRIBE, UNSUBSCRIBE" in reply["msg"]


def test_what_is_granted_is_done() -> None:
    session = Session()
    session.answer('{"method":"SUBSCRIBE","params":["a@trade","b@trade"],"id":1}')
    session.answer('{"method":"UNSUBSCRIBE","params":["a@trade"],"id":2}')
    session.answer('{"method":"SET_PROPERTY","params":["combined",true],"id":3}')
    assert list(session.streams) == ["b@trade"]
    assert session.is_combined


def test_more_streams_than_the_limit_are_refused_and_change_nothing() -> None:
    session = Session()
    session.subscribe(f"s{number}@trade" for number in range(MAX_STREAMS))
    assert "code" in json.loads(session.answer('{"method":"SUBSCRIBE","params":["one@trade"],"id":1}'))
    assert "code" not in json.loads(session.answer('{"method":"SUBSCRIBE","params":["s0@trade"],"id":1}'))
    assert len(session.streams) == MAX_STREAMS
    with pytest.raises(RequestError):
        Session.of_path(
            "/stream?streams=" + "/".join(f"s{number}@trade" for number in range(MAX_STREAMS + 1))
        )
