"""What a race is run over, and where: a topic with its expected candles, and a place for our processor."""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import servers, topic
from bench.contestants import CONTESTANTS, install
from bench.oracle import Expected, Fold
from bench.race import Place
from candleflow import settings as settings_module
from candleflow.broker.topics import ensure_topics
from candleflow.settings import Exchange
from candleflow.stack.kafka import KafkaServer
from candleflow.stack.postgres import PostgresServer

_log = logging.getLogger("bench")

OWNER: Final = "candleflow"
TOPIC: Final = "trades"
"""As our processor's settings name it: it reads no other."""
RETENTION_HOURS: Final = 168


@dataclass(frozen=True, slots=True)
class Course:
    """A topic, how many trades are in it, and what their candles are."""

    topic: str
    trades: int
    expected: Expected


@dataclass(frozen=True, slots=True)
class Stack:
    """The servers that a race needs, and the folder that they and its runs are in."""

    kafka: KafkaServer
    postgres: PostgresServer
    folder: Path


def prepare() -> None:
    """For a program of its own: SIGTERM stops what it started, and it tells on the way what it does."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("kafka").setLevel(logging.CRITICAL)


def lay(
    bootstrap: str, name: str, trades: int, *, partitions: int = 1, symbols: Sequence[str] = topic.SYMBOLS
) -> Course:
    """Make the topic and fill it with ``trades`` trades of ``symbols``, and the closing ones."""
    filler = next(one for one in CONTESTANTS if one.lock == "loop")
    install("loop")  # which has the Kafka client that fills the topics
    ensure_topics(bootstrap, [name], partitions, 1, RETENTION_HOURS)
    began, fold = time.monotonic(), Fold()
    topic.fill(filler.python, bootstrap, name, trades, fold.add, symbols)
    course = Course(name, trades, fold.candles())
    candles, seconds = len(course.expected), time.monotonic() - began
    _log.info("topic %s: %s trades, %s candles, in %.0f s", name, f"{trades:,}", f"{candles:,}", seconds)
    return course


def provide(stack: Stack, name: str) -> str:
    """A database and a folder that no other run has; the database's URL, with its password: a secret."""
    stack.postgres.provide(OWNER, name)
    (stack.folder / name).mkdir()
    return stack.postgres.url(OWNER, name)


def address(stack: Stack, name: str) -> str:
    """The database as our settings have it: without the password, which is found in the data folder."""
    return f"postgresql://{OWNER}@{stack.postgres.host}:{stack.postgres.port}/{name}"


def our_place(stack: Stack, name: str, *, symbols: Sequence[str] = topic.SYMBOLS, **more: object) -> Place:
    """Where our processor runs, as ``provide`` made it; ``more`` are settings, such as ``spark_master``."""
    variables = servers.environment(
        exchange=Exchange.BINANCE,  # its topic is TOPIC; the processor never asks the exchange
        symbols=",".join(symbols),
        kafka_bootstrap=stack.kafka.bootstrap,
        postgres_url=address(stack, name),
        data_dir=stack.folder,
        cache_dir=settings_module.load().stack.cache_path,
        **more,
    )
    return Place(stack.postgres.url(OWNER, name), stack.folder / name, variables)
