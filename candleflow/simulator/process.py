"""``python -m candleflow simulate`` and ``replay``: run the simulated exchange as a process.

Standard output has one JSON object per line, for other programs: ``listening`` with the addresses; later, for
a recording, ``finished`` with the counts of sent messages. Logs go to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from candleflow.market.symbol import is_symbol, upper
from candleflow.metrics.serving import served_heartbeat
from candleflow.settings import Settings
from candleflow.simulator.market import SeededMarket
from candleflow.simulator.recording import Recording
from candleflow.simulator.server import Simulator
from candleflow.simulator.source import Source
from candleflow.simulator.symbol import Era
from candleflow.telemetry import HeartbeatFile, set_up_logging

NAME: Final = "simulator"
MARKET_FILE: Final = "simulated-market.json"
"""A file in the data folder with the seed and rate that the simulated market has had, and since when."""
_BEAT_SECONDS: Final = 1.0
_N = TypeVar("_N", int, float)
_Parser: TypeAlias = Callable[[str], _N]
_LOG: Final = logging.getLogger(__name__)


def add_simulate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``simulate``; options that aren't given come from the settings."""
    rate = _number(float, lambda n: 0 < n <= 1_000_000, "above 0, to 1,000,000")
    seed = _number(int, lambda n: 0 <= n < 2**63, "a whole number from 0 to 2^63 - 1")
    _add_port(parser)
    parser.add_argument("--rate", type=rate, help="trades per second, over all symbols together")
    parser.add_argument("--seed", type=seed, help="seed of the market: another seed gives other trades")
    parser.add_argument("--symbols", type=_symbols, help="symbols of the market, separated by commas")


def add_replay_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``replay``."""
    speed = _number(float, lambda n: 0 <= n < math.inf, "0 or more")
    count = _number(int, lambda n: n >= 1, "a whole number from 1")
    _add_port(parser)
    parser.add_argument("file", type=Path, metavar="FILE", help="a recording: .ws.jsonl.gz or .jsonl")
    parser.add_argument(
        "--speed", type=speed, default=1.0, help="multiple of real time; 0: as fast as possible"
    )
    parser.add_argument("--shift", action="store_true", help="move the trades' times to the present")
    parser.add_argument(
        "--all-streams",
        action="store_true",
        help="send every line of the file to every client, whatever its subscriptions",
    )
    parser.add_argument(
        "--wait-for",
        type=count,
        default=1,
        metavar="N",
        help="start when clients are subscribed to the trades of N symbols",
    )


def _add_port(parser: argparse.ArgumentParser) -> None:
    port = _number(int, lambda n: 0 <= n <= 65_535, "a port from 0 to 65535")
    parser.add_argument("--port", type=port, help="port to listen on; 0: any free port")


def run(settings: Settings, arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT, and return the exit status.

    Raises ExchangeError if the port is in use or the recording can't be read.
    """
    set_up_logging(NAME, settings.log.level, settings.log.format)
    is_replay = arguments.command == "replay"
    source = _recording(arguments) if is_replay else _seeded_market(settings, arguments)
    port = settings.simulator.port if arguments.port is None else arguments.port
    simulator = Simulator(source, host=settings.simulator.host, port=port)
    asyncio.run(_serve(simulator, source, served_heartbeat(settings, NAME)))
    return 0


async def _serve(simulator: Simulator, source: Source, heartbeat: HeartbeatFile) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        async with simulator:
            _say({"event": "listening", "ws_url": simulator.ws_url, "rest_url": simulator.rest_url})
            _LOG.info("SIMULATED exchange, not a real market: %s", simulator.ws_url)
            async with _in_background(_beat(simulator, heartbeat), _report_finished(simulator, source)):
                await simulator.run_until(stop)
            heartbeat.beat("stopping")
        _LOG.info("stopped after sending %d messages", simulator.sent.messages)
    finally:
        heartbeat.remove()


@asynccontextmanager
async def _in_background(*parts: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome


async def _beat(simulator: Simulator, heartbeat: HeartbeatFile) -> None:
    while True:
        counts = {"sent": simulator.sent.messages, "clients": simulator.clients}
        heartbeat.beat("running", simulator.ws_url, counts)
        await asyncio.sleep(_BEAT_SECONDS)


async def _report_finished(simulator: Simulator, source: Source) -> None:
    """Report the sent messages once a recording has ended; clients stay connected."""
    await simulator.feed_ended()
    if isinstance(source, Recording) and source.played is not None:
        messages, seconds = source.played
        sent = dict(sorted(simulator.sent.by_stream.items()))
        _say({"event": "finished", "messages": messages, "seconds": round(seconds, 3), "sent": sent})
        _LOG.info("the recording has ended: %d messages in %.1f s; clients stay connected", messages, seconds)


def _seeded_market(settings: Settings, arguments: argparse.Namespace) -> SeededMarket:
    return continued_market(
        settings.stack.data_path / MARKET_FILE,
        settings.simulator.seed if arguments.seed is None else arguments.seed,
        settings.simulator.rate if arguments.rate is None else arguments.rate,
        arguments.symbols or settings.symbols,
        time.time_ns() // 1_000,
    )


def continued_market(file: Path, seed: int, rate: float, symbols: Sequence[str], now: int) -> SeededMarket:
    """Return the market of these settings; its trade ids continue those of earlier settings in ``file``.

    Without the file, another rate or number of symbols could set the ids back. Consumers would then take new
    trades for old ones.
    """
    market = SeededMarket(seed, rate, symbols)
    earlier = _remembered(file)
    if earlier and earlier[-1][1:] == market.eras[-1][1:]:
        market = SeededMarket(seed, rate, symbols, earlier=earlier[:-1], since=earlier[-1].since)
    elif earlier:
        market = SeededMarket(seed, rate, symbols, earlier=earlier, since=now)
    if market.eras != earlier:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_suffix(f".{os.getpid()}.tmp")
        beside.write_text(json.dumps([era._asdict() for era in market.eras]))
        beside.replace(file)
    return market


def _remembered(file: Path) -> tuple[Era, ...]:
    """Return the eras in the file; none, with a warning, if it can't be read."""
    try:
        return tuple(_era(fields) for fields in json.loads(file.read_text()))
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError, RecursionError) as error:
        _LOG.warning(
            "%s can't be read (%s): the simulated market's trade ids no longer continue the earlier ones",
            file,
            error,
        )
        return ()


def _era(fields: dict[str, Any]) -> Era:
    era = Era(**fields)
    if not (isinstance(era.since, int) and isinstance(era.seed, int) and 0 < era.symbol_rate < math.inf):
        raise ValueError(f"invalid era of a simulated market: {fields}")
    return era


def _recording(arguments: argparse.Namespace) -> Recording:
    return Recording(
        arguments.file,
        speed=arguments.speed,
        is_shifted=arguments.shift,
        every_line=arguments.all_streams,
        wait_for=arguments.wait_for,
    )


def _say(content: dict[str, Any]) -> None:
    print(json.dumps(content), flush=True)


def _number(convert: Callable[[str], _N], is_accepted: Callable[[_N], bool], accepted: str) -> _Parser[_N]:
    """Return an argparse type for a number that ``is_accepted``; ``accepted`` describes it in the error."""

    def parse(text: str) -> _N:
        with suppress(ValueError):
            if is_accepted(number := convert(text)):
                return number
        raise argparse.ArgumentTypeError(f"{text!r}: must be {accepted}")

    return parse


def _symbols(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(upper(name) for name in text.split(",")))
    if not all(is_symbol(name) for name in names):
        raise argparse.ArgumentTypeError(f"{text!r}: must be names such as BTCUSDT, separated by commas")
    return names
