"""The roles that Candleflow connects to PostgreSQL as, and what each may do there: this table is all of it.

``schema.py`` makes the roles and gives them what stands here; ``credentials.py`` has their passwords.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Role(StrEnum):
    """Who asks. PostgreSQL calls all but the owner ``<owner>_<role>``: ``credentials.role_name``."""

    OWNER = "owner"
    """Owns all tables and functions; only ``schema.py`` and the owner's commands connect as it."""
    WRITER = "writer"
    """The processor: calls its functions, reads no table."""
    READER = "reader"
    """The page, and people's own tools: read what the page shows."""
    AUDITOR = "auditor"
    """The audit, repair and history: read candles, and put right or load what they found."""
    FORECASTER = "forecaster"
    """The forecaster: reads candles, keeps and scores forecasts."""
    ALERTER = "alerter"
    """The alerts' process: reads candles and rules, decides and notes what it sent."""
    EDITOR = "editor"
    """Adds and removes alert rules, nothing else."""


@dataclass(frozen=True, slots=True)
class Rights:
    """What a role may read and call, how many sessions it may have, and the settings that they begin with."""

    connections: int
    tables: tuple[str, ...]
    functions: tuple[str, ...]
    settings: Mapping[str, str]


READABLE_TABLES: Final = ("candles", "symbols", "record_counts", "topics", "forecasts")
ALERT_TABLES: Final = ("alert_rules", "alert_states", "alerts", "alert_deliveries", "alerter")

# The server checks every second that the client of a long statement is still there, and probes an idle one:
# a process that is cut off must not keep its lock.
_WATCHED: Final = {"client_connection_check_interval": "1s"}
_PROBED: Final = {"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}

# Settings stand here so that no client has to remember them. They protect nothing, as a client may change its
# own; tables and functions do.
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
"""Of every role but the owner, who may do everything."""
