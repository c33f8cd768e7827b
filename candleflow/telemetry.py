"""Logging to stderr, and the heartbeat file of each running process.

A heartbeat is a small JSON file in ``<data_dir>/run``, replaced atomically each second. ``status``, the
supervisor and the dashboard read it. It holds a state, counts and a message, never a secret.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

_log = logging.getLogger(__name__)

_WARN_EVERY_SECONDS: Final = 60.0
_LINE: Final = "%(asctime)s %(levelname)-7s %(process_name)s: %(message)s"
CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(32), 127, 0x85, 0x2028, 0x2029)}
"""For ``str.translate``: escapes characters that could end a line or control a terminal."""


class _TextFormatter(logging.Formatter):
    """Formats a message as one line with a UTC time.

    Control characters are escaped, so that no input can forge a log line. The lines of a traceback follow,
    indented.
    """

    converter = time.gmtime  # type: ignore[assignment]  # typeshed wants a bound method
    default_msec_format = "%s.%03dZ"

    def format(self, record: logging.LogRecord) -> str:
        return "\n    ".join(line.translate(CONTROL) for line in super().format(record).split("\n"))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = record.message.translate(CONTROL)
        return super().formatMessage(record)


class _JsonFormatter(logging.Formatter):
    """Formats a message, with its traceback, as one JSON object per line."""

    converter = time.gmtime  # type: ignore[assignment]  # as above

    def __init__(self, process_name: str) -> None:
        super().__init__()
        self._process_name = process_name

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "process": self._process_name,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def set_up_logging(process_name: str, level: str = "INFO", log_format: str = "text") -> None:
    """Log to stderr, one line per message with the process's name; ``log_format`` is ``text`` or ``json``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _JsonFormatter(process_name)
        if log_format == "json"
        else _TextFormatter(_LINE, defaults={"process_name": process_name})
    )
    if level != "DEBUG":
        # py4j logs to the root logger, with a traceback, each reconnect to the JVM and each lost connection.
        # It also raises the latter. All other modules have loggers of their own.
        handler.addFilter(lambda record: record.name != "root")
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Even at DEBUG: py4j would log each command that it sends to the JVM, kafka-python its configuration, and
    # both contain passwords.
    logging.getLogger("py4j").setLevel(logging.WARNING)
    logging.getLogger("kafka").setLevel(logging.INFO)
    if level == "DEBUG":
        return
    for chatty in ("httpx2", "httpcore2", "websockets"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # kafka-python logs four errors for each attempt to reach a broker that is still starting. Our own callers
    # check every outcome and log one line.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    # The same for an error of a batch: the processor keeps it and reports it once.
    logging.getLogger("py4j").setLevel(logging.CRITICAL)


Counts = Mapping[str, int | float]
ByLabel = Mapping[str, Counts]
"""Counts with a value for each label: ``age_s`` for each symbol, ``latency`` for each histogram bound."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A process's latest report of its state; times in seconds since the epoch."""

    name: str
    pid: int
    state: str
    """``starting``, ``running``, ``waiting`` (for a service that it needs) or ``stopping``."""
    message: str = ""
    started_at: float = 0.0
    beaten_at: float = 0.0
    counts: Counts = field(default_factory=dict)
    by_label: ByLabel = field(default_factory=dict)
    host: str = ""
    """The machine or container, in which ``pid`` means something."""

    @property
    def is_from_here(self) -> bool:
        """Whether the process runs on this machine, or in this container."""
        return self.host == socket.gethostname()

    def of(self, count: str, label: str) -> float | None:
        """Return a count of one label, such as a symbol; None if the process did not report it."""
        return self.by_label.get(count, {}).get(label)


class HeartbeatFile:
    """Writes the heartbeat of this process, once a second.

    If the file can't be written, as on a full disk, the process continues and logs a warning once a minute.
    ``last`` keeps the latest heartbeat for other threads of this process.
    """

    def __init__(self, run_dir: Path, name: str) -> None:
        self._path = run_dir / f"{name}.json"
        self.name = name
        self._started_at = time.time()
        self._warned_at = float("-inf")
        self.last: tuple[Heartbeat | None, float] = (None, time.monotonic())
        """The latest heartbeat, and its time by ``time.monotonic``; at first None and the start."""
        self.on_removed: Callable[[], None] | None = None
        """Called once, when the heartbeat is removed."""
        run_dir.mkdir(parents=True, exist_ok=True)

    def beat(
        self, state: str, message: str = "", counts: Counts | None = None, by_label: ByLabel | None = None
    ) -> None:
        """Write the heartbeat, with copies of ``counts`` and ``by_label``: other threads read it later."""
        heartbeat = Heartbeat(
            self.name,
            os.getpid(),
            state,
            message,
            self._started_at,
            time.time(),
            dict(counts or {}),
            {count: dict(values) for count, values in (by_label or {}).items()},
            socket.gethostname(),
        )
        self.last = (heartbeat, time.monotonic())
        beside = self._path.with_suffix(f".{os.getpid()}.tmp")
        try:
            beside.write_text(json.dumps(asdict(heartbeat)))
            beside.replace(self._path)
        except OSError as error:
            if time.monotonic() - self._warned_at >= _WARN_EVERY_SECONDS:
                self._warned_at = time.monotonic()
                _log.warning(
                    "can't write the heartbeat %s: %s; continuing, but `status` and the dashboard see this "
                    "process as silent",
                    self._path,
                    error,
                )

    def remove(self) -> None:
        """Remove the file, unless it belongs to another process, such as the current lease holder."""
        heartbeat = read_heartbeat(self._path.parent, self.name)
        if heartbeat is None or (heartbeat.pid == os.getpid() and heartbeat.is_from_here):
            self._path.unlink(missing_ok=True)
        if self.on_removed is not None:
            self.on_removed()
            self.on_removed = None


def read_heartbeat(run_dir: Path, name: str) -> Heartbeat | None:
    """Return the last heartbeat of a process, or None if there is no readable one."""
    try:
        fields: dict[str, Any] = json.loads((run_dir / f"{name}.json").read_text())
        return Heartbeat(**fields)
    except (OSError, ValueError, TypeError):
        return None
