"""The topic of gaps with a real Kafka: its events, and the lease that only one producer can hold."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.cluster import ClusterMetadata
from kafka.coordinator.assignors.range import RangePartitionAssignor

from candleflow.broker import gap_log, lease
from candleflow.broker.gap_log import decode, encode
from candleflow.broker.lease import Lease
from candleflow.broker.topics import ensure_topics
from candleflow.errors import HeldError, MarketError
from candleflow.market.gap import RANGES_LIMIT, GapEvent, GapEventKind
from candleflow.market.shard import ALL, Shard
from candleflow.stack import kafka
from candleflow.stack.kafka import KafkaServer
from candleflow.stack.process import wait_for
from tests.broker.topics import delete_topic

SEEN = GapEvent(GapEventKind.SEEN, "BTCUSDT", 101, 104, 1_763_851_200_000_000, "reconnect")
FILLED = GapEvent(GapEventKind.FILLED, "BTCUSDT", 101, 104, 1_763_851_201_000_000, "historicalTrades")


@pytest.fixture
def gaps(kafka_bootstrap: str, topic: str) -> str:
    ensure_topics(kafka_bootstrap, [topic], gap_log.PARTITIONS, 1, gap_log.RETENTION_HOURS)
    return topic


def write(bootstrap: str, topic: str, *records: bytes) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    for record in records:
        producer.send(topic, record).get(timeout=10)
    producer.close()


class Reader:
    """A Lease, and the events that it passed on."""

    def __init__(self, bootstrap: str, topic: str, holder: str, shard: Shard = ALL) -> None:
        self.events: list[GapEvent] = []
        self.begun = 0
        self.log = Lease(
            bootstrap,
            topic,
            holder=holder,
            shard=shard,
            on_all=self._begin,
            on_more=self._go_on,
        )

    def _begin(self, events: list[GapEvent]) -> None:
        self.events = events
        self.begun += 1

    def _go_on(self, events: list[GapEvent]) -> None:
        self.events = [*self.events, *events]


@contextmanager
def holding(bootstrap: str, topic: str, holder: str, shard: Shard = ALL) -> Iterator[Reader]:
    reader = Reader(bootstrap, topic, holder, shard)
    reader.log.acquire(20, lambda: False)
    try:
        yield reader
    finally:
        reader.log.close(5)


def test_an_event_is_read_back_as_it_was_written() -> None:
    assert decode(encode(SEEN)) == SEEN
    assert encode(SEEN) == (
        b'{"event":"seen","symbol":"BTCUSDT","first_trade_id":101,"last_trade_id":104,'
        b'"at":1763851200000000,"why":"reconnect"}'
    )


def test_an_event_of_many_ranges_has_them_all() -> None:
    some = GapEvent.of(GapEventKind.FILLED, "BTCUSDT", ((101, 103), (104, 105)), 7, "aggTrades")
    assert decode(encode(some)) == some
    assert encode(some) == (
        b'{"event":"filled","symbol":"BTCUSDT","trade_ids":"{[101,103),[104,105)}","at":7,"why":"aggTrades"}'
    )


def test_the_longest_event_is_read_back() -> None:
    ranges = tuple((10**18 + 2 * one, 10**18 + 2 * one + 1) for one in range(RANGES_LIMIT))
    longest = GapEvent.of(GapEventKind.GIVEN_UP, "BTCUSDT", ranges, 7, "why")
    assert decode(encode(longest)) == longest


@pytest.mark.parametrize(
    "record",
    [
        b"", b"{", b"[]", b"null", b"\xff", encode(SEEN).replace(b"101", b'"101"'),
        encode(SEEN).replace(b"101", b"105"), encode(SEEN).replace(b"101", b"-1"),
        encode(SEEN).replace(b"seen", b"sighted"), encode(SEEN).replace(b"BTCUSDT", b"BTC USDT"),
        encode(SEEN).replace(b"101", b"true"), encode(SEEN).replace(b"101", b"0101"),
        encode(SEEN).replace(b'"at"', b'"trade_ids":"{}","at"'),
        encode(SEEN).replace(b'"at"', b'"trade_ids":"[1,2)","at"'),
        encode(SEEN).replace(b'"at"', b'"trade_ids":7,"at"'),
        encode(SEEN).replace(b"reconnect", b"x" * 70_000),
    ],
)  # fmt: skip
def test_an_invalid_event_is_rejected(record: bytes) -> None:
    with pytest.raises(MarketError, match="not a gap event"):
        decode(record)


def test_it_reads_from_the_first_event_on_and_skips_invalid_ones(kafka_bootstrap: str, gaps: str) -> None:
    write(kafka_bootstrap, gaps, encode(SEEN), b"garbage")
    with holding(kafka_bootstrap, gaps, "here") as reader:
        assert reader.events == [SEEN]
        assert wait_for(lambda: reader.log.is_held, 20), "kafka-python forms the group a second time"
        write(kafka_bootstrap, gaps, encode(FILLED))
        assert wait_for(lambda: reader.events == [SEEN, FILLED], 20)
    assert gap_log.read_all(kafka_bootstrap, gaps) == [SEEN, FILLED]


def test_reading_resumes_where_it_stopped_until_the_topic_is_recreated(
    kafka_bootstrap: str, gaps: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = noted_records(monkeypatch)
    reader = gap_log.GapReader(kafka_bootstrap, gaps)
    assert reader.read() == ([], True)
    write(kafka_bootstrap, gaps, encode(SEEN), b"garbage")
    assert reader.read() == ([SEEN], False)
    assert reader.read() == ([], False)
    write(kafka_bootstrap, gaps, encode(FILLED))
    assert reader.read() == ([FILLED], False)
    assert len(decoded) == 3, "no record is read twice"
    recreate(kafka_bootstrap, gaps)
    write(kafka_bootstrap, gaps, *[encode(FILLED)] * 4)
    assert reader.read() == ([FILLED] * 4, True)
    assert gap_log.GapReader(kafka_bootstrap, gaps).read() == ([FILLED] * 4, True)


def noted_records(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Record every record that is decoded from now on."""
    decoded: list[bytes] = []

    def noting(record: bytes) -> GapEvent:
        decoded.append(record)
        return decode(record)

    monkeypatch.setattr(gap_log, "decode", noting)
    return decoded


def recreate(bootstrap: str, topic: str) -> None:
    delete_topic(bootstrap, topic)
    gap_log.ensure_topic(bootstrap, topic, 1)


def test_the_lease_holder_reads_no_event_twice_and_all_of_a_recreated_topic(
    kafka_bootstrap: str, gaps: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_CHECK_SECONDS", 0.1)
    write(kafka_bootstrap, gaps, encode(SEEN))
    with holding(kafka_bootstrap, gaps, "here") as reader:
        for count in range(1, 6):
            write(kafka_bootstrap, gaps, encode(FILLED))
            expected = [SEEN, *[FILLED] * count]
            assert wait_for(lambda: reader.events == expected, 20)  # noqa: B023 - asked at once
        assert reader.begun == 1
        recreate(kafka_bootstrap, gaps)
        write(kafka_bootstrap, gaps, encode(FILLED))
        assert wait_for(lambda: reader.events == [FILLED], 30)


def test_a_topic_that_was_gone_only_during_the_assignment_is_read(
    kafka_bootstrap: str, gaps: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kafka-python then assigns nothing, and sees no change afterwards. It joins twice anyway."""
    clusters: list[ClusterMetadata] = []
    assign = RangePartitionAssignor.assign

    def assign_nothing_twice(cluster: ClusterMetadata, members: Any) -> Any:
        clusters.append(cluster)
        return assign(ClusterMetadata() if len(clusters) <= 2 else cluster, members)

    monkeypatch.setattr(RangePartitionAssignor, "assign", staticmethod(assign_nothing_twice))
    write(kafka_bootstrap, gaps, encode(SEEN))
    with holding(kafka_bootstrap, gaps, "here") as reader:
        assert reader.events == [SEEN]
        assert len(clusters) > 2


@pytest.fixture
def long_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kafka._PROPERTIES, "group.initial.rebalance.delay.ms", "5000")


@pytest.mark.slow
@pytest.mark.timeout(90)
@pytest.mark.usefixtures("long_delay")
def test_a_group_that_takes_long_to_form_is_waited_for(own_broker: KafkaServer) -> None:
    """A new consumer would start Kafka's delay anew, again and again. By default the delay is 3 s."""
    gap_log.ensure_topic(own_broker.bootstrap, "gaps", 1)
    write(own_broker.bootstrap, "gaps", encode(SEEN))
    with holding(own_broker.bootstrap, "gaps", "here") as reader:
        assert reader.events == [SEEN]


def test_the_second_producer_is_refused_with_the_holders_name_and_the_first_continues(
    kafka_bootstrap: str, gaps: str
) -> None:
    with holding(kafka_bootstrap, gaps, "here") as first:
        second = Reader(kafka_bootstrap, gaps, "there")
        with pytest.raises(HeldError, match="here"):
            second.log.acquire(1, lambda: False)
        write(kafka_bootstrap, gaps, encode(SEEN))
        assert wait_for(lambda: first.events == [SEEN] and first.log.is_held, 20)


def test_after_the_first_has_stopped_the_second_gets_the_lease(kafka_bootstrap: str, gaps: str) -> None:
    with holding(kafka_bootstrap, gaps, "here"):
        pass
    began_at = time.monotonic()
    with holding(kafka_bootstrap, gaps, "there") as second:
        assert wait_for(lambda: second.log.is_held, 20)
    assert time.monotonic() - began_at < lease.SESSION_MS / 1_000, "the first had taken its leave"


def stuck_once(monkeypatch: pytest.MonkeyPatch) -> list[KafkaConsumer]:
    """Record the consumers that are created from now on. The first one returns no records."""
    join = Lease._joined
    made: list[KafkaConsumer] = []

    def joined(log: Lease) -> KafkaConsumer:
        consumer = join(log)
        made.append(consumer)
        if len(made) == 1:
            poll = consumer.poll
            consumer.poll = lambda **of: poll(**of) and {}
        return consumer

    monkeypatch.setattr(Lease, "_joined", joined)
    monkeypatch.setattr(lease, "_CHECK_SECONDS", 0.3)
    monkeypatch.setattr(gap_log, "_SILENCE_SECONDS", 0.3)
    return made


@pytest.mark.slow
def test_a_stuck_consumer_is_replaced(
    kafka_bootstrap: str, gaps: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After a broker's restart, a consumer once returned nothing, and the producer never got the lease."""
    write(kafka_bootstrap, gaps, encode(SEEN))
    made = stuck_once(monkeypatch)
    with holding(kafka_bootstrap, gaps, "here") as reader:
        assert wait_for(lambda: reader.events == [SEEN] and reader.log.is_held, 20)
    assert len(made) == 2
    assert "with a new consumer" in caplog.text


@pytest.mark.slow
def test_a_stuck_consumer_stops_if_another_process_has_joined(
    kafka_bootstrap: str, gaps: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a suspended process resumes: the group has removed it, and it doesn't know yet."""
    write(kafka_bootstrap, gaps, encode(SEEN))
    with holding(kafka_bootstrap, gaps, "there"):
        monkeypatch.setattr(Lease, "_other_holder", lambda _: None)
        stuck_once(monkeypatch)
        first = Reader(kafka_bootstrap, gaps, "here")
        with pytest.raises(HeldError, match="there"):
            first.log.acquire(20, lambda: False)


@pytest.mark.parametrize("shards", [("1/2", "2/2"), ("1/2", "2/3")])
def test_shards_without_common_symbols_hold_their_leases_at_the_same_time(
    kafka_bootstrap: str, gaps: str, shards: tuple[str, str]
) -> None:
    one, other = map(Shard.of, shards)
    with (
        holding(kafka_bootstrap, gaps, "here", one) as first,
        holding(kafka_bootstrap, gaps, "there", other) as second,
    ):
        write(kafka_bootstrap, gaps, encode(SEEN))
        assert wait_for(lambda: first.events == second.events == [SEEN], 20), "both read all of it"
        assert wait_for(lambda: first.log.is_held and second.log.is_held, 20)


@pytest.mark.parametrize(("held", "wanted"), [("2/2", "2/2"), ("1/1", "2/2"), ("2/2", "1/1"), ("2/2", "3/3")])
def test_an_overlapping_shard_is_refused_with_the_name_of_the_other(
    kafka_bootstrap: str, gaps: str, held: str, wanted: str
) -> None:
    with holding(kafka_bootstrap, gaps, "here", Shard.of(held)) as first:
        second = Reader(kafka_bootstrap, gaps, "there", Shard.of(wanted))
        with pytest.raises(HeldError, match=f"here, for shard {held}"):
            second.log.acquire(1, lambda: False)
        assert wait_for(lambda: first.log.is_held, 20)
    with holding(kafka_bootstrap, gaps, "there", Shard.of(wanted)) as third:
        assert wait_for(lambda: third.log.is_held, 20)


def test_overlapping_shards_that_start_at_once_do_not_both_get_the_lease(
    kafka_bootstrap: str, gaps: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither sees the other before it joins, so each checks again as a member. Both may stop."""
    monkeypatch.setattr(Lease, "_other_holder", lambda _: None)
    readers = [
        Reader(kafka_bootstrap, gaps, place, Shard.of(shard))
        for place, shard in (("here", "1/1"), ("there", "1/2"))
    ]
    refused: list[HeldError] = []

    def acquire(reader: Reader) -> None:
        try:
            reader.log.acquire(0, lambda: False)
        except HeldError as error:
            refused.append(error)

    threads = [threading.Thread(target=acquire, args=(reader,)) for reader in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert refused
    assert not all(reader.log.is_held for reader in readers)
    for reader in readers:
        reader.log.close(5)


def test_two_producers_that_start_at_once_do_not_both_get_the_lease(kafka_bootstrap: str, gaps: str) -> None:
    readers = [Reader(kafka_bootstrap, gaps, place) for place in ("here", "there")]

    def acquire(reader: Reader) -> None:
        try:
            reader.log.acquire(0, lambda: False)
        except HeldError:
            reader.log.close(5)

    threads = [threading.Thread(target=acquire, args=(reader,)) for reader in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wait_for(lambda: sum(reader.log.is_held for reader in readers) == 1, 20)
    for reader in readers:
        reader.log.close(5)
