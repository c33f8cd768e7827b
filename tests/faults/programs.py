"""A program or a server that a test kills, makes to stand still, and starts again; each fault is counted."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import psutil

from candleflow.stack import postgres
from candleflow.stack.kafka import KafkaServer
from candleflow.stack.postgres import PostgresServer
from candleflow.stack.process import spawn, stop
from tests.faults.brokers import KafkaCluster
from tests.processes import ROOT, Running

READY_SECONDS: Final = 120.0


@dataclass
class Program:
    """A program of ours."""

    name: str
    command: Sequence[str | Path]
    folder: Path
    faults: Counter[str]
    variables: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    ended: list[str] = field(default_factory=list)
    """What it said last where it ended unasked."""

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def is_up(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def running(self) -> Running:
        assert self.process is not None, f"{self.name} was not started"
        run_dir = Path(self.variables["CANDLEFLOW_DATA_DIR"]) / "run"
        return Running(self.name, self.process, run_dir, self.log)

    def start(self) -> None:
        """Start it, unless it runs."""
        if self.is_up:
            return
        if self.process is not None:
            self.ended.append(f"{self.name} ended with {self.process.returncode}: {self.said()[-400:]}")
        self.process = spawn(self.command, log=self.log, environment=self.variables, cwd=ROOT)

    def kill(self, *, with_children: bool = False) -> None:
        """kill -9; without ``with_children`` what it started, such as a JVM, is left to see to itself."""
        if self.process is None or not self.is_up:
            return
        self.faults[f"kill -9 {self.name}"] += 1
        self.resume()  # else what stands still would outlive it
        for one in reversed(_family(self.process) if with_children else []):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.kill()
        self.process.wait()
        self.process = None

    def pause(self) -> None:
        """SIGSTOP, to its JVM as well."""
        self.faults[f"SIGSTOP {self.name}"] += self.is_up
        _signal(self.process, signal.SIGSTOP)

    def resume(self) -> None:
        _signal(self.process, signal.SIGCONT)

    def terminate(self, within_seconds: float) -> int:
        """SIGTERM; the exit status, which is that of SIGKILL where the time was too short."""
        assert self.process is not None, f"{self.name} was not started"
        self.faults[f"SIGTERM {self.name}"] += 1
        process, self.process = self.process, None
        stop(process, signal.SIGTERM, within_seconds)
        return process.returncode

    def said(self) -> str:
        return self.told()[-4_000:] or "nothing"

    def told(self) -> str:
        """All that it said since its first start."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


@dataclass
class Server:
    """Kafka, of one broker or several, or PostgreSQL."""

    name: str
    server: KafkaServer | KafkaCluster | PostgresServer
    faults: Counter[str]
    variables: Mapping[str, str] = field(default_factory=dict)
    """Beside those that it has anyway."""

    @property
    def is_up(self) -> bool:
        return self.server.process is not None and self.server.process.poll() is None

    def start(self) -> None:
        """Start it, unless it runs; it is ready some seconds later."""
        if not self.is_up:
            # PostgreSQL gets nothing of this process's own.
            given = {**postgres._environment(), **self.variables}
            for_postgres = patch.object(postgres, "_environment", lambda: given)
            with patch.dict(os.environ, self.variables), for_postgres:
                self.server.start()

    def wait_until_ready(self) -> None:
        self.server.wait_until_ready(READY_SECONDS)

    def kill(self) -> None:
        """kill -9; PostgreSQL's other processes end when they see that the first has."""
        if self.is_up:
            self.faults[f"kill -9 {self.name}"] += 1
            self.resume()  # else its other processes, standing still, would not see it
            self.server.kill()

    def stop(self) -> None:
        """As an administrator stops it."""
        if self.is_up:
            self.faults[f"clean stop of {self.name}"] += 1
            self.server.stop()

    def quit(self) -> None:
        """PostgreSQL's immediate shutdown (``pg_ctl stop -m immediate``): it recovers at its next start."""
        if self.is_up and self.server.process is not None:
            self.faults[f"immediate stop of {self.name}"] += 1
            stop(self.server.process, signal.SIGQUIT, READY_SECONDS)

    def pause(self) -> None:
        """SIGSTOP, to all of PostgreSQL's processes."""
        self.faults[f"SIGSTOP {self.name}"] += self.is_up
        _signal(self.server.process, signal.SIGSTOP)

    def resume(self) -> None:
        _signal(self.server.process, signal.SIGCONT)


def _signal(process: subprocess.Popen[Any] | None, number: signal.Signals) -> None:
    for one in _family(process):
        with contextlib.suppress(psutil.NoSuchProcess):  # it may end meanwhile
            one.send_signal(number)


def _family(process: subprocess.Popen[Any] | None) -> list[psutil.Process]:
    """The process and all that came of it, itself first, so that it starts no more."""
    if process is None or process.poll() is not None:
        return []
    first = psutil.Process(process.pid)
    return [first, *first.children(recursive=True)]
