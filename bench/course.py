"""Prepare a race: a filled topic with its expected candles, and an environment for our processor."""

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
"""The only topic that our processor reads with the settings below."""
RETENTION_HOURS: Final = 168


@dataclass(frozen=True, slots=True)
class FilledTopic:
    """A filled topic: its name, the number of trades in it, and the candles expected from them."""

    topic: str
    trades: int
    expected: Expected


@dataclass(frozen=True, slots=True)
class Stack:
    """The servers that a race needs, and the folder for their files and the runs."""

    kafka: KafkaServer
    postgres: PostgresServer
    folder: Path


def prepare() -> None:
    """Set up this program: SIGTERM also stops its children, and progress is logged."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("kafka").setLevel(logging.CRITICAL)


def fill_topic(
    bootstrap: str, name: str, trades: int, *, partitions: int = 1, symbols: Sequence[str] = topic.SYMBOLS
) -> FilledTopic:
    """Create the topic and fill it with ``trades`` trades of ``symbols`` and then the closing trades."""
    filler = next(one for one in CONTESTANTS if one.lock == "loop")
    install("loop")  # its environment has confluent-kafka, which fills the topics
    ensure_topics(bootstrap, [name], partitions, 1, RETENTION_HOURS)
    began, fold = time.monotonic(), Fold()
    topic.fill(filler.python, bootstrap, name, trades, fold.add, symbols)
    filled = FilledTopic(name, trades, fold.candles())
    candles, seconds = len(filled.expected), time.monotonic() - began
    _log.info("topic %s: %s trades, %s candles, in %.0f s", name, f"{trades:,}", f"{candles:,}", seconds)
    return filled


def provide(stack: Stack, name: str) -> str:
    """Create a database and a folder for one run; return the database's URL, with its secret password."""
    stack.postgres.provide(OWNER, name)
    (stack.folder / name).mkdir()
    return stack.postgres.url(OWNER, name)


def address(stack: Stack, name: str) -> str:
    """Return the database's URL for our settings: without the password, which is in the data folder."""
    return f"postgresql://{OWNER}@{stack.postgres.host}:{stack.postgres.port}/{name}"


def our_place(stack: Stack, name: str, *, symbols: Sequence[str] = topic.SYMBOLS, **more: object) -> Place:
    """Return the place of our processor, after ``provide``. ``more`` are further settings."""
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
