"""Programs and servers that a test can kill, suspend and restart; each fault is counted."""

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
    """Exit status and last output of each unexpected end."""

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
        """Start the program unless it runs."""
        if self.is_up:
            return
        if self.process is not None:
            self.ended.append(f"{self.name} ended with {self.process.returncode}: {self.said()[-400:]}")
        self.process = spawn(self.command, log=self.log, environment=self.variables, cwd=ROOT)

    def kill(self, *, with_children: bool = False) -> None:
        """Kill the program with SIGKILL. Its children, such as a JVM, go on unless ``with_children``."""
        if self.process is None or not self.is_up:
            return
        self.faults[f"kill -9 {self.name}"] += 1
        self.resume()  # else suspended children would survive it
        for one in reversed(_family(self.process) if with_children else []):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.kill()
        self.process.wait()
        self.process = None

    def pause(self) -> None:
        """Suspend the program and its children with SIGSTOP."""
        self.faults[f"SIGSTOP {self.name}"] += self.is_up
        _signal(self.process, signal.SIGSTOP)

    def resume(self) -> None:
        _signal(self.process, signal.SIGCONT)

    def terminate(self, within_seconds: float) -> int:
        """Stop the program with SIGTERM, and SIGKILL after the time limit; return its exit status."""
        assert self.process is not None, f"{self.name} was not started"
        self.faults[f"SIGTERM {self.name}"] += 1
        process, self.process = self.process, None
        stop(process, signal.SIGTERM, within_seconds)
        return process.returncode

    def said(self) -> str:
        return self.output()[-4_000:] or "nothing"

    def output(self) -> str:
        """Return its whole output since the first start."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


@dataclass
class Server:
    """PostgreSQL, or Kafka with one or more brokers."""

    name: str
    server: KafkaServer | KafkaCluster | PostgresServer
    faults: Counter[str]
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables in addition to its usual ones."""

    @property
    def is_up(self) -> bool:
        return self.server.process is not None and self.server.process.poll() is None

    def start(self) -> None:
        """Start the server unless it runs; it is ready some seconds later."""
        if not self.is_up:
            # PostgreSQL doesn't inherit this process's environment, so pass the variables explicitly.
            given = {**postgres._environment(), **self.variables}
            for_postgres = patch.object(postgres, "_environment", lambda: given)
            with patch.dict(os.environ, self.variables), for_postgres:
                self.server.start()

    def wait_until_ready(self) -> None:
        self.server.wait_until_ready(READY_SECONDS)

    def kill(self) -> None:
        """Kill the server with SIGKILL; PostgreSQL's other processes exit when the main process is gone."""
        if self.is_up:
            self.faults[f"kill -9 {self.name}"] += 1
            self.resume()  # suspended child processes would not notice
            self.server.kill()

    def stop(self) -> None:
        """Stop the server cleanly."""
        if self.is_up:
            self.faults[f"clean stop of {self.name}"] += 1
            self.server.stop()

    def quit(self) -> None:
        """Do PostgreSQL's immediate shutdown (``pg_ctl stop -m immediate``); the next start recovers."""
        if self.is_up and self.server.process is not None:
            self.faults[f"immediate stop of {self.name}"] += 1
            stop(self.server.process, signal.SIGQUIT, READY_SECONDS)

    def pause(self) -> None:
        """Suspend all processes of the server with SIGSTOP."""
        self.faults[f"SIGSTOP {self.name}"] += self.is_up
        _signal(self.server.process, signal.SIGSTOP)

    def resume(self) -> None:
        _signal(self.server.process, signal.SIGCONT)


def _signal(process: subprocess.Popen[Any] | None, number: signal.Signals) -> None:
    for one in _family(process):
        with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended
            one.send_signal(number)


def _family(process: subprocess.Popen[Any] | None) -> list[psutil.Process]:
    """Return the process and its descendants; the parent comes first, so that it can't start more."""
    if process is None or process.poll() is not None:
        return []
    first = psutil.Process(process.pid)
    return [first, *first.children(recursive=True)]
