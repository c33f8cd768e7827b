"""Store alert rules, their states and the outbox of messages.

Three classes use three roles: the alerter decides and sends, the editor adds and removes rules, the reader
shows them. All changes go through the SQL functions that ``roles.py`` lists for the role. Rules and states
are JSON objects here; the package ``alerts`` interprets them. Times are microseconds since the epoch, UTC.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Self

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812 - a class by psycopg2's naming

from candleflow.errors import HeldError, StoreError
from candleflow.market.stored import Bar
from candleflow.market.window import SECOND_US, Windows
from candleflow.settings import Settings
from candleflow.store import credentials
from candleflow.store.credentials import Dsn, Role
from candleflow.store.pool import Pool
from candleflow.store.sql import CAUGHT_UP, TILES_TIME, as_time, microseconds

_HELD: Final = ("CF001", "CF003")
"""Error codes of our SQL functions: another process holds the lease on alerts."""
_CONNECTIONS: Final = 3


@dataclass(frozen=True, slots=True)
class StoredRule:
    """A stored rule; ``rule`` is its JSON."""

    rule_id: int
    rule: Mapping[str, Any]
    added_at: int


@dataclass(frozen=True, slots=True)
class StoredState:
    """A rule's state for one symbol; ``version`` is 0 if there is none yet."""

    version: int
    state: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert to send, and its channels."""

    window: int
    sampled_at: int
    text: str
    brief: str
    channels: Sequence[str]


@dataclass(frozen=True, slots=True)
class Decision:
    """A rule's next state for a symbol, and its alert if it fired. ``version`` is the previous state's."""

    rule_id: int
    symbol: str
    version: int
    state: Mapping[str, Any]
    alert: Alert | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """An alert that is marked as being sent on one channel."""

    alert_id: int
    attempt: int
    decided_at: int
    text: str
    brief: str


@dataclass(frozen=True, slots=True)
class LiveSymbol:
    """A symbol's last trade, and the newest candle that opens no later; ``window``: its open time or None."""

    symbol: str
    last_trade_id: int
    price: Decimal
    traded_at: int
    window: int | None
    is_complete: bool
    volume: Decimal


@dataclass(frozen=True, slots=True)
class StoredAlert:
    """An alert from the database, with its rule."""

    symbol: str
    window: int
    sampled_at: int
    rule: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DeliveredAlert:
    """An alert and its delivery on one channel, for display."""

    alert_id: int
    rule_id: int
    symbol: str
    text: str
    decided_at: int
    channel: str
    state: str
    detail: str


class AlertStore:
    """The store of the one process that decides and sends alerts: the lease's holder. Thread-safe.

    Each query except ``is_held`` raises StoreError while PostgreSQL can't answer. For ``decide``, ``take``
    and ``drop_old`` it is UnknownOutcomeError if the change may have been made. ``claim``, ``decide`` and
    ``take`` raise HeldError if another process has the lease.
    """

    def __init__(self, dsn: Dsn, windows: Windows) -> None:
        self._dsn = dsn
        self._pool = Pool(dsn, _CONNECTIONS)
        self._windows = windows
        self._claim: Connection | None = None
        self._run_id: str | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Create the store for the database in ``settings``; opens no connection yet."""
        return cls(credentials.dsn(settings, Role.ALERTER), settings.windows)

    def claim(self, held_by: str) -> None:
        """Take the lease as ``held_by`` until its connection ends; alerts being sent become ``unknown``."""
        self._drop_claim()
        try:
            claim = self._dsn.connect()
            claim.autocommit = True
            with claim.cursor() as cursor:
                cursor.execute("SELECT claim_alerts(%s)::text", (held_by,))
                self._run_id = (cursor.fetchone() or (None,))[0]
        except psycopg2.Error as error:
            raise _translated(error) from error
        self._claim = claim

    def is_held(self) -> bool:
        """Return whether the lease's connection is alive; if not, PostgreSQL has released the lease."""
        if self._claim is None:
            return False
        try:
            with self._claim.cursor() as cursor:
                cursor.execute("SELECT")
        except psycopg2.Error:
            self._drop_claim()
            return False
        return True

    def rules(self) -> list[StoredRule]:
        """Return the rules in force, oldest first."""
        return [StoredRule(*row) for row in self._rows(_RULES, {})]

    def states(self) -> dict[tuple[int, str], StoredState]:
        """Return the states of the rules in force, by rule and symbol."""
        return {
            (rule_id, symbol): StoredState(version, state)
            for rule_id, symbol, version, state in self._rows(_STATES, {})
        }

    def decide(self, decisions: Iterable[Decision]) -> int:
        """Store all in one transaction, except for removed rules; return how many alerts are new.

        Raises HeldError, and stores nothing, if a decision's ``version`` isn't the stored one.
        """
        texts = [_decision(one) for one in decisions]
        arguments = {"run": self._run_id, "decisions": json.dumps(texts)}
        query = "SELECT decide_alerts(%(run)s, %(decisions)s)"
        ((decided,),) = self._rows(query, arguments, may_repeat=False)
        return int(decided)

    def take(self, channel: str, most: int) -> list[Delivery]:
        """Mark up to ``most`` due alerts of the channel as being sent, and return them.

        Alerts still marked from an earlier call become ``unknown``: one thread alone serves a channel, so
        either PostgreSQL's reply to that call was lost, or ``note`` didn't succeed.
        """
        arguments = {"run": self._run_id, "channel": channel, "most": most}
        query = "SELECT * FROM take_deliveries(%(run)s, %(channel)s, %(most)s)"
        rows = self._rows(query, arguments, may_repeat=False)
        return [Delivery(*row) for row in rows]

    def note(
        self, channel: str, attempted: Sequence[Delivery], state: str, detail: str = "", due_in: float = 0
    ) -> None:
        """Store the outcome of attempts. If ``state`` is pending, they are due again in ``due_in`` seconds.

        Idempotent: a second call changes nothing.
        """
        self._rows(
            "SELECT note_deliveries(%(channel)s, %(attempted)s, %(state)s, %(detail)s, %(due_in)s)",
            {
                "channel": channel,
                "attempted": json.dumps({str(one.alert_id): one.attempt for one in attempted}),
                "state": state,
                "detail": detail[:200],
                "due_in": due_in,
            },
        )

    def drop_old(self, most: int) -> int:
        """Delete up to ``most`` alerts over 90 days old, the oldest first; return how many."""
        ((dropped,),) = self._rows("SELECT drop_alerts(%(most)s)", {"most": most}, may_repeat=False)
        return int(dropped)

    def waiting(self) -> dict[str, int]:
        """Return the number of alerts not sent yet, by channel."""
        return {channel: int(count) for channel, count in self._rows(_WAITING, {})}

    def live_symbols(self) -> list[LiveSymbol]:
        """Return every symbol that has had a trade, ordered by name."""
        return [LiveSymbol(*row) for row in self._rows(_SNAPSHOTS, self._interval())]

    def closed(self, symbol: str, since: int, limit: int) -> list[Bar]:
        """Return the newest ``limit`` closed candles that open after ``since``, oldest first.

        Of sliding windows, only those that don't overlap.
        """
        arguments = {**self._interval(), "symbol": symbol, "since": as_time(since), "limit": limit}
        return [Bar(*row) for row in self._rows(_CLOSED, arguments)][::-1]

    def alert(self, alert_id: int) -> StoredAlert | None:
        """Return the alert with this number, or None."""
        rows = self._rows(_ALERT, {"alert_id": alert_id})
        return StoredAlert(*rows[0]) if rows else None

    def drawn(self, symbol: str, until: int, windows: int) -> list[Bar]:
        """Return the candles to draw: those of the ``windows`` windows up to the one that opens at ``until``.

        Of sliding windows, only those that don't overlap.
        """
        since = until - windows * self._windows.size_us
        arguments = {**self._interval(), "symbol": symbol, "since": as_time(since), "until": as_time(until)}
        return [Bar(*row) for row in self._rows(_DRAWN, arguments)]

    def missing(self, since: int) -> dict[str, int]:
        """Return the number of missing trade ids per symbol since the minute that opens at ``since``."""
        return {symbol: int(ids) for symbol, ids in self._rows(_MISSING, {"since": as_time(since)})}

    def caught_up_at(self, topic: str) -> int | None:
        """Return when the processor last had merged the whole topic; None if it never had."""
        rows = self._rows(CAUGHT_UP, {"topic": topic})
        return int(rows[0][0]) if rows else None

    def close(self) -> None:
        """Release the lease and close the connections."""
        self._drop_claim()
        self._pool.drop_idle()

    def _interval(self) -> dict[str, Any]:
        return {"interval": self._windows.interval, "seconds": self._windows.size_us // SECOND_US}

    def _rows(
        self, query: str, arguments: Mapping[str, Any], *, may_repeat: bool = True
    ) -> Sequence[tuple[Any, ...]]:
        try:
            return self._pool.rows(query, arguments, may_repeat=may_repeat)
        except StoreError as error:
            cause = error.__cause__
            if isinstance(cause, psycopg2.Error) and cause.pgcode in _HELD:
                raise _translated(cause) from error
            raise

    def _drop_claim(self) -> None:
        if self._claim is not None:
            self._claim.close()
            self._claim = None


class AlertEditor:
    """Adds and removes rules, as the role that may do nothing else.

    Methods raise StoreError; UnknownOutcomeError if the rule may have been added or removed nonetheless.
    """

    def __init__(self, dsn: Dsn) -> None:
        self._pool = Pool(dsn, 1)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Create the store for the database in ``settings``; opens no connection yet."""
        return cls(credentials.dsn(settings, Role.EDITOR))

    def add(self, rule: Mapping[str, Any]) -> int:
        """Add a rule; return its number."""
        ((rule_id,),) = self._pool.rows("SELECT add_alert_rule(%(rule)s)", {"rule": json.dumps(rule)})
        return int(rule_id)

    def remove(self, rule_id: int) -> bool:
        """Remove a rule; return whether it existed. Alerts that it has decided are still sent."""
        ((found,),) = self._pool.rows("SELECT remove_alert_rule(%(rule_id)s)", {"rule_id": rule_id})
        return bool(found)

    def close(self) -> None:
        """Close the idle connection; the object stays usable."""
        self._pool.drop_idle()


class AlertReader:
    """Reads rules and deliveries of alerts, as the reader role. Methods raise StoreError."""

    def __init__(self, dsn: Dsn) -> None:
        self._pool = Pool(dsn, 2)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Create the store for the database in ``settings``; opens no connection yet."""
        return cls(credentials.dsn(settings, Role.READER))

    def rules(self) -> list[StoredRule]:
        """Return the rules in force, oldest first."""
        return [StoredRule(*row) for row in self._pool.rows(_RULES, {}, may_repeat=True)]

    def latest(self, limit: int) -> list[DeliveredAlert]:
        """Return the deliveries of the latest ``limit`` alerts, newest first, one item per channel."""
        rows = self._pool.rows(_LATEST, {"limit": limit}, may_repeat=True)
        return [DeliveredAlert(*row) for row in rows]

    def close(self) -> None:
        """Close the idle connections; the object stays usable."""
        self._pool.drop_idle()


def _translated(error: psycopg2.Error) -> HeldError | StoreError:
    lines = str(error).strip().splitlines()
    words = lines[0].removeprefix("ERROR:").strip() if lines else "no reason given"
    if error.pgcode in _HELD:
        return HeldError(words)
    return StoreError(f"PostgreSQL can't answer: {words}")


def _decision(one: Decision) -> dict[str, Any]:
    alert = one.alert
    return {
        "rule_id": one.rule_id,
        "symbol": one.symbol,
        "version": one.version,
        "state": one.state,
        "alert": alert
        and {
            "window_us": alert.window,
            "sampled_us": alert.sampled_at,
            "text": alert.text,
            "brief": alert.brief,
            "channels": list(alert.channels),
        },
    }


_RULES: Final = f"""
    SELECT rule_id, rule, {microseconds("added_at")} FROM alert_rules
    WHERE removed_at IS NULL ORDER BY rule_id
"""  # nosec B608 # noqa: S608 - constants of this module
_STATES: Final = """
    SELECT rule_id, symbol, version, state FROM alert_states JOIN alert_rules USING (rule_id)
    WHERE removed_at IS NULL
"""
_WAITING: Final = """
    SELECT channel, count(*) FROM alert_deliveries WHERE state IN ('pending', 'sending') GROUP BY channel
"""
_SNAPSHOTS: Final = f"""
    SELECT s.symbol, s.last_trade_id, s.last_price, {microseconds("s.last_trade_time")},
        {microseconds("last.open_time")}, coalesce(last.is_complete, false), coalesce(last.volume, 0)
    FROM symbols s LEFT JOIN LATERAL (
        SELECT c.open_time, c.is_complete, c.volume FROM candles c
        WHERE c.symbol = s.symbol AND c.interval = %(interval)s AND c.open_time <= s.last_trade_time
            AND {TILES_TIME}
        ORDER BY c.open_time DESC LIMIT 1
    ) last ON true
    ORDER BY s.symbol
"""  # nosec B608 # noqa: S608 - constants of this module
_CLOSED: Final = f"""
    SELECT {microseconds("c.open_time")}, c.open, c.high, c.low, c.close, c.volume, c.is_complete
    FROM candles c
    WHERE c.symbol = %(symbol)s AND c.interval = %(interval)s AND c.open_time > %(since)s AND c.is_closed
        AND {TILES_TIME}
    ORDER BY c.open_time DESC LIMIT %(limit)s
"""  # nosec B608 # noqa: S608 - constants of this module
_ALERT: Final = f"""
    SELECT a.symbol, {microseconds("a.window_at")}, {microseconds("a.sampled_at")}, r.rule
    FROM alerts a JOIN alert_rules r USING (rule_id) WHERE a.alert_id = %(alert_id)s
"""  # nosec B608 # noqa: S608 - constants of this module
_DRAWN: Final = f"""
    SELECT {microseconds("c.open_time")}, c.open, c.high, c.low, c.close, c.volume, c.is_complete
    FROM candles c
    WHERE c.symbol = %(symbol)s AND c.interval = %(interval)s AND c.open_time > %(since)s
        AND c.open_time <= %(until)s AND {TILES_TIME}
    ORDER BY c.open_time
"""  # nosec B608 # noqa: S608 - constants of this module
_MISSING: Final = """
    SELECT symbol, upper(ids) - lower(ids) - (SELECT sum(upper(r) - lower(r)) FROM unnest(ids) r)
    FROM (
        SELECT symbol, range_agg(trade_ids) AS ids FROM candles
        WHERE interval = '1m' AND symbol IN (SELECT symbol FROM symbols)
            AND open_time >= %(since)s
        GROUP BY symbol
    ) held
"""
_LATEST: Final = f"""
    SELECT a.alert_id, a.rule_id, a.symbol, a.text, {microseconds("a.decided_at")},
        coalesce(d.channel, 'no channel'), coalesce(d.state, 'only stored'), coalesce(d.detail, '')
    FROM (SELECT * FROM alerts ORDER BY decided_at DESC, alert_id DESC LIMIT %(limit)s) a
        LEFT JOIN alert_deliveries d USING (alert_id)
    ORDER BY a.decided_at DESC, a.alert_id DESC, d.channel
"""  # nosec B608 # noqa: S608 - constants of this module
