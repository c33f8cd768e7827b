"""Shared by all benchmarks: real servers in a temporary folder, and the environment of our programs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from candleflow import settings as settings_module
from candleflow.settings import PREFIX
from candleflow.stack.jars import ensure_jars
from candleflow.stack.java import find_java
from candleflow.stack.kafka import KafkaServer
from candleflow.stack.postgres import PostgresServer
from candleflow.stack.process import free_port
from candleflow.store import credentials

READY_SECONDS: Final = 240.0
"""Timeout of a server's start, long enough for a busy machine. No figure depends on it."""


def environment(**settings: object) -> dict[str, str]:
    """Return this process's environment with these settings (``kafka_bootstrap=...``) instead of its own."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return others | {f"{PREFIX}{name.upper()}": str(value) for name, value in settings.items()}


@contextmanager
def kafka(folder: Path) -> Iterator[KafkaServer]:
    """Run a broker on a free port until the block ends."""
    cache = settings_module.load().stack.cache_path
    server = KafkaServer(folder / "kafka", free_port(), find_java(cache), ensure_jars("kafka", cache))
    server.start()
    try:
        server.wait_until_ready(READY_SECONDS)
        yield server
    finally:
        server.stop()


@contextmanager
def postgres(folder: Path) -> Iterator[PostgresServer]:
    """Run PostgreSQL on a free port until the block ends.

    Its passwords are stored where programs with the data folder ``folder`` look for them.
    """
    passwords = folder / "run" / credentials.FILE_NAME
    server = PostgresServer(folder / "postgres", free_port(), credentials=passwords)
    server.start()
    try:
        server.wait_until_ready(READY_SECONDS)
        yield server
    finally:
        server.stop()
