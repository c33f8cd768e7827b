"""The last trade of each symbol in the topic: where a producer that starts finds what was published before.

The topic is read backwards from its ends, in steps that grow, until each symbol has been met. Trades that
did not come from the stream (those have ``ORIGIN_HEADER``) are passed over: they are older than what was
published beside them. So is a record that is no sound trade, whatever it says: an id from it would hide all
that is missing up to there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from typing import Any, Final, TypeAlias

from kafka import KafkaConsumer, TopicPartition, errors

from candleflow.broker.topics import consumer_of_no_group, words
from candleflow.broker.trade_log import ORIGIN_HEADER
from candleflow.errors import BrokerError
from candleflow.market.trade import Trade

_log = logging.getLogger(__name__)

ReadTrade: TypeAlias = Callable[[bytes, int], Trade | None]
"""The trade in a record, written at that time (microseconds since the epoch); None where it is none."""

RECORDS_LIMIT: Final = 400_000
"""So many records of a partition are looked at, which takes some ten seconds, for a symbol that is hardly
traded; what is not met by then counts as never published."""

_FIRST_STEP: Final = 1_000
_GROWTH: Final = 4
_POLL_MS: Final = 500
_MS_US: Final = 1_000


def last_trade_ids(
    bootstrap: str, topic: str, symbols: Collection[str], read_trade: ReadTrade
) -> dict[str, int]:
    """The greatest trade id of each symbol near the topic's end; a symbol that isn't there is left out.

    Blocks. Raises BrokerError where Kafka or the topic is away.
    """
    try:
        consumer = consumer_of_no_group(bootstrap, "candleflow-tail")
        try:
            return _read_backwards(consumer, topic, frozenset(symbols), read_trade)
        finally:
            consumer.close()
    except (errors.KafkaError, OSError) as error:
        raise BrokerError(f"Kafka at {bootstrap} can't be asked for topic {topic}: {words(error)}") from error


def _read_backwards(
    consumer: KafkaConsumer, topic: str, symbols: frozenset[str], read_trade: ReadTrade
) -> dict[str, int]:
    numbers = consumer.partitions_for_topic(topic)
    if not numbers:
        raise errors.UnknownTopicOrPartitionError(f"topic {topic} isn't there")
    found: dict[str, int] = {}
    # A symbol is in one partition, but which one is the writer's choice: all are read, until all are found.
    for partition in (TopicPartition(topic, number) for number in sorted(numbers)):
        if symbols <= found.keys():
            break
        consumer.assign([partition])
        for lower, upper in _steps(consumer, partition):
            for record in _records(consumer, partition, lower, upper):
                trade = read_trade(record.value, record.timestamp * _MS_US)
                if trade is not None and trade.symbol in symbols:
                    found[trade.symbol] = max(trade.trade_id, found.get(trade.symbol, -1))
            if symbols <= found.keys():
                break
    return found


def _steps(consumer: KafkaConsumer, partition: TopicPartition) -> Iterator[tuple[int, int]]:
    """Ranges of offsets from the end backwards, each several times as long as the one before."""
    begin = consumer.beginning_offsets([partition])[partition]
    end = upper = consumer.end_offsets([partition])[partition]
    step = _FIRST_STEP
    while upper > begin and end - upper < RECORDS_LIMIT:
        lower = max(begin, upper - step)
        yield lower, upper
        upper, step = lower, step * _GROWTH
    if upper > begin:
        _log.warning("%s: only the last %d records were looked at", partition.topic, end - upper)


def _records(consumer: KafkaConsumer, partition: TopicPartition, lower: int, upper: int) -> Iterator[Any]:
    """Those of these offsets that the stream may have brought."""
    consumer.seek(partition, lower)
    while consumer.position(partition) < upper:
        for record in consumer.poll(timeout_ms=_POLL_MS).get(partition, ()):
            is_filled_in = any(name == ORIGIN_HEADER for name, _ in record.headers)
            if record.offset < upper and record.value is not None and not is_filled_in:
                yield record
