"""A virtual clock that advances only while all tasks that run on it sleep."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from candleflow.exchange.rate_limit import RateLimiter, Share


class Clock:
    """A clock in seconds since the epoch. ``run`` takes no real time, however long the tasks sleep."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.slept: list[float] = []
        self._is_shared = False
        self._sleeping: list[tuple[float, int, asyncio.Future[None]]] = []

    def limiter(self, url: str, *, share: int = Share.FILLING, folder: Path | None = None) -> RateLimiter:
        return RateLimiter(url, share=share, folder=folder, sleep=self.sleep, now=lambda: self.now)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if not self._is_shared:
            self.now += seconds
            return
        awake = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleeping, (self.now + seconds, len(self.slept), awake))
        await awake

    async def run(self, *works: Coroutine[Any, Any, Any]) -> None:
        """Run these coroutines concurrently until all have ended."""
        self._is_shared = True
        tasks = [asyncio.create_task(work) for work in works]
        while not all(task.done() for task in tasks):
            for _ in range(10):
                await asyncio.sleep(0)
            if self._sleeping:
                self.now, _, awake = heapq.heappop(self._sleeping)
                awake.set_result(None)
        for task in tasks:
            task.result()
