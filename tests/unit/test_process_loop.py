"""process_loop: how a process ends, and with which status."""

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
def test_the_exit_status_depends_on_what_ended_the_process(
    work: Callable[[], None], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_loop, "set_up_logging", lambda *_: None)  # pytest has the root logger
    assert exit_status("one", load(), work) == status


async def ends(error: Exception | None = None) -> None:
    if error is not None:
        raise error


@pytest.mark.parametrize("cause", ["stop", "SIGTERM", "SIGINT", "end"])
async def test_any_cause_of_the_end_cancels_every_task(cause: str) -> None:
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
    assert ended == [True], "the stop event is set before tasks are cancelled, so that threads see it"


async def test_the_error_of_a_task_is_raised() -> None:
    with pytest.raises(BrokerError, match="away"):
        await until_stopped(asyncio.Event(), asyncio.sleep(60), ends(BrokerError("away")))
