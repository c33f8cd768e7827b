"""The schema, its versions and its roles, brought up to date at each start.

Files of ``migrations/`` run once each, in the order of their numbers, each version with its own row in
``schema_version``; a file that has been released is never changed again. There are seven roles: the owner of
everything, whom only this module and the owner's commands connect as; the writer, who may call the
processor's functions and nothing else; the reader, who may select what the page shows; the auditor, who may
select the same, and call the functions that mend what it finds; the forecaster, who may select the same, and
call the functions that keep its forecasts; the alerter, who may select the same, and call the functions that
decide and send alerts; the editor, who may add and remove alert rules, nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final

import psycopg2
from psycopg2 import errorcodes, sql
from psycopg2.extensions import connection as Connection  # noqa: N812 - a class by psycopg2's naming
from psycopg2.extensions import cursor as Cursor  # noqa: N812
from psycopg2.extensions import encrypt_password

from candleflow.errors import StoreError
from candleflow.settings import Settings
from candleflow.store import credentials
from candleflow.store.credentials import Dsn, Role

MIGRATIONS: Final = Path(__file__).with_name("migrations")
MINIMUM_VERSION: Final = 15
"""The first PostgreSQL with ``range_agg`` over multiranges."""

READABLE_TABLES: Final = ("candles", "symbols", "record_counts", "topics", "forecasts")
ALERT_TABLES: Final = ("alert_rules", "alert_states", "alerts", "alert_deliveries", "alerter")
"""Which the page and the alerter may read."""
WRITER_FUNCTIONS: Final = (
    "claim_topic", "merge_batch", "last_records", "close_quiet_candles", "current_schema_version",
    "snapshot_holders",
)  # fmt: skip
READER_FUNCTIONS: Final = ("held_ids",)
"""Of whoever may select candles and asks for their trade ids."""
AUDITOR_FUNCTIONS: Final = (
    "current_schema_version",
    "finest_books",
    "load_history",
    "merged_offsets",
    "replace_candles",
    "stray_roll_ups",
)
FORECASTER_FUNCTIONS: Final = ("drop_forecasts", "keep_forecasts", "score_forecasts")
ALERTER_FUNCTIONS: Final = (
    "claim_alerts", "current_schema_version", "decide_alerts", "drop_alerts", "note_deliveries",
    "take_deliveries",
)  # fmt: skip
EDITOR_FUNCTIONS: Final = ("add_alert_rule", "remove_alert_rule")

_LOCK: Final = 7_310_580_216  # any number, always the same: whoever applies the schema holds it
_LOCK_SECONDS: Final = 30
_ATTEMPTS: Final = 5
_MAINTENANCE_DATABASE: Final = "postgres"

# Settings of the role, so that no client has to remember them. A processor that is cut off must not keep its
# lock on the topic: the server looks every second whether a busy client is still there, and probes an idle
# one. The reader's are a courtesy, as a client may change its own settings: what it may do is in the grants.
_ROLE_SETTINGS: Final[dict[Role, dict[str, str]]] = {
    Role.WRITER: {
        "timezone": "UTC",
        "lock_timeout": "30s",
        "idle_in_transaction_session_timeout": "60s",
        "client_connection_check_interval": "1s",
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
    },
    Role.READER: {
        "timezone": "UTC",
        "default_transaction_read_only": "on",
        "statement_timeout": "5s",
        "idle_in_transaction_session_timeout": "10s",
        "client_connection_check_interval": "1s",
    },
    Role.AUDITOR: {
        "timezone": "UTC",
        "lock_timeout": "30s",
        "statement_timeout": "60s",
        "idle_in_transaction_session_timeout": "10s",
        "client_connection_check_interval": "1s",
    },
    Role.FORECASTER: {
        "timezone": "UTC",
        "lock_timeout": "5s",
        "statement_timeout": "10s",
        "idle_in_transaction_session_timeout": "10s",
        "client_connection_check_interval": "1s",
    },
    Role.ALERTER: {
        "timezone": "UTC",
        "lock_timeout": "4s",
        "statement_timeout": "5s",
        "idle_in_transaction_session_timeout": "10s",
        "client_connection_check_interval": "1s",
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
    },
    Role.EDITOR: {
        "timezone": "UTC",
        "lock_timeout": "4s",
        "statement_timeout": "5s",
        "idle_in_transaction_session_timeout": "10s",
    },
}
_CONNECTION_LIMIT: Final = {
    Role.WRITER: 10, Role.READER: 30, Role.AUDITOR: 10, Role.ALERTER: 10, Role.FORECASTER: 4, Role.EDITOR: 10
}  # fmt: skip
_ROLES: Final = tuple(_ROLE_SETTINGS)
"""All but the owner."""


def versions() -> list[tuple[int, str, Path]]:
    """Number, name and file of each migration, in order."""
    found = []
    for file in sorted(MIGRATIONS.glob("*.sql")):
        match = re.fullmatch(r"([0-9]{4})_([a-z_]+)", file.stem)
        if match is None:
            raise StoreError(f"{file.name} is not named as a migration is")
        found.append((int(match[1]), match[2], file))
    return found


def apply(settings: Settings) -> None:
    """Make the database if need be, bring its schema up to date, and see to the roles and their passwords.

    Changes nothing where nothing is to be done; any number of processes may apply at once. Raises StoreError,
    without waiting, if PostgreSQL is away, refuses the owner, is too old, or holds a newer schema than ours.
    A process that can't log in as the owner is content with a current schema that the writer can log in to.
    """
    owner = credentials.dsn(settings, Role.OWNER)
    try:
        connection = _connect_or_create(owner)
    except psycopg2.Error as error:
        if _is_current_for_writer(settings):
            return
        raise StoreError(_no_connection(owner, error)) from error
    with closing(connection):
        _check_server(connection)
        _in_transaction(connection, partial(_bring_up_to_date, settings))
        for role in _ROLES:
            dsn = credentials.dsn(settings, role)
            if not _can_log_in(dsn):
                _in_transaction(connection, partial(_set_password, dsn))


def _connect_or_create(owner: Dsn) -> Connection:
    """A connection as the owner; where the server answers but has no such database, to one made now."""
    try:
        return owner.connect()
    except psycopg2.OperationalError:
        # psycopg2 gives no code for a refused connection, so another database tells why.
        try:
            maintenance = owner.connect(dbname=_MAINTENANCE_DATABASE)
        except psycopg2.OperationalError:
            maintenance = None
        if maintenance is None:
            raise
    with closing(maintenance):
        _create_database(maintenance, owner.database)
    return owner.connect()


def _create_database(maintenance: Connection, name: str) -> None:
    maintenance.autocommit = True
    with maintenance.cursor() as cursor:
        cursor.execute("SELECT FROM pg_database WHERE datname = %s", (name,))
        if cursor.fetchone() is not None:
            return
        try:
            cursor.execute(
                sql.SQL("CREATE DATABASE {} ENCODING 'UTF8' TEMPLATE template0").format(sql.Identifier(name))
            )
        except (psycopg2.errors.DuplicateDatabase, psycopg2.errors.UniqueViolation):
            return  # another process was quicker


def _is_current_for_writer(settings: Settings) -> bool:
    try:
        connection = credentials.dsn(settings, Role.WRITER).connect()
        with closing(connection), connection.cursor() as cursor:
            cursor.execute("SELECT current_schema_version()")
            return bool(cursor.fetchone() == (versions()[-1][0],))
    except psycopg2.Error:
        return False


def _no_connection(dsn: Dsn, error: psycopg2.Error) -> str:
    lines = str(error).strip().splitlines()
    reason = credentials.advised(error) or (lines[-1] if lines else "no reason given")
    return f"PostgreSQL at {dsn.host}:{dsn.port} can't be used as {dsn.user}: {reason}"


def _check_server(connection: Connection) -> None:
    major = connection.server_version // 10_000
    if major < MINIMUM_VERSION:
        raise StoreError(f"PostgreSQL {major} is too old: {MINIMUM_VERSION} or later is needed")


def _in_transaction(connection: Connection, work: Callable[[Cursor], None]) -> None:
    """Do ``work`` in one transaction, alone in this database.

    Roles belong to the whole server, whose other databases have locks of their own: whoever comes second to
    the same role is told so by an error, by when the first has committed, and tries again.
    """
    for attempt in range(_ATTEMPTS):
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute("SELECT set_config('lock_timeout', %s, true)", (f"{_LOCK_SECONDS}s",))
                cursor.execute("SET LOCAL search_path = public")
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                work(cursor)
        except psycopg2.Error as error:
            if _is_lost_race(error) and attempt + 1 < _ATTEMPTS:
                continue
            raise StoreError(f"the schema can't be applied: {str(error).strip()}") from error
        else:
            return


def _is_lost_race(error: psycopg2.Error) -> bool:
    return error.pgcode in (errorcodes.UNIQUE_VIOLATION, errorcodes.DUPLICATE_OBJECT) or (
        error.pgcode == errorcodes.INTERNAL_ERROR and "tuple concurrently" in str(error)
    )


def _bring_up_to_date(settings: Settings, cursor: Cursor) -> None:
    missing = [role for role in _ROLES if not _exists(settings, role, cursor)]
    pending = _pending(cursor)
    for version, name, file in pending:
        cursor.execute(file.read_text(encoding="utf-8"))
        cursor.execute("INSERT INTO schema_version (version, name) VALUES (%s, %s)", (version, name))
    for role in missing:
        cursor.execute(sql.SQL("CREATE ROLE {}").format(_identifier(settings, role)))
    if missing or pending or not _may_all_connect(settings, cursor):
        _configure_roles(settings, cursor)
        _grant(settings, cursor)
    for role in missing:
        _set_password(credentials.dsn(settings, role), cursor)


def _pending(cursor: Cursor) -> list[tuple[int, str, Path]]:
    cursor.execute(
        "CREATE TABLE IF NOT EXISTS schema_version (version integer PRIMARY KEY, name text NOT NULL,"
        " applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
    )
    cursor.execute("SELECT coalesce(max(version), 0) FROM schema_version")
    (current,) = cursor.fetchone() or (0,)
    known = versions()
    if current > known[-1][0]:
        raise StoreError(
            f"the database was made by a newer Candleflow: its schema is version {current}, "
            f"this one knows {known[-1][0]}; use the newer one, or another database"
        )
    return [one for one in known if one[0] > current]


def _exists(settings: Settings, role: Role, cursor: Cursor) -> bool:
    cursor.execute("SELECT FROM pg_roles WHERE rolname = %s", (credentials.role_name(settings, role),))
    return cursor.fetchone() is not None


def _may_all_connect(settings: Settings, cursor: Cursor) -> bool:
    """False where a role was made for another database of this server since this one got its grants."""
    cursor.execute(
        "SELECT bool_and(has_database_privilege(name, current_database(), 'CONNECT')) FROM unnest(%s) name",
        ([credentials.role_name(settings, role) for role in _ROLES],),
    )
    return cursor.fetchone() == (True,)


def _configure_roles(settings: Settings, cursor: Cursor) -> None:
    for role, role_settings in _ROLE_SETTINGS.items():
        name = _identifier(settings, role)
        cursor.execute(
            sql.SQL("ALTER ROLE {} LOGIN CONNECTION LIMIT {}").format(
                name, sql.Literal(_CONNECTION_LIMIT[role])
            )
        )
        for setting, value in role_settings.items():
            cursor.execute(
                sql.SQL("ALTER ROLE {} SET {} = {}").format(name, sql.Identifier(setting), sql.Literal(value))
            )


def _grant(settings: Settings, cursor: Cursor) -> None:
    """Everything revoked that PostgreSQL gives to anybody, then to each role what it needs."""
    by_role = {str(role): _identifier(settings, role) for role in _ROLES}
    names: dict[str, sql.Composable] = {
        "database": sql.Identifier(settings.database.name),
        **by_role,
        "all": sql.SQL(", ").join(by_role.values()),
        "tables": sql.SQL(", ").join(map(sql.Identifier, READABLE_TABLES)),
        "alert_tables": sql.SQL(", ").join(map(sql.Identifier, ALERT_TABLES)),
        "writers": sql.SQL(", ").join(map(sql.Identifier, WRITER_FUNCTIONS)),
        "readers": sql.SQL(", ").join(map(sql.Identifier, READER_FUNCTIONS)),
        "auditors": sql.SQL(", ").join(map(sql.Identifier, AUDITOR_FUNCTIONS)),
        "forecasters": sql.SQL(", ").join(map(sql.Identifier, FORECASTER_FUNCTIONS)),
        "alerters": sql.SQL(", ").join(map(sql.Identifier, ALERTER_FUNCTIONS)),
        "editors": sql.SQL(", ").join(map(sql.Identifier, EDITOR_FUNCTIONS)),
    }
    for statement in (
        "REVOKE ALL ON DATABASE {database} FROM PUBLIC",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC, {all}",
        "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC, {all}",
        "GRANT CONNECT ON DATABASE {database} TO {all}",
        "GRANT USAGE ON SCHEMA public TO {all}",
        "GRANT EXECUTE ON FUNCTION {writers} TO {writer}",
        "GRANT EXECUTE ON FUNCTION {readers} TO {reader}, {auditor}",
        "GRANT EXECUTE ON FUNCTION {auditors} TO {auditor}",
        "GRANT EXECUTE ON FUNCTION {forecasters} TO {forecaster}",
        "GRANT EXECUTE ON FUNCTION {alerters} TO {alerter}",
        "GRANT EXECUTE ON FUNCTION {editors} TO {editor}",
        "GRANT SELECT ON {tables} TO {reader}, {auditor}, {forecaster}, {alerter}",
        "GRANT SELECT ON {alert_tables} TO {reader}, {alerter}",
    ):
        cursor.execute(sql.SQL(statement).format(**names))


def _set_password(dsn: Dsn, cursor: Cursor) -> None:
    """Set a role's password, hashed here, so that the server's log never sees it."""
    hashed = encrypt_password(dsn.password, dsn.user, scope=cursor.connection, algorithm="scram-sha-256")
    cursor.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(dsn.user), sql.Literal(hashed)))


def _can_log_in(dsn: Dsn) -> bool:
    try:
        dsn.connect().close()
    except psycopg2.OperationalError:
        return False
    return True


def _identifier(settings: Settings, role: Role) -> Any:
    return sql.Identifier(credentials.role_name(settings, role))
