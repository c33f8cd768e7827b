"""Invalid ("poison") records written to Kafka without the producer.

Each one must go to the dead-letter topic once, with its reason, and change nothing else.
"""

from __future__ import annotations

import json
import time
from random import Random
from typing import Any

import pytest

from candleflow.engine.trades import NO_VALUE
from tests.engine.test_trades import NIGHTMARES, reference
from tests.faults.conftest import MakePipeline
from tests.faults.direct import Record, text, trade
from tests.faults.feeds import SYMBOLS, seeded

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PARTITIONS = 3
STOP_SECONDS = 15
ODD = 40
"""Number of valid trades of each symbol in each round."""
FAR_AHEAD = 10**15
"""A trade id that no market has reached."""

NOW_US = time.time_ns() // 1_000
POISON = [
    (value, verdict)
    for value, verdict in ((value, reference(value, NOW_US)) for _, value, _ in NIGHTMARES)
    if isinstance(verdict, str)
]


def test_poison_in_the_topic_is_rejected_and_changes_no_candle(
    make_pipeline: MakePipeline, random: Random
) -> None:
    """Poison comes first, last and between valid trades, while the processor is down and while it runs.

    It is also at the end of the topic, where a starting producer looks for the last trade of each symbol.
    """
    pipeline = make_pipeline(seeded(rate=100), kafka_partitions=PARTITIONS)
    pipeline.start()
    assert pipeline.processor.terminate(STOP_SECONDS) == 0
    pipeline.put(poisoned(random, first_id=1))
    pipeline.processor.start()
    pipeline.wait_for_trades(1)
    pipeline.put(poisoned(random, first_id=1 + ODD))
    pipeline.wait_for_trades(200)
    pipeline.put(forged_ends())
    pipeline.stop_producer()
    pipeline.put(forged_ends())
    pipeline.producer.start()
    pipeline.report.faults["poison"] += 2 * PARTITIONS * len(POISON)
    pipeline.judge(whole=True)


def poisoned(random: Random, first_id: int) -> list[Record]:
    """Return all poison for each partition, mixed with valid trades; the first and last are poison."""
    records = []
    for partition in range(PARTITIONS):
        symbol = f"ODD{partition}USDT"
        poison = [
            Record(
                value, partition, random.choice([None, symbol.encode(), b"\xff"]) if value else b"", reason
            )
            for value, reason in random.sample(POISON, len(POISON))
        ]
        sound = [Record(value, partition, None) for value in odd_but_sound(symbol, first_id)]
        middle = [*poison[1:-1], *sound, *random.sample(sound, 3)]  # with three duplicates
        random.shuffle(middle)
        records += [poison[0], *middle, poison[-1]]
    return records


def odd_but_sound(symbol: str, first_id: int) -> list[bytes]:
    """Return valid trades in former, current and conceivable future formats, and in unusual JSON."""
    begin_ms = int(time.time() * 1_000) - 30_000
    made = [trade(symbol, first_id + at, begin_ms + at * 500) for at in range(ODD)]
    in_us = {"T": made[1]["T"] * 1_000 + 999, "E": made[1]["E"] * 1_000}
    return [
        *(text(one) for one in made[:1]),
        text(made[1] | in_us),
        text({name: value for name, value in made[2].items() if name != "M"}),
        text(made[3] | {"b": 88, "a": 50}),  # order ids, which Binance sent until 2024
        text(made[4] | {"X": {"y": [None, 1.5, {"z": "w"}]}}),
        text(dict(reversed(made[5].items()))),
        json.dumps(made[6], indent=2).encode(),
        text(made[7]).replace(b"USDT", b"\\u0055SDT"),
        text(made[8] | {"E": 10**50}),
        text(made[9])[:-1] + b',"x":' + b"[" * 300 + b"]" * 300 + b"}",
        *(text(one) for one in made[10:]),
    ]


def forged_ends() -> list[Record]:
    """Return invalid records of the followed symbols with trade ids far ahead."""
    now_ms = int(time.time() * 1_000)
    forged: list[tuple[dict[str, Any], str]] = [
        ({"T": 9_999_999_999_999}, "trade time in the future"),
        ({"q": "-1"}, "quantity not a finite positive decimal"),
        ({"e": "aggTrade"}, "not a trade event"),
    ]
    return [
        Record(text(trade(symbol, FAR_AHEAD, now_ms) | changes), partition, symbol.encode(), reason)
        for symbol in SYMBOLS
        for partition in range(PARTITIONS)
        for changes, reason in forged
    ] + [Record(None, partition, b"", NO_VALUE) for partition in range(PARTITIONS)]
