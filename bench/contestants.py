"""The contestants: our processor, and other projects that make the same candles as their docs recommend.

This module says how each is started, which fields it stores, and the expected ratio of our rate to its rate.

Each peer is installed from its own lock file into its own virtual environment, so their dependencies can't
conflict. If one can't be installed, the others still run. None is a dependency of Candleflow.
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
    """A program that makes candles, and how to run it and read its table."""

    name: str
    title: str
    program: Path
    package: str
    """The Python distribution whose version is reported."""
    licence: str
    how: str
    fields: tuple[str, ...] = OHLCV
    lock: str | None = None
    """Name of its lock file in ``peers/requirements``; None: it uses the project's own environment."""
    arguments: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()
    ready: str = "about to read"
    """Text it prints when its start is over, just before it reads the first record."""
    condition: str = "true"
    """SQL condition that selects the 5-second candles in its table ``candles``."""
    keeps_milliseconds: bool = False
    """Whether its column ``open_time`` is a number of milliseconds. Else it is a timestamp in UTC."""
    is_slow: bool = False
    """Whether it reads the short topic; the long one would take it 15 minutes."""

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
"""The ratio of our rate to each peer's after warm-up that we aim for; shown in a full run's table."""

QUICK_FLOORS: Final = {"pathway": 1.5, "bytewax": 1.0, "quixstreams": 3.0, "spark": 5.0, "loop": 0.45}
"""A quick run ends with status 1 if a ratio is below these.

They are lower than GOALS because a quick run has an eighth of the trades and ends while our JVM still warms
up. They only show that nothing broke. A run of November 2026 had 3.5, 1.3, 6.4, 13.5 and 0.7."""


def install(name: str) -> None:
    """Create the virtual environment of a lock file, unless it is there and up to date.

    Raises OSError or SubprocessError, whose ``stderr`` has the installer's output.
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
    """Return the package with its installed version, such as ``pathway 0.33.0``."""
    script = f"import importlib.metadata as m; print(m.version({contestant.package!r}))"
    done = subprocess.run([contestant.python, "-c", script], check=True, capture_output=True, text=True)
    return f"{contestant.package} {done.stdout.strip()}"
