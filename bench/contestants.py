"""Who is measured: our processor, and what else one would make the same candles with, each as documented.

One place for how each is started, what it has in its table, and what is expected of our rate over its own.

Each peer has a virtual environment of its own, made of its own lock: what one needs, no other has to live
with, and one that can't be installed leaves the others standing. None is a dependency of Candleflow.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.oracle import FIELDS, OHLCV

ROOT: Final = Path(__file__).resolve().parents[1]
PEERS: Final = Path(__file__).with_name("peers")
OWN_PYTHON: Final = ROOT / ".venv" / "bin" / "python"
_VENVS: Final = ROOT / ".venv-peers"
_UV: Final = ROOT / ".venv" / "bin" / "uv"
_INSTALL_SECONDS: Final = 600
_EXACT: Final = tuple(name for name in FIELDS if name != "is_complete")


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to the candles."""

    name: str
    title: str
    program: Path
    package: str
    """The distribution whose version is told."""
    licence: str
    how: str
    fields: tuple[str, ...] = OHLCV
    lock: str | None = None
    """Its requirements' name below ``peers/requirements``; None: it runs on the project's own."""
    arguments: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    ready: str = "about to read"
    """What it says once its start is over, just before it reads the first record."""
    condition: str = "true"
    """Which rows of its table ``candles`` are the candles of five seconds."""
    keeps_milliseconds: bool = False
    """Its column ``open_time`` is a number of milliseconds, not a timestamp (which is UTC without a zone)."""
    is_slow: bool = False
    """It reads the short topic, as the long one would take it a quarter of an hour."""

    @property
    def python(self) -> Path:
        return _VENVS / self.lock / "bin" / "python" if self.lock else OWN_PYTHON


OURS: Final = Contestant(
    "candleflow",
    "Candleflow",
    ROOT / "processor.py",
    "pyspark",
    "MIT",
    "the processor as it runs: Spark's partial candles, merged in PostgreSQL in the transaction that moves "
    "the offsets, into six intervals at once",
    fields=FIELDS,
    ready="records behind",
    condition="interval = '5s'",
)

CONTESTANTS: Final = (
    OURS,
    Contestant(
        "pathway",
        "Pathway",
        PEERS / "ohlcv_pathway.py",
        "pathway",
        "BSL 1.1",
        "kafka.read of JSON, windowby, each window once it has closed; its own postgres.write",
        lock="pathway",
        keeps_milliseconds=True,
    ),
    Contestant(
        "pathway-2",
        "Pathway, two threads",
        PEERS / "ohlcv_pathway.py",
        "pathway",
        "BSL 1.1",
        "the same with PATHWAY_THREADS=2",
        lock="pathway",
        keeps_milliseconds=True,
        variables=(("PATHWAY_THREADS", "2"),),
    ),
    Contestant(
        "bytewax",
        "Bytewax",
        PEERS / "ohlcv_bytewax.py",
        "bytewax",
        "Apache 2.0",
        "KafkaSource, fold_window by event time; a DynamicSink that upserts, as it has none for PostgreSQL",
        lock="bytewax",
    ),
    Contestant(
        "quixstreams",
        "Quix Streams",
        PEERS / "ohlcv_quixstreams.py",
        "quixstreams",
        "Apache 2.0",
        "tumbling_window of built-in aggregations, closed windows; its own PostgreSQLSink",
        lock="quixstreams",
        keeps_milliseconds=True,
        is_slow=True,
    ),
    Contestant(
        "spark",
        "Spark as in tutorials",
        PEERS / "ohlcv_spark.py",
        "pyspark",
        "Apache 2.0",
        "from_json, withWatermark, window, groupBy; foreachBatch appends by JDBC",
        is_slow=True,
    ),
    Contestant(
        "loop",
        "A plain loop",
        PEERS / "ohlcv_loop.py",
        "confluent-kafka",
        "Apache 2.0",
        "confluent-kafka, orjson, a dict of floats, an upsert a second",
        lock="loop",
        keeps_milliseconds=True,
    ),
    Contestant(
        "loop-exact",
        "A plain loop, exact",
        PEERS / "ohlcv_loop.py",
        "confluent-kafka",
        "Apache 2.0",
        "the same with decimals, and with all fields but is_complete",
        fields=_EXACT,
        lock="loop",
        keeps_milliseconds=True,
        arguments=("--exact",),
    ),
)

GOALS: Final = {"pathway": 2.3, "bytewax": 4.0, "quixstreams": 20.0, "spark": 10.0, "loop": 1.7}
"""Our rate over each peer's, after warm-up: what a full run is held against in its table."""

QUICK_FLOORS: Final = {"pathway": 1.5, "bytewax": 1.0, "quixstreams": 3.0, "spark": 5.0, "loop": 0.45}
"""A quick run ends with status 1 where a ratio is below this. It has an eighth of the trades, so that our JVM
is still warming up when they end: the floors say that nothing broke, the goals are a full run's. A run of
November 2026 had 3.5, 1.3, 6.4, 13.5 and 0.7."""


def install(name: str) -> None:
    """Have the virtual environment of a lock; some milliseconds where it is as the lock has it.

    Raises OSError or SubprocessError, with what the installer said in its ``stderr``.
    """
    lock, venv = PEERS / "requirements" / f"{name}.lock", _VENVS / name
    installed = venv / ".installed.lock"
    if installed.exists() and installed.read_bytes() == lock.read_bytes():
        return
    python = venv / "bin" / "python"
    commands: tuple[list[str | Path], ...] = (
        [_UV, "venv", "--quiet", "--clear", "--python", OWN_PYTHON, venv],
        [_UV, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", lock],
    )
    for command in commands:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
    installed.write_bytes(lock.read_bytes())


def version(contestant: Contestant) -> str:
    """Such as ``pathway 0.33.0``."""
    script = f"import importlib.metadata as m; print(m.version({contestant.package!r}))"
    done = subprocess.run([contestant.python, "-c", script], check=True, capture_output=True, text=True)
    return f"{contestant.package} {done.stdout.strip()}"
