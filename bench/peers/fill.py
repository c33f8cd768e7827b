"""Send lines from standard input to Kafka: ``fill.py BOOTSTRAP TOPIC``.

A line is a record: key, tab, value. The exit status is 1 if Kafka did not accept all of them.
"""

from __future__ import annotations

import sys
from typing import Any

from confluent_kafka import Producer

POLL_EVERY = 10_000


def main() -> int:
    bootstrap, topic = sys.argv[1:3]
    failed = 0

    def note(error: Any, record: Any) -> None:
        nonlocal failed
        failed += error is not None

    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,  # keeps the order of trade ids, without duplicates
            "linger.ms": 20,
            "log_level": 3,  # only errors, not each wait for the broker
            "queue.buffering.max.messages": 1_000_000,
            "on_delivery": note,
        }
    )
    for number, line in enumerate(sys.stdin.buffer):
        key, value = line[:-1].split(b"\t", 1)
        while True:
            try:
                producer.produce(topic, value, key)
                break
            except BufferError:
                producer.poll(0.1)
        if number % POLL_EVERY == 0:
            producer.poll(0)
    return 1 if producer.flush(60) or failed else 0


if __name__ == "__main__":
    sys.exit(main())
