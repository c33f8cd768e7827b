"""The simulated exchange with faults that a test changes through a file while it runs.

    python -m tests.faults.unruly_exchange --port 9443 --rate 200 --seed 1 --symbols BTCUSDT --orders FILE

``FILE`` is JSON (``Orders.write``). The history that REST serves is always complete. Faults concern the
stream and the rate limit of REST.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from candleflow.simulator.audience import Faults
from candleflow.simulator.market import SeededMarket
from candleflow.simulator.server import Simulator, Timing
from candleflow.simulator.session import Event

_POLL_SECONDS = 0.05
_NOTICE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Orders:
    """The file through which a test requests faults."""

    file: Path

    def write(self, **orders: Any) -> None:
        """Request faults, which replace those of the last call. Arguments are the fields of ``Faults`` and:

        - ``lifetime_seconds``: lifetime of new connections
        - ``omit_every``: leave out each trade whose id is a multiple of this
        - ``delay_every``: send each trade whose id is a multiple of this after the next ones
        - ``is_halted``: stop trading, permanently
        - ``shut_down``: a number; when it changes, the server announces that it goes down
        """
        beside = self.file.with_suffix(".tmp")
        beside.write_text(json.dumps(orders))
        beside.replace(self.file)


class _Every:
    """A set of trade ids: the multiples of ``one_in``."""

    def __init__(self, one_in: int) -> None:
        self._one_in = one_in

    def __contains__(self, trade_id: object) -> bool:
        return isinstance(trade_id, int) and trade_id % self._one_in == 0


class HaltingMarket(SeededMarket):
    """A market whose history has no new trades after ``halt``; its feed goes on."""

    halted_at: int | None = None

    def halt(self) -> None:
        self.halted_at = self.halted_at or time.time_ns() // 1_000

    def present(self, now: int) -> int:
        return min(now, self.halted_at or now)

    def id_range(self, symbol: str, now: int) -> tuple[int, int]:
        return super().id_range(symbol, self.present(now))

    def id_at(self, symbol: str, time: int) -> int:
        return super().id_at(symbol, self.present(time))


class UnrulyExchange(Simulator):
    """A simulator that can also send some trades late, after newer ones."""

    delay_every = 0
    _delayed: tuple[Event, ...] = ()

    def publish(self, events: Sequence[Event]) -> None:
        late = [one for one in events if self.delay_every and one.trade_id % self.delay_every == 0]
        in_time = [one for one in events if one not in late]
        super().publish([*in_time, *self._delayed])
        self._delayed = tuple(late)


async def _obey(
    simulator: UnrulyExchange, market: HaltingMarket, timing: Timing, file: Path, symbols: Sequence[str]
) -> None:
    """Poll the file, and apply its faults whenever it has changed."""
    said, shut_down = "", 0
    ending: set[asyncio.Task[None]] = set()
    while True:
        text = file.read_text() if file.exists() else "{}"
        if text != said:
            said, orders = text, json.loads(text)
            timing.lifetime_seconds = orders.pop("lifetime_seconds", Timing().lifetime_seconds)
            simulator.delay_every = orders.pop("delay_every", 0)
            omitted = orders.pop("omit_every", 0)
            wanted = orders.pop("shut_down", shut_down)
            if is_halted := orders.pop("is_halted", False):
                market.halt()
            faults = Faults(**orders)
            faults.is_silent |= is_halted
            if omitted:
                faults.omit_ids = dict.fromkeys(symbols, _Every(omitted))
            simulator.faults = faults
            if wanted != shut_down:
                ending.add(asyncio.create_task(simulator.shut_down_clients(_NOTICE_SECONDS)))
            shut_down = wanted
        await asyncio.sleep(_POLL_SECONDS)


async def _serve(arguments: argparse.Namespace) -> None:
    symbols = arguments.symbols.split(",")
    timing = Timing()
    market = HaltingMarket(arguments.seed, arguments.rate, symbols)
    async with UnrulyExchange(market, port=arguments.port, timing=timing) as simulator:
        await _obey(simulator, market, timing, arguments.orders, symbols)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--symbols", required=True)
    parser.add_argument("--orders", type=Path, required=True)
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
