"""How running processes tell of themselves: log lines on stderr, and a heartbeat file each.

A heartbeat is one small JSON file in ``<data_dir>/run``, replaced atomically, which ``status``, the
supervisor and the page read. It holds counts and words, never a secret.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

_log = logging.getLogger(__name__)

_SAY_EVERY_SECONDS: Final = 60.0
_LINE: Final = "%(asctime)s %(levelname)-7s %(process_name)s: %(message)s"
CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(32), 127, 0x85, 0x2028, 0x2029)}
"""For ``str.translate``: what could end a line or command a terminal, escaped."""


class _TextFormatter(logging.Formatter):
    """UTC times; control characters are escaped, so that no input can forge a line.

    A message is one line. A traceback's lines follow it indented, as an exception's text may have lines too.
    """

    converter = time.gmtime  # type: ignore[assignment]  # typeshed wants a bound method
    default_msec_format = "%s.%03dZ"

    def format(self, record: logging.LogRecord) -> str:
        return "\n    ".join(line.translate(CONTROL) for line in super().format(record).split("\n"))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = record.message.translate(CONTROL)
        return super().formatMessage(record)


class _JsonFormatter(logging.Formatter):
    """A JSON object a line, a traceback within it: JSON's own escapes keep any input on its line."""

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
    """Log to stderr, one line a message, named after the process; as text, or ``json``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _JsonFormatter(process_name)
        if log_format == "json"
        else _TextFormatter(_LINE, defaults={"process_name": process_name})
    )
    if level != "DEBUG":
        # py4j tells the root logger, with a traceback, of each connection to the JVM that it opens anew.
        handler.addFilter(lambda record: record.name != "root" or record.levelno > logging.INFO)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Not even at DEBUG: the one tells each command that it sends to the JVM, the other its own settings, and
    # passwords are among both.
    logging.getLogger("py4j").setLevel(logging.WARNING)
    logging.getLogger("kafka").setLevel(logging.INFO)
    if level == "DEBUG":
        return
    for chatty in ("httpx2", "httpcore2", "websockets"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # kafka-python logs four errors for each attempt to reach a broker that still starts. Whoever calls it
    # looks at every outcome, and says in a line of ours what it means.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)


Counts = Mapping[str, int | float]
ByLabel = Mapping[str, Counts]
"""Counts with a value for each label: ``age_s`` for each symbol, ``latency`` for each histogram bound."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What one process last said of itself; times in seconds since the epoch."""

    name: str
    pid: int
    state: str
    """``starting``, ``running``, ``waiting`` (for a part it needs) or ``stopping``."""
    message: str = ""
    started_at: float = 0.0
    beaten_at: float = 0.0
    counts: Counts = field(default_factory=dict)
    by_label: ByLabel = field(default_factory=dict)

    def of(self, count: str, label: str) -> float | None:
        """Return a count of one label, such as a symbol; None if the process did not report it."""
        return self.by_label.get(count, {}).get(label)


class HeartbeatFile:
    """Writes the heartbeat of this process; cheap enough for once a second.

    A heartbeat that can't be written, as on a full disk, is no reason to stop work: a line says so once a
    minute. The last one is kept in ``last`` too, for other threads of this process.
    """

    def __init__(self, run_dir: Path, name: str) -> None:
        self._path = run_dir / f"{name}.json"
        self.name = name
        self._started_at = time.time()
        self._said_at = float("-inf")
        self.last: tuple[Heartbeat | None, float] = (None, time.monotonic())
        """What was said last, and when, by ``time.monotonic``: at first nothing, when this was made."""
        self.on_removed: Callable[[], None] | None = None
        """Called once at the end."""
        run_dir.mkdir(parents=True, exist_ok=True)

    def beat(
        self, state: str, message: str = "", counts: Counts | None = None, by_label: ByLabel | None = None
    ) -> None:
        heartbeat = Heartbeat(
            self.name,
            os.getpid(),
            state,
            message,
            self._started_at,
            time.time(),
            counts or {},
            by_label or {},
        )
        self.last = (heartbeat, time.monotonic())
        beside = self._path.with_suffix(f".{os.getpid()}.tmp")
        try:
            beside.write_text(json.dumps(asdict(heartbeat)))
            beside.replace(self._path)
        except OSError as error:
            if time.monotonic() - self._said_at >= _SAY_EVERY_SECONDS:
                self._said_at = time.monotonic()
                _log.warning("the heartbeat %s can't be written: %s", self._path, error)

    def remove(self) -> None:
        """Remove the file, unless it is another process's: such as of the one that kept us from starting."""
        heartbeat = read_heartbeat(self._path.parent, self.name)
        if heartbeat is None or heartbeat.pid == os.getpid():
            self._path.unlink(missing_ok=True)
        if self.on_removed is not None:
            self.on_removed()
            self.on_removed = None


def read_heartbeat(run_dir: Path, name: str) -> Heartbeat | None:
    """The last heartbeat of a process, or None where there is none that can be read."""
    try:
        fields: dict[str, Any] = json.loads((run_dir / f"{name}.json").read_text())
        return Heartbeat(**fields)
    except (OSError, ValueError, TypeError):
        return None
