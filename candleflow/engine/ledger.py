"""Merge batches by calling PostgreSQL's functions over JDBC, from Spark's JVM.

The ledger keeps one connection open, because the session holds the advisory lock that lets only one processor
read the topic. If the connection is lost, so is the lock: ``claim`` takes it again, with a new run id. Each
call is one transaction. Not thread-safe.
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

# SQLSTATE classes of temporary errors: PostgreSQL is down or out of resources, or transactions conflict.
_PASSING: Final = ("08", "40", "53", "55", "57", "58")

# Texts in the driver's or Java's errors that point to a wrong setting, where a retry doesn't help.
_ADVICE: Final = {
    "CertificateExpiredException": "it has expired, or this machine's clock is wrong",
    "CertPathBuilderException": "it isn't signed by CANDLEFLOW_POSTGRES_SSLROOTCERT",
    "HostnameVerifier": "check CANDLEFLOW_POSTGRES_URL, or the certificate",
    "root certificate file": "check CANDLEFLOW_POSTGRES_SSLROOTCERT",
    "does not support SSL": "CANDLEFLOW_POSTGRES_SSLMODE asks for it",
    "no encryption": "CANDLEFLOW_POSTGRES_SSLMODE=verify-full encrypts",
    "password authentication failed": "check CANDLEFLOW_POSTGRES_WRITER_PASSWORD, or the password file",
}


class StoreAwayError(StoreError):
    """PostgreSQL can't be reached or can't answer now. It is unknown whether a running transaction was
    committed."""


class SupersededError(StoreError):
    """The stored offsets are not those that this run left: another processor took the topic, or an older
    database was restored. The next claim continues at the stored offsets."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer of ``claim_topic``: this run's id, and the next offset to merge of each partition.

    ``topic_id``: Kafka's id of the topic that the offsets belong to. ``last``: the last record merged, by
    partition, if known.
    """

    topic_id: str
    run_id: str
    offsets: dict[int, int]
    last: Mapping[int, LastRecord]


@dataclass(frozen=True, slots=True)
class Merged:
    """The answer of ``merge_batch``; ``status`` is ``merged``, ``already_merged`` or ``overlap``."""

    status: str
    late: int = 0
    seconds: float = 0.0
    """How long PostgreSQL took."""
    overlap: Mapping[str, str] | None = None
    """For an overlap: the ids that are already in candles, by symbol, as the text of an int8multirange."""


class Ledger:
    """Calls the store's functions for the processor; see their files in store/functions.

    All methods raise StoreAwayError if a retry may help, SupersededError if another processor has the topic,
    and StoreError otherwise.
    """

    def __init__(
        self, spark: SparkSession, url: str, properties: Mapping[str, str], topic: str, windows: Windows
    ) -> None:
        """``url`` is the JDBC URL. User and password are in ``properties``, which are never logged."""
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
        """Connect, take the topic's lock, and return the stored offsets.

        Raises HeldError, with the holder's name, while another processor has the lock, and LedgerError if the
        topic was deleted and created again.
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
        """Merge a batch's partial candles and move the offsets from ``expected`` to ``reached``, atomically.

        ``partials``: encoded by ``market.partial``. ``last``: the last record of each partition that has any
        in the batch. ``counts``: records by outcome.
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
        return Merged(answer["status"], answer.get("late", 0), overlap=answer.get("ids"))

    def close_quiet_candles(self, closes_until_us: int) -> int:
        """Close every open candle that ends by ``closes_until_us`` (since the epoch); return how many."""
        return int(
            self._call(
                "SELECT close_quiet_candles(?::uuid, ?, ?::bigint)",
                (self._run_id, self._topic, str(closes_until_us)),
            )
        )

    def close(self) -> None:
        """Close the connection, which releases the topic's lock."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Py4JError, OSError):  # a lost connection can't be closed, and need not be
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
            raise self._settings_error(error) or self._translated(error) from None

    def _call(self, statement: str, parameters: Sequence[str]) -> Any:
        """Call one function, commit, and return its answer. After an error the connection is closed."""
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
            with suppress(Py4JJavaError):  # the statement's own error is the one to raise
                prepared.close()

    def _settings_error(self, error: Py4JJavaError) -> StoreError | None:
        """Return an error that names the setting to check, if a setting caused the failure to connect."""
        exception = error.java_exception
        behind = " ".join(_causes(exception))
        for said, advice in _ADVICE.items():
            if said in behind:
                return StoreError(
                    f"the processor can't connect to PostgreSQL: {_first_line(exception)}: {advice}"
                )
        return None

    def _translated(self, error: Py4JJavaError) -> CandleflowError:
        """Convert the driver's SQLException to one of our errors; re-raise any other Java exception."""
        exception = error.java_exception
        if not is_instance_of(self._gateway, exception, "java.sql.SQLException"):
            raise error
        return _error_of(exception.getSQLState() or "", _first_line(exception).removeprefix("ERROR: "))


def _first_line(exception: Any) -> str:
    return " ".join(str(exception.getMessage()).split("\n")[0].split())


def _causes(exception: Any) -> Iterator[str]:
    """Yield the class and message of a Java exception and of each of its causes."""
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
    return StoreError(f"PostgreSQL rejected a call of the processor: {message} ({state})")


def _offsets_text(offsets: Mapping[int, int | tuple[int, ...]]) -> str:
    return json.dumps({str(partition): offset for partition, offset in sorted(offsets.items())})
