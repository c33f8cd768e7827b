"""Bring the schema up to date at each start: tables, functions, comments and roles.

``tables.sql`` creates the tables of a new database, as version ``BASELINE``. A later change of a table is a
file in ``migrations/``: it runs once, and must not change after its release. Each SQL function is a file
``functions/<name>.sql``. It is dropped and created again when its text has changed, and dropped when its file
is gone. ``comments.sql`` describes every table and column, and is applied again when its text has changed.
Where two versions of Candleflow share a database, the last one that started determines functions and
comments. ``roles.py`` lists what each role may do; these rights are granted again with the functions.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
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
from candleflow.store.credentials import Dsn
from candleflow.store.roles import RIGHTS, Role

TABLES: Final = Path(__file__).with_name("tables.sql")
FUNCTIONS: Final = Path(__file__).with_name("functions")
COMMENTS: Final = Path(__file__).with_name("comments.sql")
MIGRATIONS: Final = Path(__file__).with_name("migrations")
BASELINE: Final = 11
"""The version of ``tables.sql``. Candleflow 0.1 reached the same tables by eleven migrations."""
MINIMUM_VERSION: Final = 15
"""The first PostgreSQL version with ``range_agg`` over multiranges."""

_LOCK: Final = 7_310_580_216  # an arbitrary key: the process that applies the schema holds this advisory lock
_LOCK_SECONDS: Final = 30
_ATTEMPTS: Final = 5
_MAINTENANCE_DATABASE: Final = "postgres"
_BOOKKEEPING: Final = """
    CREATE TABLE IF NOT EXISTS schema_version (version integer PRIMARY KEY, name text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE TABLE IF NOT EXISTS schema_functions (name text PRIMARY KEY, checksum text NOT NULL)
"""


def versions() -> list[tuple[int, str, Path]]:
    """Return number, name and file of each schema version in order: ``tables.sql``, then the migrations."""
    found = [(BASELINE, "tables", TABLES)]
    for file in sorted(MIGRATIONS.glob("*.sql")):
        match = re.fullmatch(r"([0-9]{4})_([a-z_]+)", file.stem)
        if match is None or int(match[1]) <= BASELINE:
            raise StoreError(f"the migration {file.name} must be named like {BASELINE + 1:04}_what.sql")
        found.append((int(match[1]), match[2], file))
    return found


def functions() -> dict[str, str]:
    """Return the text of each SQL function, by name."""
    return {file.stem: file.read_text(encoding="utf-8") for file in sorted(FUNCTIONS.glob("*.sql"))}


def apply(settings: Settings) -> None:
    """Create the database if it is missing, and bring its schema, roles and passwords up to date.

    Idempotent, and safe to run in several processes at once. If the owner can't log in, the call still
    succeeds when the writer can and the schema is current.

    Raises StoreError without retrying if PostgreSQL can't be reached, refuses the owner or is too old, or if
    the schema is newer than this code or older than ``BASELINE``.
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
        for role in RIGHTS:
            dsn = credentials.dsn(settings, role)
            if not _can_log_in(dsn):
                _in_transaction(connection, partial(_set_password, dsn))


def _connect_or_create(owner: Dsn) -> Connection:
    """Connect as the owner; create the database first if the server has none of that name."""
    try:
        return owner.connect()
    except psycopg2.OperationalError:
        # psycopg2 gives no error code for a refused connection. If the maintenance database accepts the
        # owner, only the database is missing.
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
            return  # another process created it first


def _is_current_for_writer(settings: Settings) -> bool:
    try:
        connection = credentials.dsn(settings, Role.WRITER).connect()
        with closing(connection), connection.cursor() as cursor:
            cursor.execute("SELECT current_schema_version()")
            return bool(cursor.fetchone() == ({"tables": versions()[-1][0], "functions": _checksums()},))
    except psycopg2.Error:
        return False


def _no_connection(dsn: Dsn, error: psycopg2.Error) -> str:
    lines = str(error).strip().splitlines()
    reason = credentials.advised(error) or (lines[-1] if lines else "no reason given")
    return f"PostgreSQL at {dsn.host}:{dsn.port} can't be used as {dsn.user}: {reason}"


def _check_server(connection: Connection) -> None:
    major = connection.server_version // 10_000
    if major < MINIMUM_VERSION:
        raise StoreError(f"PostgreSQL {major} is too old; use {MINIMUM_VERSION} or later")


def _in_transaction(connection: Connection, work: Callable[[Cursor], None]) -> None:
    """Do ``work`` in one transaction, under this database's advisory lock.

    Roles belong to the whole server, but the lock only to this database. Two processes that create a role for
    two databases can therefore collide: PostgreSQL gives the second an error, and this function retries.
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
    cursor.execute(_BOOKKEEPING)
    missing = [role for role in RIGHTS if not _exists(settings, role, cursor)]
    has_new_tables, has_new_functions = _apply_tables(cursor), _apply_functions(cursor)
    for role in missing:
        cursor.execute(sql.SQL("CREATE ROLE {}").format(_identifier(settings, role)))
    if missing or has_new_tables or has_new_functions or not _may_all_connect(settings, cursor):
        _configure_roles(settings, cursor)
        _grant(settings, cursor)
    for role in missing:
        _set_password(credentials.dsn(settings, role), cursor)


def _apply_tables(cursor: Cursor) -> bool:
    """Apply each version that the database lacks; return whether there was one."""
    cursor.execute("SELECT coalesce(max(version), 0) FROM schema_version")
    (current,) = cursor.fetchone() or (0,)
    known = versions()
    if current > known[-1][0]:
        raise StoreError(
            f"the database was made by a newer Candleflow: its schema is version {current}, "
            f"this one supports up to {known[-1][0]}; run the newer Candleflow, or use another database"
        )
    if 0 < current < BASELINE:
        raise StoreError(
            f"the database was made by a Candleflow before 0.1: its schema is version {current}, this one "
            f"upgrades from {BASELINE} or later; start Candleflow 0.1 on it once, or use another database"
        )
    pending = [one for one in known if one[0] > current]
    for version, name, file in pending:
        cursor.execute(file.read_text(encoding="utf-8"))
        cursor.execute("INSERT INTO schema_version (version, name) VALUES (%s, %s)", (version, name))
    return bool(pending)


def _apply_functions(cursor: Cursor) -> bool:
    """Recreate each function whose text has changed, drop those without a file, and update the comments.

    Return whether anything changed. Changed functions are dropped first, because CREATE OR REPLACE can change
    neither a function's arguments nor its return type.
    """
    cursor.execute("SELECT name, checksum FROM schema_functions")
    applied, wanted = dict(cursor.fetchall()), _checksums()
    changed = [name for name, checksum in wanted.items() if applied.get(name) != checksum]
    gone = [name for name in applied if name not in wanted]
    if not changed and not gone:
        return False
    cursor.execute(
        "SELECT oid::regprocedure::text FROM pg_proc"
        " WHERE pronamespace = 'public'::regnamespace AND proname = ANY(%s)",
        (changed + gone,),
    )
    for (signature,) in cursor.fetchall():
        cursor.execute(f"DROP FUNCTION {signature}")  # regprocedure has quoted it
    cursor.execute("DELETE FROM schema_functions WHERE name = ANY(%s)", (changed + gone,))
    cursor.execute("SET LOCAL check_function_bodies = off")  # they call one another, in any order
    texts = _texts()
    for name in changed:
        cursor.execute(texts[name])
        cursor.execute("INSERT INTO schema_functions VALUES (%s, %s)", (name, wanted[name]))
    return True


def _texts() -> dict[str, str]:
    """Return what is applied again when it changes: each function by name, and the comments by file name."""
    return functions() | {COMMENTS.name: COMMENTS.read_text(encoding="utf-8")}


def _checksums() -> dict[str, str]:
    """Return a checksum of each text and of all rights, because a new function needs its rights granted."""
    rights = repr(RIGHTS)
    return {name: hashlib.sha256((text + rights).encode()).hexdigest() for name, text in _texts().items()}


def _exists(settings: Settings, role: Role, cursor: Cursor) -> bool:
    cursor.execute("SELECT FROM pg_roles WHERE rolname = %s", (credentials.role_name(settings, role),))
    return cursor.fetchone() is not None


def _may_all_connect(settings: Settings, cursor: Cursor) -> bool:
    """Return whether every role may connect: one created later for another database may lack the grant."""
    cursor.execute(
        "SELECT bool_and(has_database_privilege(name, current_database(), 'CONNECT')) FROM unnest(%s) name",
        ([credentials.role_name(settings, role) for role in RIGHTS],),
    )
    return cursor.fetchone() == (True,)


def _configure_roles(settings: Settings, cursor: Cursor) -> None:
    for role, rights in RIGHTS.items():
        name = _identifier(settings, role)
        cursor.execute(
            sql.SQL("ALTER ROLE {} LOGIN CONNECTION LIMIT {}").format(name, sql.Literal(rights.connections))
        )
        for setting, value in rights.settings.items():
            cursor.execute(
                sql.SQL("ALTER ROLE {} SET {} = {}").format(name, sql.Identifier(setting), sql.Literal(value))
            )


def _grant(settings: Settings, cursor: Cursor) -> None:
    """Revoke what PostgreSQL grants to PUBLIC, then grant each role what it needs."""
    names = {
        "database": sql.Identifier(settings.database.name),
        "roles": _listed(credentials.role_name(settings, role) for role in RIGHTS),
    }
    for statement in (
        "REVOKE ALL ON DATABASE {database} FROM PUBLIC",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC, {roles}",
        "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC, {roles}",
        "GRANT CONNECT ON DATABASE {database} TO {roles}",
        "GRANT USAGE ON SCHEMA public TO {roles}",
    ):
        cursor.execute(sql.SQL(statement).format(**names))
    for role, rights in RIGHTS.items():
        for granted, objects in (("SELECT ON", rights.tables), ("EXECUTE ON FUNCTION", rights.functions)):
            if objects:
                grant = sql.SQL("GRANT {} {} TO {}")
                cursor.execute(grant.format(sql.SQL(granted), _listed(objects), _identifier(settings, role)))


def _set_password(dsn: Dsn, cursor: Cursor) -> None:
    """Set a role's password, hashed here, so that the server's log never shows it."""
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


def _listed(names: Iterable[str]) -> Any:
    return sql.SQL(", ").join(map(sql.Identifier, names))
