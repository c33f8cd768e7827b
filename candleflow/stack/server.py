"""Base class of the local servers, Kafka and PostgreSQL: prepare, start, wait for and stop one."""

from __future__ import annotations

import signal
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Final

import psutil

from candleflow.errors import StackError
from candleflow.stack import process

READY_SECONDS: Final = 60.0
STOP_SECONDS: Final = 8.0


class LocalServer(ABC):
    """A server process whose files are all in ``folder``."""

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]
    """Makes the server shut down cleanly without waiting for its clients."""

    def __init__(self, folder: Path, port: int, host: str) -> None:
        self.folder = folder
        self.port = port
        self.host = host
        self._process: subprocess.Popen[bytes] | None = None
        self._problem = ""

    @property
    def data(self) -> Path:
        """The folder of the server's data: topics, or a database."""
        return self.folder / "data"

    @property
    @abstractmethod
    def log(self) -> Path: ...

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        return self._process

    def start(self, *, outlives_parent: bool = False) -> None:
        """Prepare the folder and start the server, without waiting until it is ready."""
        self.prepare()
        self.launch(outlives_parent=outlives_parent)

    def prepare(self) -> None:
        """Create or repair the folder and write the configuration. May be called from any thread.

        Raises StackError that says what the user can do.
        """
        try:
            self._prepare()
        except OSError as error:
            raise StackError(
                f"{self.name}'s folder {self.folder} can't be used: {error}; "
                "set CANDLEFLOW_DATA_DIR to another"
            ) from error

    def launch(self, *, outlives_parent: bool = False) -> subprocess.Popen[bytes]:
        """Start the server in a prepared folder. Call it from the main thread, unless ``outlives_parent``."""
        self._process = self._spawn(None if outlives_parent else self.stop_signal)
        return self._process

    def is_ready(self) -> bool:
        """Return whether the server answers a client now. Raises StackError if it has ended."""
        if self._process is not None and self._process.poll() is not None:
            raise StackError(f"{self.name} ended while starting: {self.why_it_ended()}")
        if process.is_listening(self.port, self.host):
            self._problem = self._why_no_answer()
        else:
            self._problem = f"it doesn't listen at {self.address} yet"
        return not self._problem

    def not_ready(self) -> str:
        """Return why ``is_ready`` last returned false."""
        return self._problem

    def wait_until_ready(self, within_seconds: float = READY_SECONDS) -> None:
        """Wait until the server answers a client. Raises StackError if it ends or isn't ready in time."""
        if not process.wait_for(self.is_ready, within_seconds):
            raise StackError(
                f"{self.name} wasn't ready after {within_seconds:.0f} s: {self._problem}; "
                f"last log lines: {self.why_it_ended()}"
            )

    def stop(self, within_seconds: float = STOP_SECONDS) -> None:
        """Stop the server cleanly; kill it after the deadline, so that its next start has to recover."""
        if self._process is not None:
            process.stop(self._process, self.stop_signal, within_seconds)
            self._process = None

    def kill(self) -> None:
        """Kill the server and its children with SIGKILL."""
        if self._process is not None:
            children = psutil.Process(self._process.pid).children() if self._process.poll() is None else []
            process.stop(self._process, signal.SIGKILL, 5)
            psutil.wait_procs(children, timeout=10)
            self._process = None

    def why_it_ended(self) -> str:
        """Return the last lines of the log and its path."""
        return f"{process.tail(self.log)} (log: {self.log})"

    @abstractmethod
    def _prepare(self) -> None: ...

    @abstractmethod
    def _spawn(self, signal_with_parent: signal.Signals | None) -> subprocess.Popen[bytes]: ...

    @abstractmethod
    def _why_no_answer(self) -> str:
        """Try to connect as a client; return the error, or "" on success."""
