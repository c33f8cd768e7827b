"""How processes that run until told to stop come to their end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import pytest

from candleflow import process_loop
from candleflow.errors import BrokerError, SettingError
from candleflow.process_loop import exit_status, until_stopped
from candleflow.settings import load


def raising(error: Exception) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "status"),
    [
        (lambda: None, 0),
        (raising(BrokerError("Kafka is away")), 1),
        (raising(SettingError("no such symbol")), 2),
        (raising(ZeroDivisionError("a defect")), 1),
    ],
)
def test_the_exit_status_is_that_of_what_ended_the_work(
    work: Callable[[], None], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_loop, "set_up_logging", lambda *_: None)  # pytest has the root logger
    assert exit_status("one", load(), work) == status


async def ends(error: Exception | None = None) -> None:
    if error is not None:
        raise error


@pytest.mark.parametrize("cause", ["stop", "SIGTERM", "SIGINT", "end"])
async def test_the_works_end_together(cause: str) -> None:
    stop, ended = asyncio.Event(), []

    async def lasts() -> None:
        if cause == "stop":
            stop.set()
        elif cause != "end":
            os.kill(os.getpid(), getattr(signal, cause))
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(stop.is_set())

    await asyncio.wait_for(until_stopped(stop, lasts(), *([ends()] if cause == "end" else [])), 10)
    assert ended == [True], "what runs in threads is told before the others are cancelled"


async def test_what_a_work_raises_is_raised() -> None:
    with pytest.raises(BrokerError, match="away"):
        await until_stopped(asyncio.Event(), asyncio.sleep(60), ends(BrokerError("away")))
