"""Run everything (``up``) or only Kafka and PostgreSQL (``services``) on this machine, until stopped.

``up`` chooses an exchange that answers, makes sure that Java and the jars are there, and starts Kafka and
PostgreSQL. It applies the schema, then runs one child process each for producer, processor, dashboard,
alerts, audit and forecaster. Without a reachable exchange it runs the simulator too.
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
from candleflow.broker.topics import ensure_trade_topics
from candleflow.errors import StackError
from candleflow.exchange.probe import Answer, probe
from candleflow.market.shard import PRODUCER
from candleflow.settings import Exchange, Settings
from candleflow.stack import local, process
from candleflow.stack.display import SIMULATED, Display, PartLine, counted
from candleflow.stack.jars import ensure_jars
from candleflow.stack.java import find_java
from candleflow.stack.postgres import PostgresServer
from candleflow.stack.run_file import (
    Run,
    RunningPart,
    hold_run_lock,
    read_run,
    remove_run,
    stop_leftovers,
    write_run,
)
from candleflow.stack.server import LocalServer
from candleflow.stack.supervisor import Part, SupervisedPart, Supervisor, in_thread
from candleflow.store import schema
from candleflow.telemetry import Heartbeat, read_heartbeat

Command = Literal["up", "services"]

STOP_STAGES: Final[Sequence[tuple[float, Sequence[str]]]] = (
    (9.0, ("producer", "processor", "dashboard", "simulator", "audit", "alerts", "forecaster")),
    (4.5, ("kafka", "postgres")),
)
"""Stages of a stop: the seconds allowed, and the processes. Writers stop before the servers; 13.5 s in
all."""

_SHOW_EVERY_SECONDS: Final = 0.5
_TOPICS_SECONDS: Final = 60.0
_KAFKA_SECONDS: Final = 600.0
"""How long to wait for Kafka. After a kill it first recovers its logs, which takes minutes with many
partitions."""
_POSTGRES_SECONDS: Final = 120.0
"""How long to wait for PostgreSQL. After a kill it first replays its log, for half a minute at most."""
_PAGE_SECONDS: Final = 60.0
"""How long alerts, audit and forecaster wait for the page to start first; it takes 5 s on two free cores."""
_DETACH_SECONDS: Final = 300.0
_SETTLE_SECONDS: Final = 30.0
"""Pause between the start and archiving Kafka's classes for the next one."""


def run(settings: Settings, command: Command = "up", *, console: Console | None = None) -> int:
    """Run until SIGINT or SIGTERM and return the exit status.

    Raises HeldError if another ``up`` or ``services`` runs on this data folder, and StackError if an
    essential process can't be started.
    """
    console = console or Console()
    with hold_run_lock(settings.stack.run_dir):
        for name in stop_leftovers(settings.stack.run_dir):
            console.print(f"stopped {name}, left over from an earlier run", highlight=False)
        return asyncio.run(_Session(settings, command, console).run())


def add_services_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``services``."""
    parser.add_argument("--detach", action="store_true", help="start them in the background and return")


def run_services(settings: Settings, arguments: argparse.Namespace) -> int:
    """Run ``services``, in the background with ``--detach``, and return the exit status."""
    return detach(settings) if arguments.detach else run(settings, "services")


def detach(settings: Settings, console: Console | None = None) -> int:
    """Start ``services`` in the background and return once Kafka and PostgreSQL are ready."""
    console = console or Console()
    log = settings.stack.data_path / "logs" / "services.log"
    log.unlink(missing_ok=True)
    child = process.spawn(candleflow("services"), log=log, signal_with_parent=None)
    wait_for_services(settings, child, log)
    console.print(
        f"Kafka and PostgreSQL are running (pid {child.pid}); stop them with: python -m candleflow down"
    )
    return 0


def wait_for_services(settings: Settings, child: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for ``child``, a ``services`` process.

    Raises StackError if it ends or isn't ready within 5 minutes.
    """

    def is_ready() -> bool:
        known = read_run(settings.stack.run_dir)
        return child.poll() is not None or (known is not None and known.pid == child.pid and known.is_ready)

    in_time = process.wait_for(is_ready, _DETACH_SECONDS)
    if child.poll() is not None:
        raise StackError(process.tail(log) or f"services ended with status {child.returncode} (log: {log})")
    if not in_time:
        process.stop(child, signal.SIGTERM, 15)
        raise StackError(
            f"Kafka and PostgreSQL weren't ready after {_DETACH_SECONDS:.0f} s and were stopped: "
            f"{process.tail(log)} (log: {log})"
        )


class _Session:
    """One run of ``up`` or ``services``."""

    def __init__(self, settings: Settings, command: Command, console: Console) -> None:
        self._settings = settings
        self._command = command
        self._console = console
        self._display = Display(console)
        self._supervisor = Supervisor(self._note)
        self._environment = child_environment({})
        self._is_ready = False
        self._has_candle = False
        self._began_at = time.monotonic()
        self._page_problem = ""

    async def run(self) -> int:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # Under nohup SIGHUP is ignored: the user wants this process to outlive its terminal.
            if one != signal.SIGHUP or signal.getsignal(one) is not signal.SIG_IGN:
                loop.add_signal_handler(one, stop.set)
        work = asyncio.create_task(self._work())
        stop_requested = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([work, stop_requested], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await self._stop(work, stop_requested)
        if not work.cancelled():
            await work  # raises the error that ended it, if any
        return 0

    async def _work(self) -> None:
        self._write_run()
        java_home, kafka_jars = await self._prepare_start()
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

    async def _stop(self, work: asyncio.Task[None], stop_requested: asyncio.Task[bool]) -> None:
        if stop_requested.done():
            self._display.say("stopping")
        stop_requested.cancel()
        work.cancel()
        process.kill_runs()
        await asyncio.wait([work])
        await self._supervisor.stop(
            [
                (seconds, [self._settings.producer_name if name == PRODUCER else name for name in names])
                for seconds, names in STOP_STAGES
            ]
        )
        for supervised in self._supervisor.parts:
            (self._settings.stack.run_dir / f"{supervised.part.name}.json").unlink(missing_ok=True)
        remove_run(self._settings.stack.run_dir)

    async def _prepare_start(self) -> tuple[Path, list[Path]]:
        """Check the ports, choose the exchange and find Java and the jars.

        Returns JAVA_HOME and Kafka's jars.
        """
        ports = local.server_ports(self._settings)
        if self._command == "up":
            ports.append(local.dashboard_port(self._settings))
        local.check_ports(ports)
        assets = asyncio.create_task(in_thread(self._java_and_jars))
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
        self._environment = child_environment(chosen)
        self._write_run()
        return java_home, kafka_jars

    def _java_and_jars(self) -> tuple[Path, list[Path]]:
        cache, url = self._settings.stack.cache_path, self._settings.stack.maven_url
        java_home = find_java(cache, console=self._console)
        kafka_jars = ensure_jars("kafka", cache, maven_url=url, console=self._console)
        if self._command == "up":
            ensure_jars("spark", cache, maven_url=url, console=self._console)
        return java_home, kafka_jars

    async def _choose_exchange(self) -> None:
        """With CANDLEFLOW_EXCHANGE=auto, use the first host that answers, else the simulator.

        A line in red says when trades are simulated.
        """
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
        kafka_part = self._supervisor.start(_server_part("kafka", kafka, _KAFKA_SECONDS))
        postgres_part = self._supervisor.start(_server_part("postgres", postgres, _POSTGRES_SECONDS))
        if self._command == "up":
            # Each process waits for the servers that it needs. The processor comes first: Spark's JVM starts
            # slowest.
            self._supervisor.start(self._child("processor", "processor"))
            if settings.exchange.is_simulated:
                self._supervisor.start(self._child("simulator", "simulate"))
            self._supervisor.start(self._child(self._settings.producer_name, "producer"))
        await self._supervisor.ready(postgres_part)
        await in_thread(partial(_prepare_database, settings, postgres))
        if self._command == "up":
            await self._wait_for_page()
            # Started last, because the user doesn't wait for them.
            for name in ("alerts", "audit", "forecaster"):
                self._supervisor.start(self._child(name, name))
        else:
            await self._supervisor.ready(kafka_part)
            await in_thread(partial(_make_topics, settings))
        self._announce()
        await asyncio.sleep(_SETTLE_SECONDS)
        try:
            await in_thread(kafka.archive_classes)
        except StackError as error:
            self._display.say(f"{error}; the next start won't be faster than this one")

    async def _wait_for_page(self) -> None:
        """Wait until the page answers, for ``_PAGE_SECONDS`` at most.

        The processes started later don't need it.
        """
        page = self._supervisor.start(self._page())
        try:
            async with asyncio.timeout(_PAGE_SECONDS):
                await self._supervisor.ready(page)
        except TimeoutError:
            self._display.say(
                f"the page hasn't answered for {_PAGE_SECONDS:.0f} s; starting the rest without it: "
                f"{page.message or self._page_problem} (log: {page.part.log})"
            )

    def _announce(self) -> None:
        if self._command == "up":
            self._display.say(f"the page answers at {self._page_url}; waiting for the first candle")
        else:
            self._display.say(f"Kafka is at {self._settings.kafka.bootstrap}", "bold")
            self._display.say(f"PostgreSQL is at {self._settings.database!r}", "bold")
        self._is_ready = True
        self._write_run()  # last: a process that waits for it finds the lines above

    def _child(self, name: str, command: str) -> Part:
        log = self._settings.stack.data_path / "logs" / f"{name}.log"
        launch = partial(process.spawn, candleflow(command), log=log, environment=self._environment)
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
            self._display.show([self._line(supervised) for supervised in self._supervisor.parts])
            if self._is_ready and not self._has_candle:
                self._announce_first_candle()
            await asyncio.sleep(_SHOW_EVERY_SECONDS)

    def _announce_first_candle(self) -> None:
        """Say that everything works, once the processor of this start has stored a candle."""
        beats = [self._beat(one) for one in self._supervisor.parts if one.part.name == "processor"]
        self._has_candle = any(beat is not None and beat.counts.get("candles") for beat in beats)
        if self._has_candle:
            seconds = time.monotonic() - self._began_at
            self._display.say(
                f"ready after {seconds:.0f} s, the first candle is stored: open {self._page_url}", "bold"
            )

    def _beat(self, supervised: SupervisedPart) -> Heartbeat | None:
        """Return the last heartbeat of the part's present process."""
        beat = read_heartbeat(self._settings.stack.run_dir, supervised.part.name)
        is_own = supervised.child is not None and beat is not None and beat.pid == supervised.child.pid
        return beat if is_own else None

    def _line(self, supervised: SupervisedPart) -> PartLine:
        """Return the line to display: the process's own status, if it runs and its heartbeat has one."""
        part, beat = supervised.part, self._beat(supervised)
        if supervised.state != "running":
            return PartLine(part.name, supervised.state, supervised.message, supervised.message)
        if beat is None:  # a process without a check of its own is ready with its first heartbeat
            return PartLine(part.name, "running" if part.is_ready else "starting")
        words = "  ".join(filter(None, (counted(beat.counts), beat.message)))
        return PartLine(part.name, beat.state, words)

    def _note(self, _: SupervisedPart) -> None:
        try:
            self._write_run()
        except OSError as error:  # such as a full disk: keep everything running
            self._display.say(
                f"the run file can't be written, so `status` and `down` may be out of date: {error}"
            )
        self._display.show([self._line(supervised) for supervised in self._supervisor.parts])

    def _write_run(self) -> None:
        parts = tuple(
            RunningPart(one.part.name, one.child.pid, one.created_at, one.part.stop_signal, one.state)
            for one in self._supervisor.parts
            if one.child is not None
        )
        write_run(
            self._settings.stack.run_dir,
            Run(
                command=self._command,
                pid=os.getpid(),
                created_at=psutil.Process().create_time(),
                settings=run_settings(self._settings),
                dashboard_url=self._page_url,
                is_ready=self._is_ready,
                parts=parts,
            ),
        )


def run_settings(settings: Settings) -> dict[str, str | int]:
    """Return the settings, without secrets, by which another terminal finds these processes.

    The other terminal's environment may differ.
    """
    postgres = settings.database
    host = f"[{postgres.host}]" if ":" in postgres.host else postgres.host
    base = urlsplit(
        settings.postgres.url.get_secret_value()
    ).path  # as given: a venue adds a suffix to the database's name
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
    """Return a line for each host that can't be used, then a line that says where trades come from."""
    lines = [f"{one.host}: {one.problem}" for one in answers if one.problem is not None]
    if all(one.problem is not None for one in answers):
        return [
            "No Binance host can be reached from here:",
            *(f"  {line}" for line in lines),
            "Using the simulated exchange; set CANDLEFLOW_EXCHANGE=binance to use only the real one.",
        ]
    return [*lines, f"Trades come from {answers[-1].host}"]


def chosen_exchange(answers: Sequence[Answer]) -> Exchange:
    """Return the first exchange that can be used, else the simulator."""
    return next((one.exchange for one in answers if one.problem is None), Exchange.SIMULATOR)


def _server_part(name: str, server: LocalServer, ready_seconds: float) -> Part:
    return Part(
        name,
        server.launch,
        server.log,
        prepare=server.prepare,
        is_ready=server.is_ready,
        not_ready=server.not_ready,
        ready_seconds=ready_seconds,
        stop_signal=server.stop_signal,
        why_it_ended=server.why_it_ended,
        is_essential=True,
    )


def _prepare_database(settings: Settings, postgres: PostgresServer) -> None:
    """Create the owner role, the database and the schema, as far as they don't exist."""
    address = settings.database
    postgres.provide(address.owner, address.name, settings.postgres.owner_password)
    schema.apply(settings)


def _make_topics(settings: Settings) -> None:
    ensure_trade_topics(settings, time.monotonic() + _TOPICS_SECONDS)


def candleflow(command: str, *arguments: str | Path) -> list[str | Path]:
    """Return the command line of a ``candleflow`` command in a child process."""
    return [sys.executable, "-m", "candleflow", command, *arguments]


def child_environment(chosen: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment, updated with ``chosen``.

    Replaces a setting in whatever case it was written. Drops Streamlit's variables: they could move the page
    away from the address that ``up`` checks.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.upper() not in chosen and not name.startswith("STREAMLIT_")
    }
    return {**kept, **chosen, "PYTHONUNBUFFERED": "1"}
