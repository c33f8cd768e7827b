"""``up`` and ``services``: everything, or only Kafka and PostgreSQL, on this machine, until told to stop.

What it joins: the exchange's probe, Java and the jars, the two servers, the schema and the topics, and one
child process for each of producer, processor, dashboard, alerts, audit and, if need be, simulator.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

import psutil
from rich.console import Console

from candleflow import settings as settings_module
from candleflow.broker.topics import ensure_topics
from candleflow.errors import StackError
from candleflow.exchange.probe import Answer, probe
from candleflow.market.shard import PRODUCER
from candleflow.settings import Exchange, Settings
from candleflow.stack import local, process
from candleflow.stack.display import SIMULATED, Display, PartLine, counted
from candleflow.stack.jars import ensure_jars
from candleflow.stack.java import find_java
from candleflow.stack.kafka import KafkaServer
from candleflow.stack.postgres import PostgresServer
from candleflow.stack.run_file import (
    Run,
    RunningPart,
    only_one,
    read_run,
    remove_run,
    stop_leftovers,
    write_run,
)
from candleflow.stack.supervisor import Keeping, Part, Supervisor, in_thread
from candleflow.store import schema
from candleflow.telemetry import read_heartbeat

Command = Literal["up", "services"]

STOP_STAGES: Final[Sequence[tuple[float, Sequence[str]]]] = (
    (9.0, ("producer", "processor", "dashboard", "simulator", "audit", "alerts", "forecaster")),
    (4.5, ("kafka", "postgres")),
)
"""Seconds, and who is stopped within them: whoever writes first, then what it writes to; 13.5 s in all."""

_SHOW_EVERY_SECONDS: Final = 0.5
_TOPICS_SECONDS: Final = 60.0
_KAFKA_SECONDS: Final = 600.0
"""Kafka doesn't answer while it recovers its logs after a kill: seconds, with many partitions minutes."""
_POSTGRES_SECONDS: Final = 120.0
"""PostgreSQL's replay of the log that a kill left ends within half a minute."""
_PAGE_SECONDS: Final = 60.0
"""So long alerts, audit and forecaster let the page come first: it comes in 5 s of two free cores."""
_DETACH_SECONDS: Final = 300.0
_SETTLE_SECONDS: Final = 30.0
"""So long after the start its work is over, and Kafka's classes are archived for the next one."""


def run(settings: Settings, command: Command = "up", *, console: Console | None = None) -> int:
    """Run until SIGINT or SIGTERM; the exit status.

    Raises HeldError where one is running on this data folder, and StackError where a part can't be started.
    """
    console = console or Console()
    with only_one(settings.stack.run_dir):
        for name in stop_leftovers(settings.stack.run_dir):
            console.print(f"stopped {name}, left over from an earlier run", highlight=False)
        return asyncio.run(_Session(settings, command, console).run())


def add_services_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``services``."""
    parser.add_argument("--detach", action="store_true", help="start them in the background and come back")


def run_services(settings: Settings, arguments: argparse.Namespace) -> int:
    """``services``: Kafka and PostgreSQL only; the exit status."""
    return detach(settings) if arguments.detach else run(settings, "services")


def detach(settings: Settings, console: Console | None = None) -> int:
    """``services --detach``: start them in the background and return once they are ready."""
    console = console or Console()
    log = settings.stack.data_path / "logs" / "services.log"
    log.unlink(missing_ok=True)
    child = process.spawn(_candleflow("services"), log=log, signal_with_parent=None)

    def is_ready() -> bool:
        known = read_run(settings.stack.run_dir)
        return child.poll() is not None or (known is not None and known.pid == child.pid and known.is_ready)

    in_time = process.wait_for(is_ready, _DETACH_SECONDS)
    if child.poll() is not None:
        raise StackError(process.tail(log) or f"the services ended with status {child.returncode} ({log})")
    if not in_time:
        process.stop(child, signal.SIGTERM, 15)
        raise StackError(
            f"the services weren't ready in {_DETACH_SECONDS:.0f} s: {process.tail(log)} ({log})"
        )
    console.print(f"Kafka and PostgreSQL run (pid {child.pid}); stop them with: python -m candleflow down")
    return 0


class _Session:
    """One run of ``up`` or ``services``."""

    def __init__(self, settings: Settings, command: Command, console: Console) -> None:
        self._settings = settings
        self._command = command
        self._console = console
        self._display = Display(console)
        self._supervisor = Supervisor(self._note)
        self._environment = _child_environment({})
        self._is_ready = False
        self._page_problem = ""

    async def run(self) -> int:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # nohup ignores SIGHUP: this process is meant to outlive its terminal.
            if one != signal.SIGHUP or signal.getsignal(one) is not signal.SIG_IGN:
                loop.add_signal_handler(one, stop.set)
        work = asyncio.create_task(self._work())
        told = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([work, told], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await self._stop(work, told)
        if not work.cancelled():
            await work  # raises what ended it
        return 0

    async def _work(self) -> None:
        self._write_run()
        java_home, kafka_jars = await self._get_ready()
        with self._display:
            showing = asyncio.create_task(self._show())
            starting = asyncio.create_task(self._start(java_home, kafka_jars))
            watching = asyncio.create_task(self._supervisor.watch())
            try:
                done, _ = await asyncio.wait([starting, watching], return_when=asyncio.FIRST_EXCEPTION)
                for task in done:
                    task.result()
            finally:
                for task in (showing, starting, watching):
                    task.cancel()
                await asyncio.gather(showing, starting, watching, return_exceptions=True)

    async def _stop(self, work: asyncio.Task[None], told: asyncio.Task[bool]) -> None:
        if told.done():
            self._display.say("stopping")
        told.cancel()
        work.cancel()
        process.end_runs()
        await asyncio.wait([work])
        await self._supervisor.stop(
            [
                (seconds, [self._settings.producer_name if name == PRODUCER else name for name in names])
                for seconds, names in STOP_STAGES
            ]
        )
        for keeping in self._supervisor.keepings:
            (self._settings.stack.run_dir / f"{keeping.part.name}.json").unlink(missing_ok=True)
        remove_run(self._settings.stack.run_dir)

    async def _get_ready(self) -> tuple[Path, list[Path]]:
        """Check the ports, choose the exchange, and have Java and the jars; the home and Kafka's jars."""
        ports = local.server_ports(self._settings)
        if self._command == "up":
            ports.append(local.dashboard_port(self._settings))
        local.check_ports(ports)
        assets = asyncio.create_task(in_thread(self._assets))
        try:
            if self._command == "up":
                await self._choose_exchange()
                if self._settings.exchange.is_simulated:
                    local.check_ports([*ports, local.simulator_port(self._settings)])
        except BaseException:
            assets.cancel()
            raise
        java_home, kafka_jars = await assets
        chosen = {"CANDLEFLOW_EXCHANGE": str(self._settings.exchange.name), "JAVA_HOME": str(java_home)}
        self._environment = _child_environment(chosen)
        self._write_run()
        return java_home, kafka_jars

    def _assets(self) -> tuple[Path, list[Path]]:
        cache, url = self._settings.stack.cache_path, self._settings.stack.maven_url
        java_home = find_java(cache, console=self._console)
        kafka_jars = ensure_jars("kafka", cache, maven_url=url, console=self._console)
        if self._command == "up":
            ensure_jars("spark", cache, maven_url=url, console=self._console)
        return java_home, kafka_jars

    async def _choose_exchange(self) -> None:
        """Where it is left to us: the first host that answers, else the simulator, and loudly so."""
        if self._settings.exchange.name is Exchange.AUTO and self._settings.exchange.ws_url is None:
            answers = await probe()
            for line in exchange_lines(answers):
                self._display.say(line)
            self._settings = settings_module.load(exchange=chosen_exchange(answers))
        if self._settings.exchange.is_simulated:
            self._display.is_simulated = True
            self._display.say(SIMULATED, "bold white on red")

    async def _start(self, java_home: Path, kafka_jars: Sequence[Path]) -> None:
        settings = self._settings
        kafka = local.kafka_server(settings, java_home, kafka_jars)
        postgres = local.postgres_server(settings)
        kept_kafka = self._supervisor.keep(_kafka_part(kafka))
        kept_postgres = self._supervisor.keep(_postgres_part(postgres))
        if self._command == "up":
            # Each waits by itself for what it needs; Spark's JVM takes longest to come up.
            self._supervisor.keep(self._child("processor", "processor"))
            if settings.exchange.is_simulated:
                self._supervisor.keep(self._child("simulator", "simulate"))
            self._supervisor.keep(self._child(self._settings.producer_name, "producer"))
        await self._supervisor.ready(kept_postgres)
        await in_thread(partial(_provide, settings, postgres))
        if self._command == "up":
            await self._wait_for_page()
            # Last, as nobody waits for them.
            for name in ("alerts", "audit", "forecaster"):
                self._supervisor.keep(self._child(name, name))
        else:
            await self._supervisor.ready(kept_kafka)
            await in_thread(partial(_make_topics, settings))
        self._announce()
        await asyncio.sleep(_SETTLE_SECONDS)
        try:
            await in_thread(kafka.archive_classes)
        except StackError as error:
            self._display.say(f"{error}; the next start takes as long as this one")

    async def _wait_for_page(self) -> None:
        """Return once the page answers, or has had its time: what comes after it needs it not."""
        page = self._supervisor.keep(self._page())
        try:
            async with asyncio.timeout(_PAGE_SECONDS):
                await self._supervisor.ready(page)
        except TimeoutError:
            self._display.say(
                f"the page hasn't answered in {_PAGE_SECONDS:.0f} s, the rest starts without it: "
                f"{page.message or self._page_problem} ({page.part.log})"
            )

    def _announce(self) -> None:
        self._is_ready = True
        self._write_run()
        if self._command == "up":
            self._display.say(f"the page: {self._page_url}", "bold")
        else:
            self._display.say(f"Kafka is at {self._settings.kafka.bootstrap}", "bold")
            self._display.say(f"PostgreSQL is at {self._settings.database!r}", "bold")

    def _child(self, name: str, command: str) -> Part:
        log = self._settings.stack.data_path / "logs" / f"{name}.log"
        launch = partial(process.spawn, _candleflow(command), log=log, environment=self._environment)
        return Part(name, launch, log)

    def _page(self) -> Part:
        part = self._child("dashboard", "dashboard")
        return replace(part, is_ready=self._page_answers, not_ready=lambda: self._page_problem)

    @property
    def _page_url(self) -> str:
        return f"http://localhost:{self._settings.dashboard.port}" if self._command == "up" else ""

    def _page_answers(self) -> bool:
        url = f"http://{process.LOOPBACK}:{self._settings.dashboard.port}/_stcore/health"
        self._page_problem = process.why_no_answer(url)
        return not self._page_problem

    async def _show(self) -> None:
        while True:
            self._display.show([self._line(keeping) for keeping in self._supervisor.keepings])
            await asyncio.sleep(_SHOW_EVERY_SECONDS)

    def _line(self, keeping: Keeping) -> PartLine:
        """A running part's own words, where it has any."""
        beat = read_heartbeat(self._settings.stack.run_dir, keeping.part.name)
        is_own = keeping.child is not None and beat is not None and beat.pid == keeping.child.pid
        if keeping.state != "running" or beat is None or not is_own:
            return PartLine(keeping.part.name, keeping.state, keeping.message)
        words = "  ".join(filter(None, (counted(beat.counts), beat.message)))
        return PartLine(keeping.part.name, beat.state, words)

    def _note(self, _: Keeping) -> None:
        try:
            self._write_run()
        except OSError as error:  # such as a full disk: no reason to stop what runs
            self._display.say(f"what runs can't be noted for `status` and `down`: {error}")
        self._display.show([self._line(keeping) for keeping in self._supervisor.keepings])

    def _write_run(self) -> None:
        parts = tuple(
            RunningPart(one.part.name, one.child.pid, one.created_at, one.part.stop_signal, one.state)
            for one in self._supervisor.keepings
            if one.child is not None
        )
        write_run(
            self._settings.stack.run_dir,
            Run(
                command=self._command,
                pid=os.getpid(),
                created_at=psutil.Process().create_time(),
                settings=told_settings(self._settings),
                dashboard_url=self._page_url,
                is_ready=self._is_ready,
                parts=parts,
            ),
        )


def told_settings(settings: Settings) -> dict[str, str | int]:
    """What another terminal, whose environment may differ, needs to find what runs here; no secret."""
    postgres = settings.database
    host = f"[{postgres.host}]" if ":" in postgres.host else postgres.host
    base = urlsplit(settings.postgres.url.get_secret_value()).path  # the venue adds to the database's name
    addresses = {
        "exchange_ws_url": settings.exchange.ws_url,
        "exchange_rest_url": settings.exchange.rest_url,
    }
    return {
        "exchange": str(settings.exchange.name),
        **{name: address for name, address in addresses.items() if address is not None},
        "simulator_port": settings.simulator.port,
        "symbols": ",".join(settings.symbols),
        "kafka_bootstrap": settings.kafka.bootstrap,
        "postgres_url": f"postgresql://{postgres.owner}@{host}:{postgres.port}{base}",
        "dashboard_port": settings.dashboard.port,
        "window_seconds": settings.window_seconds,
        "slide_seconds": settings.slide_seconds or settings.window_seconds,
    }


def exchange_lines(answers: Sequence[Answer]) -> list[str]:
    """What to say of the hosts that were asked: one line each."""
    lines = [f"{one.host}: {one.problem}" for one in answers if one.problem is not None]
    if all(one.problem is not None for one in answers):
        return [
            "No Binance can be reached from here:",
            *(f"  {line}" for line in lines),
            "A simulated exchange takes its place; CANDLEFLOW_EXCHANGE=binance insists on the real one.",
        ]
    return [*lines, f"Trades come from {answers[-1].host}"]


def chosen_exchange(answers: Sequence[Answer]) -> Exchange:
    """The host that can be used, else the simulator."""
    return next((one.exchange for one in answers if one.problem is None), Exchange.SIMULATOR)


def _kafka_part(server: KafkaServer) -> Part:
    return Part(
        "kafka",
        partial(_launch, server),
        server.log,
        prepare=server.prepare,
        is_ready=server.is_ready,
        not_ready=server.not_ready,
        ready_seconds=_KAFKA_SECONDS,
        why_it_ended=server.why_it_ended,
        is_essential=True,
    )


def _postgres_part(server: PostgresServer) -> Part:
    return Part(
        "postgres",
        partial(_launch, server),
        server.log,
        prepare=server.prepare,
        is_ready=server.is_ready,
        not_ready=server.not_ready,
        ready_seconds=_POSTGRES_SECONDS,
        stop_signal=signal.SIGINT,
        why_it_ended=server.why_it_ended,
        is_essential=True,
    )


def _launch(server: KafkaServer | PostgresServer) -> subprocess.Popen[bytes]:
    server.launch()
    if server.process is None:
        raise StackError("the server was stopped while it started")
    return server.process


def _provide(settings: Settings, postgres: PostgresServer) -> None:
    """The owner, the database, and the schema in it."""
    address = settings.database
    postgres.provide(address.owner, address.name, settings.postgres.owner_password)
    schema.apply(settings)


def _make_topics(settings: Settings) -> None:
    ensure_topics(
        settings.kafka.bootstrap,
        (settings.topic, settings.rejected_topic),
        settings.kafka.partitions,
        settings.kafka.replication,
        settings.kafka.retention_hours,
        time.monotonic() + _TOPICS_SECONDS,
    )


def _candleflow(command: str) -> list[str]:
    return [sys.executable, "-m", "candleflow", command]


def _child_environment(chosen: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with what was chosen above it, whatever case a setting was written in.

    Without Streamlit's variables, which could move the page to where it isn't looked for. Whoever starts the
    page by itself may set them.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.upper() not in chosen and not name.startswith("STREAMLIT_")
    }
    return {**kept, **chosen, "PYTHONUNBUFFERED": "1"}
