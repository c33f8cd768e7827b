"""Run a long-running process until a signal stops it, and compute its exit status."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from candleflow.errors import CandleflowError
from candleflow.settings import Settings
from candleflow.telemetry import set_up_logging

_log = logging.getLogger(__name__)


def exit_status(name: str, settings: Settings, work: Callable[[], None]) -> int:
    """Set up logging as process ``name``, call ``work``, and return the exit status."""
    set_up_logging(name, settings.log.level, settings.log.format)
    try:
        work()
    except CandleflowError as error:
        _log.error("%s", error, exc_info=settings.log.level == "DEBUG")
        return error.exit_status
    except Exception:  # noqa: BLE001 - the process ends here and logs why
        _log.exception("the %s stopped because of a bug; please report this traceback", name)
        return 1
    return 0


async def until_stopped(stop: asyncio.Event, *works: Coroutine[Any, Any, None]) -> None:
    """Run the coroutines concurrently until SIGTERM, SIGINT, ``stop`` is set, or one of them ends.

    Then set ``stop``, which stops work in threads, and cancel the others. Raises the first exception of a
    coroutine.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    tasks = [asyncio.ensure_future(work) for work in (stop.wait(), *works)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.set()
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for one in ended:
        if isinstance(one, Exception):
            raise one
