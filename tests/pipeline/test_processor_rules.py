"""When the processor has read the whole topic and closes the candles that have ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from candleflow import settings
from candleflow.broker.offsets import Latest
from candleflow.processor.process import GRACE_SECONDS, _Processor
from candleflow.stack.spark import spark_files


class RecordClock:
    """A clock by which records have the time of the monotonic clock."""

    def at(self, moment: float) -> int:
        return round(moment * 1e6)


@dataclass
class Sink:
    """A sink that has read up to ``offsets`` and is busy with a batch for the next ``busy`` calls."""

    offsets: dict[int, int]
    busy: int = 0
    waits_for: str = ""
    record_clock: RecordClock = field(default_factory=RecordClock)
    closed: list[int] = field(default_factory=list)

    def close_quiet_candles(self, until: int) -> bool:
        self.busy -= 1
        if self.busy >= 0:
            return False
        self.closed.append(until)
        return True


@dataclass
class Ends:
    latest: Latest | None


@pytest.fixture
def processor(tmp_path: Path) -> _Processor:
    loaded = settings.load(data_dir=tmp_path)
    return _Processor(loaded, partial(spark_files, loaded, "test"))


def ask(processor: _Processor, sink: Any, times: int) -> None:
    for _ in range(times):
        processor._close_quiet_candles(sink)


@pytest.mark.parametrize(
    ("offsets", "has_read_all"),
    [
        ({0: 10, 1: 5}, True),
        ({0: 12, 1: 5}, True),  # it has also read what came after the end was looked up
        ({0: 9, 1: 6}, False),
        ({0: 10}, False),
    ],
)
def test_it_has_read_all_when_it_is_at_the_end_of_the_topic_or_beyond(
    processor: _Processor, offsets: dict[int, int], has_read_all: bool
) -> None:
    sink = Sink(offsets)
    processor._end_offsets = Ends(Latest(1_000.0, "", {0: 10, 1: 5}))  # type: ignore[assignment]
    ask(processor, sink, 3)
    assert sink.closed == ([int((1_000 - GRACE_SECONDS) * 1e6)] if has_read_all else [])


def test_while_a_batch_runs_closing_is_retried(processor: _Processor) -> None:
    sink = Sink({0: 10}, busy=2)
    processor._end_offsets = Ends(Latest(1_000.0, "", {0: 10}))  # type: ignore[assignment]
    ask(processor, sink, 2)
    assert sink.closed == []
    ask(processor, sink, 5)
    assert len(sink.closed) == 1


def test_while_postgresql_is_away_it_is_asked_once_a_second(processor: _Processor) -> None:
    sink = Sink({0: 10}, busy=100, waits_for="PostgreSQL")
    processor._end_offsets = Ends(Latest(1_000.0, "", {0: 10}))  # type: ignore[assignment]
    ask(processor, sink, 5)
    assert sink.busy == 99
