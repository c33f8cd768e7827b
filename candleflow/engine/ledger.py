"""PostgreSQL's side of the engine: batches merged by its functions, over JDBC, from Spark's own JVM.

One connection, kept open, as the advisory lock that makes this the topic's one processor belongs to its
session. Whoever loses the connection has lost the lock: ``claim`` begins anew, with a new run id. Every call
is one transaction. Not for two threads at once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from py4j.java_gateway import is_instance_of
from py4j.protocol import Py4JError, Py4JJavaError
from pyspark.sql import SparkSession

from candleflow.engine.partials import LastRecord
from candleflow.errors import CandleflowError, HeldError, LedgerError, StoreError
from candleflow.market.partial import array_text, encode_windows
from candleflow.market.window import Windows

_log = logging.getLogger(__name__)

# SQLSTATE: classes of errors that pass when PostgreSQL is back, or has room again, or the rival is through.
_PASSING: Final = ("08", "40", "53", "55", "57", "58")

# What the driver says, or Java's errors behind it, where a setting is to blame and waiting doesn't help.
_ADVICE: Final = {
    "CertificateExpiredException": "it has expired, or this machine's clock is wrong",
    "CertPathBuilderException": "it isn't signed by CANDLEFLOW_POSTGRES_SSLROOTCERT",
    "HostnameVerifier": "look at CANDLEFLOW_POSTGRES_URL, or at the certificate",
    "root certificate file": "look at CANDLEFLOW_POSTGRES_SSLROOTCERT",
    "does not support SSL": "CANDLEFLOW_POSTGRES_SSLMODE asks for it",
    "no encryption": "CANDLEFLOW_POSTGRES_SSLMODE=verify-full encrypts",
    "password authentication failed": "look at CANDLEFLOW_POSTGRES_WRITER_PASSWORD, or the file of passwords",
}


class StoreAwayError(StoreError):
    """PostgreSQL can't be reached or can't answer now; a transaction under way may or may not be in."""


class SupersededError(StoreError):
    """The offsets are not where this run left them: another processor took the topic, or the database was put
    back to an earlier moment. Whoever claims the topic anew goes on from where they are."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What ``claim_topic`` gave: this run's id, and the offsets that the candles stand at, by partition.

    ``topic_id``: which topic of the name they belong to. ``last``: the last record merged, by partition,
    where that is known.
    """

    topic_id: str
    run_id: str
    offsets: dict[int, int]
    last: Mapping[int, LastRecord]


@dataclass(frozen=True, slots=True)
class Merged:
    """What ``merge_batch`` answered: ``merged``, ``already_merged`` or ``overlap``."""

    status: str
    late: int = 0
    overlap: Mapping[str, str] | None = None
    """Of an overlap: the ids that are in candles already, by symbol, as an int8multirange's text."""


class Ledger:
    """The store's functions for the processor; see the interface in ARCHITECTURE.md.

    All raise StoreAwayError where trying again may help, SupersededError where another processor has the
    topic, and StoreError otherwise.
    """

    def __init__(
        self, spark: SparkSession, url: str, properties: Mapping[str, str], topic: str, windows: Windows
    ) -> None:
        """``url`` is JDBC's, without user and password; those are in ``properties``, which no log shows."""
        gateway: Any = spark.sparkContext._gateway  # noqa: SLF001 - pyspark has no public way to its JVM
        self._gateway = gateway
        self._jvm = gateway.jvm
        self._url = url
        self._properties = dict(properties)
        self._topic = topic
        self._windows = encode_windows(windows)
        self._connection: Any = None
        self._run_id = ""

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    def claim(self, topic_id: str, held_by: str) -> Claim:
        """Connect anew and become the topic's one processor.

        Raises HeldError with the holder's name, or LedgerError where the topic was made anew.
        """
        self.close()
        self._connect()
        answer = self._call("SELECT claim_topic(?, ?, ?)", (self._topic, topic_id, held_by))
        self._run_id = answer["run_id"]
        offsets = {int(number): offset for number, offset in answer["offsets"].items()}
        records = self._call("SELECT last_records(?)", (self._topic,))
        last = {int(number): LastRecord(*one) for number, one in records.items()}
        return Claim(topic_id, self._run_id, offsets, last)

    def merge(
        self,
        expected: Mapping[int, int],
        reached: Mapping[int, int],
        last: Mapping[int, LastRecord],
        partials: Sequence[str],
        counts: Mapping[str, Any],
    ) -> Merged:
        """Merge a batch's candles, encoded by ``market.partial``, and move the offsets: both or neither.

        ``last``: the last record of each partition that has any in the batch.
        """
        answer = self._call(
            "SELECT merge_batch(?::uuid, ?, ?::jsonb, ?::jsonb, ?::partial_candle[], ?::jsonb, ?::jsonb)",
            (
                self._run_id,
                self._topic,
                _offsets_text(expected),
                _offsets_text({**reached, **{one: (reached[one], *record) for one, record in last.items()}}),
                array_text(partials),
                json.dumps(counts),
                self._windows,
            ),
        )
        return Merged(answer["status"], answer.get("late", 0), answer.get("ids"))

    def close_quiet_candles(self, closes_until_us: int) -> int:
        """Close every open candle that ends by then (microseconds since the epoch); how many."""
        return int(
            self._call(
                "SELECT close_quiet_candles(?::uuid, ?, ?::bigint)",
                (self._run_id, self._topic, str(closes_until_us)),
            )
        )

    def close(self) -> None:
        """Give up the connection, and with it the topic."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Py4JError, OSError):  # a connection that is lost can't be closed, and needn't be
                connection.close()

    def _connect(self) -> None:
        properties = self._jvm.java.util.Properties()
        for name, value in self._properties.items():
            properties.setProperty(name, value)
        try:
            self._connection = self._jvm.org.postgresql.Driver().connect(self._url, properties)
            self._connection.setAutoCommit(False)
        except Py4JJavaError as error:
            self.close()
            raise self._refused(error) or self._translated(error) from None

    def _call(self, statement: str, parameters: Sequence[str]) -> Any:
        """One function's answer, committed. A connection that an error may have harmed is given up."""
        if self._connection is None:
            raise StoreAwayError("the connection to PostgreSQL was lost")
        try:
            answer = self._execute(statement, parameters)
            self._connection.commit()
        except Py4JJavaError as error:
            translated = self._translated(error)
            self.close()
            raise translated from None
        return answer

    def _execute(self, statement: str, parameters: Sequence[str]) -> Any:
        prepared = self._connection.prepareStatement(statement)
        try:
            for position, parameter in enumerate(parameters, start=1):
                prepared.setString(position, parameter)
            result = prepared.executeQuery()
            result.next()
            return json.loads(result.getString(1))
        finally:
            with suppress(Py4JJavaError):  # the statement's own error counts
                prepared.close()

    def _refused(self, error: Py4JJavaError) -> StoreError | None:
        """An error with the setting to look at, where one is to blame that there is no connection."""
        exception = error.java_exception
        behind = " ".join(_causes(exception))
        for said, advice in _ADVICE.items():
            if said in behind:
                return StoreError(
                    f"PostgreSQL and the processor don't agree: {_first_line(exception)}: {advice}"
                )
        return None

    def _translated(self, error: Py4JJavaError) -> CandleflowError:
        """One of our errors for the driver's SQLException; anything else that comes from Java is a defect."""
        exception = error.java_exception
        if not is_instance_of(self._gateway, exception, "java.sql.SQLException"):
            raise error
        return _error_of(exception.getSQLState() or "", _first_line(exception).removeprefix("ERROR: "))


def _first_line(exception: Any) -> str:
    return " ".join(str(exception.getMessage()).split("\n")[0].split())


def _causes(exception: Any) -> Iterator[str]:
    """An exception of Java's and those behind it, each by its class and its message."""
    while exception is not None:
        yield str(exception.toString())
        exception = exception.getCause()


def _error_of(state: str, message: str) -> CandleflowError:
    if state == "CF001":
        return HeldError(message)
    if state == "CF002":
        return LedgerError(message)
    if state == "CF003":
        return SupersededError(message)
    if state.startswith(_PASSING):
        return StoreAwayError(f"{message} ({state})")
    return StoreError(f"PostgreSQL refused a call of the processor: {message} ({state})")


def _offsets_text(offsets: Mapping[int, int | tuple[int, ...]]) -> str:
    return json.dumps({str(partition): offset for partition, offset in sorted(offsets.items())})
