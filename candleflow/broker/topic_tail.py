"""The last trade of each symbol in the topic: where a producer that starts finds what was published before.

Each partition is read backwards from its end, in steps that grow, until each symbol has been met in it, or in
another one by a later trade. A symbol is in one partition, but not for ever: where partitions were added, its
older trades stay in the old one. Trades that
did not come from the stream (those have ``ORIGIN_HEADER``) are passed over: they are older than what was
published beside them. So is a record that is no sound trade, whatever it says: an id from it would hide all
that is missing up to there.
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
"""So many records of a partition are looked at, which takes some ten seconds, for a symbol that is hardly
traded; what is not met by then counts as never published."""

_FIRST_STEP: Final = 1_000
_GROWTH: Final = 4
_POLL_MS: Final = 500
_MS_US: Final = 1_000


def last_trade_ids(
    bootstrap: str, topic: str, symbols: Collection[str], max_future_us: int
) -> dict[str, int]:
    """The greatest trade id of each symbol near the topic's end; a symbol that isn't there is left out.

    A trade dated more than ``max_future_us`` after its record is none, as for the processor. Blocks. Raises
    BrokerError where Kafka or the topic is away.
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
        """The symbols found here so far."""

    def step_back(self, max_future_us: int) -> Iterator[Trade]:
        """The trades of the next step."""
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
        """Whether a symbol may have a later trade farther back than what was found of it.

        It can't where all of the last step was traded before that one: the times are the exchange's.
        """
        return self._has_more and not all(
            symbol in self.met
            or (symbol in found and self._newest is not None and self._newest < found[symbol].trade_time)
            for symbol in symbols
        )


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
