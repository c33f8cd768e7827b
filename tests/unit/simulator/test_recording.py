"""Replaying a recording: what is sent and when, how times are shifted, and the history it leaves."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from candleflow.errors import ExchangeError
from candleflow.simulator.audience import Audience
from candleflow.simulator.recording import Recording
from candleflow.simulator.session import Event

FIRST_MS: Final = 1_723_161_255_343


class Listeners(Audience):
    """An audience that records all events and their times."""

    def __init__(self) -> None:
        super().__init__()
        self.streams = frozenset({"btcusdt@trade"})
        self.events: list[Event] = []
        self.moments: list[float] = []
        self.waited_for: list[int] = []

    def publish(self, events: Sequence[Event]) -> None:
        self.events.extend(events)
        self.moments.extend([time.monotonic()] * len(events))

    async def subscribed(self, count: int = 1) -> None:
        self.waited_for.append(count)


def trade(trade_id: int, after_ms: int = 0, symbol: str = "BTCUSDT", price: str = "61837.63000000") -> str:
    return json.dumps(
        {
            "e": "trade", "E": FIRST_MS + after_ms, "s": symbol, "t": trade_id, "p": price,
            "q": "0.02000000", "T": FIRST_MS + after_ms - 1, "m": True, "M": True,
        },
        separators=(",", ":"),
    )  # fmt: skip


def combined(data: str, stream: str = "btcusdt@trade") -> str:
    return f'{{"stream":"{stream}","data":{data}}}'


def recording_of(folder: Path, lines: Sequence[str], **options: Any) -> Recording:
    file = folder / "recording.ws.jsonl.gz"
    with gzip.open(file, "wt") as output:
        output.writelines(line + "\n" for line in lines)
    return Recording(file, **options)


async def played(recording: Recording) -> Listeners:
    listeners = Listeners()
    await recording.play(listeners)
    return listeners


async def test_messages_are_sent_unchanged_and_in_order(tmp_path: Path) -> None:
    depth = '{"e":"depthUpdate","E":1723161255343,"s":"BTCUSDT","b":[["1","2"]]}'
    lines = [combined(trade(1)), combined(depth, "btcusdt@depth"), combined(trade(2))]
    recording = recording_of(tmp_path, lines, speed=0)
    listeners = await played(recording)
    assert [(event.stream, event.text) for event in listeners.events] == [
        ("btcusdt@trade", trade(1)), ("btcusdt@depth", depth), ("btcusdt@trade", trade(2)),
    ]  # fmt: skip
    assert recording.played is not None
    assert recording.played.messages == 3


async def test_with_every_line_even_those_of_no_stream_are_sent(tmp_path: Path) -> None:
    lines = [
        combined(trade(1)),
        '{"lastUpdateId":1,"bids":[],"asks":[]}',
        '{"stream":"btcusdt@trade","da',
        "é",
    ]
    listeners = await played(recording_of(tmp_path, lines, speed=0, every_line=True))
    assert [event.line for event in listeners.events] == lines
    listeners = await played(recording_of(tmp_path, lines, speed=0))
    assert [(event.text, event.line) for event in listeners.events] == [(trade(1), None)]


async def test_bare_payloads_come_on_their_symbols_streams(tmp_path: Path) -> None:
    listeners = await played(recording_of(tmp_path, [trade(1), trade(9, symbol="ETHUSDT")], speed=0))
    assert [event.stream for event in listeners.events] == ["btcusdt@trade", "ethusdt@trade"]


async def test_a_plain_file_does_as_well(tmp_path: Path) -> None:
    file = tmp_path / "recording.jsonl"
    file.write_text(combined(trade(1)) + "\n\n" + combined(trade(2)))
    assert len((await played(Recording(file, speed=0))).events) == 2


@pytest.mark.parametrize("speed", [1.0, 4.0])
async def test_messages_keep_their_spacing(tmp_path: Path, speed: float) -> None:
    lines = [combined(trade(number, number * 200)) for number in range(3)]
    moments = (await played(recording_of(tmp_path, lines, speed=speed))).moments
    for number, moment in enumerate(moments):
        assert number * 0.2 / speed - 0.005 <= moment - moments[0] < number * 0.2 / speed + 0.3


async def test_a_shift_moves_both_times_alike_to_now_and_nothing_else(tmp_path: Path) -> None:
    lines = [combined(trade(1)), combined(trade(2, 37))]
    before_ms = time.time_ns() // 1_000_000
    listeners = await played(recording_of(tmp_path, lines, is_shifted=True))
    first, second = (json.loads(event.text) for event in listeners.events)
    shift = first["E"] - FIRST_MS
    assert before_ms <= first["E"] <= time.time_ns() // 1_000_000
    assert first == json.loads(trade(1)) | {"E": FIRST_MS + shift, "T": FIRST_MS - 1 + shift}
    assert second == json.loads(trade(2)) | {"E": FIRST_MS + 37 + shift, "T": FIRST_MS + 36 + shift}


async def test_a_quick_replay_that_is_shifted_dates_nothing_in_the_future(tmp_path: Path) -> None:
    lines = [combined(trade(number, number * 60_000)) for number in range(10)]
    listeners = await played(recording_of(tmp_path, lines, is_shifted=True, speed=0))
    last = json.loads(listeners.events[-1].text)
    assert -5_000 < last["E"] - time.time_ns() // 1_000_000 <= 0


async def test_a_shift_keeps_microseconds(tmp_path: Path) -> None:
    in_us = trade(1).replace(str(FIRST_MS), f"{FIRST_MS}123").replace(str(FIRST_MS - 1), f"{FIRST_MS - 1}456")
    listeners = await played(recording_of(tmp_path, [combined(in_us)], is_shifted=True, speed=0))
    sent = json.loads(listeners.events[0].text)
    assert (sent["E"] % 1_000, sent["T"] % 1_000) == (123, 456)
    assert abs(sent["E"] // 1_000 - time.time_ns() // 1_000_000) < 60_000


async def test_every_line_is_shifted_too(tmp_path: Path) -> None:
    depth = combined(f'{{"e":"depthUpdate","E":{FIRST_MS},"u":1723161255343}}', "btcusdt@depth")
    lines = [combined(trade(1)), depth]
    listeners = await played(recording_of(tmp_path, lines, is_shifted=True, speed=0, every_line=True))
    shifted = [json.loads(event.line or "")["data"] for event in listeners.events]
    assert shifted[0]["E"] == shifted[1]["E"] > FIRST_MS
    assert shifted[1]["u"] == 1723161255343


async def test_history_holds_what_was_played_in_the_order_of_ids_and_each_trade_once(tmp_path: Path) -> None:
    lines = [combined(trade(number, number)) for number in (1, 2, 5, 4, 2, 6)]
    recording = recording_of(tmp_path, lines, speed=0)
    assert recording.id_range("BTCUSDT", 0) == (0, 0)
    assert list(recording.trades("BTCUSDT", (0, 10))) == []
    await played(recording)
    assert recording.id_range("BTCUSDT", 0) == (1, 7)
    assert [one.trade_id for one in recording.trades("BTCUSDT", (2, 6))] == [2, 4, 5]
    assert recording.present(10**17) == (FIRST_MS + 5) * 1_000


@pytest.mark.parametrize("order", [(1, 2, 3, 4, 5), (5, 3, 4, 1, 2), (1, 5, 2, 4, 3)])
async def test_aggregates_are_the_same_whatever_the_order_of_arrival(
    tmp_path: Path, order: tuple[int, ...]
) -> None:
    prices = {1: "7.0", 2: "7.0", 3: "8.0", 4: "7.0", 5: "7.0"}
    lines = [combined(trade(number, price=prices[number])) for number in order]
    recording = recording_of(tmp_path, lines, speed=0)
    await played(recording)
    assert [recording.aggregate_of("BTCUSDT", number) for number in range(1, 6)] == [1, 1, 2, 3, 3]
    assert [recording.aggregate_start("BTCUSDT", number) for number in range(1, 5)] == [1, 3, 4, 6]


async def test_a_broken_trade_is_sent_but_is_no_history(tmp_path: Path) -> None:
    broken = trade(2).replace('"61837.63000000"', '"-1"')
    recording = recording_of(tmp_path, [combined(trade(1)), combined(broken)], speed=0)
    listeners = await played(recording)
    assert [event.text for event in listeners.events] == [trade(1), broken]
    assert recording.id_range("BTCUSDT", 0) == (1, 2)


async def test_it_begins_when_as_many_streams_are_wanted_as_were_asked_for(tmp_path: Path) -> None:
    recording = recording_of(tmp_path, [combined(trade(1))], speed=0, wait_for=2)
    assert (await played(recording)).waited_for[0] == 2


def test_only_recorded_symbols_are_listed(tmp_path: Path) -> None:
    recording = recording_of(tmp_path, [combined(trade(1)), combined("{}", "ethusdt@bookTicker")])
    assert [listing.symbol for listing in recording.listings()] == ["BTCUSDT"]
    assert recording.listing("ETHUSDT") is None


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("absent.jsonl", None, "can't be read"),
        ("empty.jsonl", b"", "has no trade"),
        ("other.jsonl", b'{"a":1}\n{"b":2}\n', "has no trade"),
        ("not.ws.jsonl.gz", b"plain text", "can't be read"),
        ("cut.ws.jsonl.gz", gzip.compress(combined(trade(1)).encode() * 100)[:-20], "can't be read"),
        ("binary.jsonl", b"\xff\xfe\x00" * 100, "has no trade"),
    ],
)
def test_a_file_that_is_no_recording_is_named(
    tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ExchangeError, match=words) as raised:
        Recording(file)
    assert name in str(raised.value)
