"""Finds the last trade id of each symbol in the topic, so that a starting producer knows what was published.

Each partition is read backwards from its end, in growing steps. Reading stops once every symbol was found in
the partition, or has a later trade in another one. Usually a symbol's trades are in one partition; if
partitions were added, its older trades stay in the old one.

Two kinds of records are skipped:

- trades that didn't come from the live stream (with ``ORIGIN_HEADER``): they are older than their neighbours;
- records that are not valid trades: a wrong id would hide all gaps up to it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition

from candleflow.broker.topics import asking, consumer_of_no_group, partitions_of
from candleflow.broker.trade_log import ORIGIN_HEADER
from candleflow.market.payload import decode_payload
from candleflow.market.trade import Trade

_log = logging.getLogger(__name__)

RECORDS_LIMIT: Final = 400_000
"""Maximum number of records to read of a partition, which takes about ten seconds. A rarely traded symbol
that isn't found within them counts as never published."""

_FIRST_STEP: Final = 1_000
_GROWTH: Final = 4
_POLL_MS: Final = 500
_MS_US: Final = 1_000


def last_trade_ids(
    bootstrap: str, topic: str, symbols: Collection[str], max_future_us: int
) -> dict[str, int]:
    """Return the greatest trade id of each symbol near the topic's end; blocks.

    A symbol that isn't found has no entry. A trade dated more than ``max_future_us`` after its record is
    ignored: the processor rejects it too. Raises BrokerError if Kafka or the topic is unavailable.
    """
    with asking(bootstrap, topic), closing(consumer_of_no_group(bootstrap, "candleflow-tail")) as consumer:
        return _read_backwards(consumer, topic, frozenset(symbols), max_future_us)


def _read_backwards(
    consumer: KafkaConsumer, topic: str, symbols: frozenset[str], max_future_us: int
) -> dict[str, int]:
    found: dict[str, Trade] = {}
    tails = [_Tail(consumer, partition) for partition in partitions_of(consumer, topic)]
    while tails:
        for tail in tails:
            for trade in tail.step_back(max_future_us):
                if trade.symbol in symbols:
                    tail.met.add(trade.symbol)
                    found[trade.symbol] = max(
                        trade, found.get(trade.symbol, trade), key=lambda one: one.trade_id
                    )
        tails = [tail for tail in tails if tail.may_have_later(symbols, found)]
    return {symbol: trade.trade_id for symbol, trade in found.items()}


class _Tail:
    """One partition, read backwards."""

    def __init__(self, consumer: KafkaConsumer, partition: TopicPartition) -> None:
        self._consumer = consumer
        self._partition = partition
        self._steps = _steps(consumer, partition)
        self._has_more = True
        self._newest: int | None = None
        self.met: set[str] = set()
        """The symbols found in this partition so far."""

    def step_back(self, max_future_us: int) -> Iterator[Trade]:
        """Return the trades of the next step backwards."""
        bounds = next(self._steps, None)
        self._has_more = bounds is not None
        self._newest = None
        if bounds is None:
            return
        self._consumer.assign([self._partition])
        for record in _records(self._consumer, self._partition, *bounds):
            trade = decode_payload(record.value, record.timestamp * _MS_US, max_future_us)
            if isinstance(trade, Trade):
                self._newest = max(trade.trade_time, self._newest or 0)
                yield trade

    def may_have_later(self, symbols: frozenset[str], found: Mapping[str, Trade]) -> bool:
        """Return whether the unread part may have a symbol's later trade than the one found.

        It can't if every trade of the last step is older than the one found, by the exchange's times.
        """
        return self._has_more and not all(
            symbol in self.met
            or (symbol in found and self._newest is not None and self._newest < found[symbol].trade_time)
            for symbol in symbols
        )


def _steps(consumer: KafkaConsumer, partition: TopicPartition) -> Iterator[tuple[int, int]]:
    """Return ranges of offsets from the end backwards, each ``_GROWTH`` times as long as the one before."""
    begin = consumer.beginning_offsets([partition])[partition]
    end = upper = consumer.end_offsets([partition])[partition]
    step = _FIRST_STEP
    while upper > begin and end - upper < RECORDS_LIMIT:
        lower = max(begin, upper - step)
        yield lower, upper
        upper, step = lower, step * _GROWTH
    if upper > begin:
        _log.warning(
            "%s: only the last %d records of partition %d were searched for the last published trades; a "
            "symbol not found counts as never published",
            partition.topic,
            end - upper,
            partition.partition,
        )


def _records(consumer: KafkaConsumer, partition: TopicPartition, lower: int, upper: int) -> Iterator[Any]:
    """Return the records with these offsets, without those that didn't come from the live stream."""
    consumer.seek(partition, lower)
    while consumer.position(partition) < upper:
        for record in consumer.poll(timeout_ms=_POLL_MS).get(partition, ()):
            is_filled_in = any(name == ORIGIN_HEADER for name, _ in record.headers)
            if record.offset < upper and record.value is not None and not is_filled_in:
                yield record
