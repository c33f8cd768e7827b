"""The PostgreSQL roles of Candleflow and all their rights.

``schema.py`` creates the roles and grants these rights; ``credentials.py`` has the passwords.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Role(StrEnum):
    """A role. Its name in PostgreSQL is ``<owner>_<role>``, except the owner's: ``credentials.role_name``."""

    OWNER = "owner"
    """Owns all tables and functions; only ``schema.py`` and the owner's commands connect as it."""
    WRITER = "writer"
    """The processor: calls its functions, can't read any table."""
    READER = "reader"
    """The dashboard and the user's own tools: read the tables that the dashboard shows."""
    AUDITOR = "auditor"
    """The audit, repair and history loading: read candles, rebuild wrong ones, load older ones."""
    FORECASTER = "forecaster"
    """The forecaster: reads candles, stores and scores forecasts."""
    ALERTER = "alerter"
    """The alerts process: reads candles and rules, decides alerts, stores what it sent."""
    EDITOR = "editor"
    """Adds and removes alert rules; can do nothing else."""


@dataclass(frozen=True, slots=True)
class Rights:
    """A role's connection limit, readable tables, callable functions, and session defaults."""

    connections: int
    tables: tuple[str, ...]
    functions: tuple[str, ...]
    settings: Mapping[str, str]


READABLE_TABLES: Final = ("candles", "symbols", "record_counts", "topics", "forecasts")
ALERT_TABLES: Final = ("alert_rules", "alert_states", "alerts", "alert_deliveries", "alerter")

# The server checks each second whether the client of a running statement is still connected, and probes idle
# ones by TCP keepalive: a process that lost its network must not keep its locks.
_WATCHED: Final = {"client_connection_check_interval": "1s"}
_PROBED: Final = {"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}

# Session settings are defaults for every client. They are no protection, because a client can change its own;
# the rights on tables and functions protect.
RIGHTS: Final = {
    Role.WRITER: Rights(
        connections=10,
        tables=(),
        functions=(
            "claim_topic", "close_quiet_candles", "current_schema_version", "last_records", "merge_batch",
            "snapshot_holders",
        ),
        settings={
            "timezone": "UTC",
            "lock_timeout": "30s",
            "idle_in_transaction_session_timeout": "60s",
            **_WATCHED,
            **_PROBED,
        },
    ),
    Role.READER: Rights(
        connections=30,
        tables=(*READABLE_TABLES, *ALERT_TABLES),
        functions=("held_ids",),
        settings={
            "timezone": "UTC",
            "default_transaction_read_only": "on",
            "statement_timeout": "5s",
            "idle_in_transaction_session_timeout": "10s",
            **_WATCHED,
        },
    ),
    Role.AUDITOR: Rights(
        connections=10,
        tables=READABLE_TABLES,
        functions=(
            "finest_books", "held_ids", "load_history", "merged_offsets", "replace_candles", "stray_roll_ups",
        ),
        settings={
            "timezone": "UTC",
            "lock_timeout": "30s",
            "statement_timeout": "60s",
            "idle_in_transaction_session_timeout": "10s",
            **_WATCHED,
        },
    ),
    Role.FORECASTER: Rights(
        connections=4,
        tables=READABLE_TABLES,
        functions=("drop_forecasts", "keep_forecasts", "score_forecasts"),
        settings={
            "timezone": "UTC",
            "lock_timeout": "5s",
            "statement_timeout": "10s",
            "idle_in_transaction_session_timeout": "10s",
            **_WATCHED,
        },
    ),
    Role.ALERTER: Rights(
        connections=10,
        tables=(*READABLE_TABLES, *ALERT_TABLES),
        functions=("claim_alerts", "decide_alerts", "drop_alerts", "note_deliveries", "take_deliveries"),
        settings={
            "timezone": "UTC",
            "lock_timeout": "4s",
            "statement_timeout": "5s",
            "idle_in_transaction_session_timeout": "10s",
            **_WATCHED,
            **_PROBED,
        },
    ),
    Role.EDITOR: Rights(
        connections=10,
        tables=(),
        functions=("add_alert_rule", "remove_alert_rule"),
        settings={
            "timezone": "UTC",
            "lock_timeout": "4s",
            "statement_timeout": "5s",
            "idle_in_transaction_session_timeout": "10s",
        },
    ),
}  # fmt: skip
"""The rights of every role except the owner, who may do everything."""
