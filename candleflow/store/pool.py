"""A small connection pool whose queries have deadlines.

No caller waits longer than the deadline, even if PostgreSQL is down, unreachable or stops in the middle of an
answer. The pool reconnects when PostgreSQL is back.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ
from psycopg2.extensions import connection as Connection  # noqa: N812 - a class by psycopg2's naming

from candleflow.errors import StoreError, UnknownOutcomeError
from candleflow.store import credentials
from candleflow.store.credentials import Dsn

CONNECT_SECONDS: Final = 3.0
QUERY_SECONDS: Final = 6.0
"""Default deadline; above the reader's statement_timeout, so that the server ends a slow query first."""

_SERVER_IS_GOING: Final = frozenset({None, "57P01", "57P02", "57P03"})
"""Error codes for a lost server: None (the connection broke), shutdown, crash, can't connect now."""


class Pool:
    """Up to ``size`` connections, each used by one thread at a time, and reopened after a failure."""

    def __init__(self, dsn: Dsn, size: int) -> None:
        self._dsn = dsn
        self._places = threading.BoundedSemaphore(size)
        self._idle: list[Connection] = []
        self._lock = threading.Lock()

    def rows(
        self,
        query: str,
        arguments: Mapping[str, Any],
        *,
        within_seconds: float | None = None,
        may_repeat: bool = False,
    ) -> Sequence[tuple[Any, ...]]:
        """Return all rows of a query within ``within_seconds``, or QUERY_SECONDS if that is None.

        ``may_repeat`` says that the query is idempotent: if an idle connection turns out to be broken, it is
        run once more on a new one. Any other query runs once. If its reply is cut off or late, PostgreSQL may
        have committed it, and the call raises UnknownOutcomeError. Raises StoreError for every other failure.
        """
        seconds = QUERY_SECONDS if within_seconds is None else within_seconds
        with self._place():
            kept = self._take_idle()
            try:
                return self._ask(kept or self._connect(), query, arguments, seconds)
            except (psycopg2.Error, TimeoutError) as error:
                if kept is None or not may_repeat or not _is_cut_off(error):
                    raise _failure(self._dsn, error, may_repeat=may_repeat) from error
            self.drop_idle()  # PostgreSQL restarted: the other connections are broken too
            try:
                return self._ask(self._connect(), query, arguments, seconds)
            except (psycopg2.Error, TimeoutError) as error:
                raise _failure(self._dsn, error, may_repeat=may_repeat) from error

    def drop_idle(self) -> None:
        with self._lock:
            dropped, self._idle = self._idle, []
        for connection in dropped:
            connection.close()

    @contextmanager
    def _place(self) -> Iterator[None]:
        if not self._places.acquire(timeout=QUERY_SECONDS):
            raise StoreError(
                f"all connections to PostgreSQL at {self._dsn.host}:{self._dsn.port} are busy; try again"
            )
        try:
            yield
        finally:
            self._places.release()

    def _take_idle(self) -> Connection | None:
        with self._lock:
            while self._idle:
                connection = self._idle.pop()
                if not _was_ended(connection):
                    return connection
                connection.close()
        return None

    def _connect(self) -> Connection:
        # Asynchronous, because libpq's blocking calls have no deadline. Such a connection is always in
        # autocommit.
        try:
            connection = self._dsn.connect(async_=True)
            _finish(connection, CONNECT_SECONDS)
        except (psycopg2.Error, TimeoutError) as error:
            raise _failure(self._dsn, error, may_repeat=True) from error
        return connection

    def _ask(
        self, connection: Connection, query: str, arguments: Mapping[str, Any], seconds: float
    ) -> Sequence[tuple[Any, ...]]:
        """Run the query; keep the connection on success, and close it on failure, as its state is unknown."""
        try:
            cursor = connection.cursor()
            cursor.execute(query, arguments)
            _finish(connection, seconds)
            rows = cursor.fetchall()
        except BaseException:
            connection.close()
            raise
        with self._lock:
            self._idle.append(connection)
        return rows


def _was_ended(connection: Connection) -> bool:
    """Return whether an idle connection has data to read: PostgreSQL only sends some when it ends it."""
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    return bool(poller.poll(0))


def _finish(connection: Connection, seconds: float) -> None:
    """Wait until the pending operation ends. On timeout, close the connection and raise TimeoutError."""
    deadline = time.monotonic() + seconds
    while (state := connection.poll()) != POLL_OK:
        poller = select.poll()
        poller.register(connection.fileno(), select.POLLIN if state == POLL_READ else select.POLLOUT)
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1_000):
            connection.close()
            raise TimeoutError(f"PostgreSQL gave no answer in {seconds:g} s")


def _is_cut_off(error: psycopg2.Error | TimeoutError) -> bool:
    return isinstance(error, psycopg2.Error) and error.pgcode in _SERVER_IS_GOING


def _failure(dsn: Dsn, error: psycopg2.Error | TimeoutError, *, may_repeat: bool) -> StoreError:
    if isinstance(error, TimeoutError):
        words = str(error)
    else:
        lines = str(error).strip().splitlines()
        reason = credentials.advised(error) or (lines[0] if lines else repr(error))
        words = f"PostgreSQL at {dsn.host}:{dsn.port} can't answer: {reason}"
    if may_repeat or not (isinstance(error, TimeoutError) or _is_cut_off(error)):
        return StoreError(words)
    return UnknownOutcomeError(f"{words}; the change may have been made: check before you repeat it")
