"""Write the pages of docs/reference that are generated from the code: ``make reference``.

Settings, commands and metrics come from their declarations, tables and columns from the database's comments.
Tests check that the pages in the repository are up to date.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr

from candleflow import cli
from candleflow.metrics import families
from candleflow.metrics.families import COMMON, FAMILIES, TRADE_TO_ROW, Described
from candleflow.settings import FIELDS, PREFIX, load
from candleflow.stack.postgres import PostgresServer
from candleflow.stack.process import free_port
from candleflow.store import credentials, schema
from candleflow.store.credentials import Role

FOLDER: Final = Path(__file__).parent.parent / "docs" / "reference"
_NOTE: Final = "<!-- Written by `make reference`. -->\n"
_WIDTH: Final = 100


def settings_page() -> str:
    """Return docs/reference/settings.md."""
    rows = "\n".join(
        f"| `{PREFIX}{name.upper()}` | {_default(field)} | {_accepted(field)} | {field.description} |"
        for name, field in FIELDS.items()
    )
    return f"""# Settings

{_NOTE}
Set them as environment variables, or as lines of a file `.env` in the folder that you start from. A process with a
wrong setting doesn't start: it prints the setting's name and what is accepted, and its exit status is 2.
`python -m candleflow settings` prints all settings in force, secrets hidden.

| variable | default | accepted | meaning |
|---|---|---|---|
{rows}

Variables of other programs are ignored: libpq's (`PG...`), the JVM's (`JAVA_TOOL_OPTIONS`), Spark's and Hadoop's with a
local master, and Streamlit's in what `up` starts. Two kinds do take effect: those that name the certificates that TLS
trusts (`SSL_CERT_FILE`, `REQUESTS_CA_BUNDLE`), and those that name proxies (`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`).
"""  # noqa: E501 - lines of a page


def commands_page() -> str:
    """Return docs/reference/commands.md."""
    parts = [
        "# Commands\n",
        _NOTE,
        "`candleflow <command>`, or `python -m candleflow <command>`. Exit status: 0 after success or",
        "a stop by SIGTERM or Ctrl-C, 2 for a wrong setting or argument, 1 for any other error.\n",
    ]
    for name, command in cli.COMMANDS.items():
        parts += [f"## {name}\n", f"{command.help[:1].upper()}{command.help[1:]}.\n"]
        if command.arguments is not None:
            for text in _helps(name):
                parts += ["```text", text, "```\n"]
    return "\n".join(parts)


def metrics_page() -> str:
    """Return docs/reference/metrics.md."""
    parts = [
        "# Metrics\n",
        _NOTE,
        "Set `CANDLEFLOW_METRICS_PORT`, and each process serves `/metrics` in Prometheus' text format,",
        "`/healthz` and `/readyz`. Without the setting, nothing is served. Counters start at 0 with the",
        "process. [Monitoring](../guides/monitoring.md) shows what to watch.\n",
        "## Every process\n",
        *_metrics_table(COMMON),
        "On Linux, prometheus_client adds figures of the process: `process_resident_memory_bytes`,",
        "`process_virtual_memory_bytes`, `process_cpu_seconds_total`, `process_open_fds`,",
        "`process_max_fds` and `process_start_time_seconds`.\n",
    ]
    for process, exported in FAMILIES.items():
        described = [family.described() for family in exported]
        more = [TRADE_TO_ROW] if process == "processor" else []
        parts += [f"## {process}\n", *_metrics_table([*described, *more])]
    return "\n".join(parts)


def _metrics_table(metrics: Iterable[Described]) -> list[str]:
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for name, kind, labels, text in metrics:
        listed = ", ".join(f"`{label}`" for label in labels)
        lines.append(f"| `{families.PREFIX}{name}` | {kind} | {listed} | {text} |")
    return [*lines, ""]


def database_page(columns: Iterable[Sequence[Any]], tables: Iterable[Sequence[Any]]) -> str:
    """Return docs/reference/database.md, from the rows that ``read_schema`` returns."""
    parts = [
        "# Database\n",
        _NOTE,
        "`python -m candleflow psql` opens the database with the page's read-only role. Times are",
        "`timestamptz` in microseconds; prices and volumes are exact decimals (`numeric`).\n",
    ]
    by_table: dict[str, list[Sequence[Any]]] = {}
    for table, *column in columns:
        by_table.setdefault(table, []).append(column)
    for table, comment in tables:
        parts += [f"## {table}\n", f"{_sentence(comment)}\n", "| column | type | meaning |", "|---|---|---|"]
        parts += [f"| `{name}` | {kind} | {_sentence(meaning)} |" for name, kind, meaning in by_table[table]]
        parts.append("")
    return "\n".join(parts)


_COLUMNS: Final = """
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), col_description(c.oid, a.attnum)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p') AND c.relnamespace = current_schema::regnamespace
ORDER BY c.relname, a.attnum
"""
_TABLES: Final = """
SELECT c.relname, obj_description(c.oid) FROM pg_class c
WHERE c.relkind IN ('r', 'p') AND c.relnamespace = current_schema::regnamespace
ORDER BY c.relname <> 'candles', c.relname
"""


def read_schema(connection: Any) -> tuple[list[Sequence[Any]], list[Sequence[Any]]]:
    """Return every column (table, name, type, comment) and every table (name, comment) of the schema."""
    with closing(connection.cursor()) as cursor:
        cursor.execute(_COLUMNS)
        columns = list(cursor)
        cursor.execute(_TABLES)
        return columns, list(cursor)


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    FOLDER.joinpath("settings.md").write_text(settings_page())
    FOLDER.joinpath("commands.md").write_text(commands_page())
    FOLDER.joinpath("metrics.md").write_text(metrics_page())
    with tempfile.TemporaryDirectory() as folder:
        FOLDER.joinpath("database.md").write_text(_database(Path(folder)))
    return 0


def _database(folder: Path) -> str:
    port = free_port()
    server = PostgresServer(folder / "postgres", port, credentials=folder / "credentials.json")
    settings = load(postgres_url=f"postgresql://candleflow@127.0.0.1:{port}/candleflow", data_dir=folder)
    server.start()
    try:
        server.wait_until_ready(60)
        server.provide("candleflow", "candleflow", credentials.password(settings, Role.OWNER))
        schema.apply(settings)
        with closing(credentials.dsn(settings, Role.OWNER).connect()) as connection:
            return database_page(*read_schema(connection))
    finally:
        server.stop()


def _helps(name: str) -> list[str]:
    """Return the help of a command, and of each of its subcommands."""
    os.environ["COLUMNS"] = str(_WIDTH)
    command = _subparsers(cli.build_parser(name))[name]
    return [one.format_help().strip() for one in (command, *_subparsers(command).values())]


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]  # noqa: SLF001 - argparse has no other way to them
    return {name: one for action in found for name, one in action.choices.items()}


def _default(field: Any) -> str:
    value = field.default
    if value is None or (isinstance(value, SecretStr) and not value.get_secret_value()):
        return ""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, tuple):
        value = ",".join(value)
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _accepted(field: Any) -> str:
    choices = getattr(field.annotation, "__members__", None)
    if choices:
        return ", ".join(f"`{one}`" for one in choices.values())
    lower = next((one.ge for one in field.metadata if hasattr(one, "ge")), None)
    upper = next((one.le for one in field.metadata if hasattr(one, "le")), None)
    if upper is None:
        return "" if lower is None else f"{lower:,} or more"
    return f"above 0, to {upper:,}" if lower is None else f"{lower:,} to {upper:,}"


def _sentence(comment: str | None) -> str:
    text = re.sub(r"\s+", " ", comment or "").strip()
    return f"{text[:1].upper()}{text[1:]}." if text else ""


if __name__ == "__main__":
    sys.exit(main())
