"""What the counts of the heartbeats are called in Prometheus, with unit and help text.

Counts since a process's start become counters, what stands now becomes a gauge; times are in seconds. A count
with a symbol after its colon (``age_s:BTCUSDT``) becomes a label: the heartbeats bound how many there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

PREFIX: Final = "candleflow_"


class Kind(StrEnum):
    """Prometheus' types, as far as they are used here."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: ``name`` is without the prefix, and without a counter's ``_total``."""

    name: str
    kind: Kind
    help: str
    counts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """The heartbeat's counts in it, each with its labels. One with a colon at its end is of each symbol."""
    scale: float = 1.0
    """A count is this many of the metric's unit."""

    @property
    def full_name(self) -> str:
        """As Prometheus stores it; of a histogram, without ``_bucket``, ``_sum`` or ``_count``."""
        return f"{PREFIX}{self.name}{'_total' if self.kind is Kind.COUNTER else ''}"


def _counter(name: str, count: str, text: str) -> Family:
    return Family(name, Kind.COUNTER, text, {count: {}})


def _gauge(name: str, count: str, text: str, scale: float = 1.0) -> Family:
    return Family(name, Kind.GAUGE, text, {count: {}}, scale)


_VERDICTS: Final = ("different", "missing", "extra", "incomplete", "not comparable", "equal")

_PRODUCER: Final = (
    _counter("trades_received", "received", "Messages and fetched trades that should be trades."),
    _counter("trades_published", "published", "Trades that Kafka has acknowledged."),
    _counter("trades_duplicate", "duplicate", "Trades that had been published before."),
    _counter("trades_rejected", "rejected", "Records put aside in the topic of rejected ones."),
    _gauge("trades_in_flight", "in_flight", "Records that wait for Kafka's acknowledgement."),
    _gauge("gaps_open", "open_gaps", "Open gaps: ranges of trades seen to be missing, and not filled yet."),
    _gauge("trades_missing", "missing", "Trades of open gaps: seen to be missing, and not filled yet."),
    _counter("trades_filled", "filled", "Trades that were missing and came from the exchange's history."),
    _counter("trades_let_go", "let_go", "Messages let go by while Kafka took nothing; they come again."),
    _counter("publish_retries", "retried", "Records that were handed to Kafka again."),
    _counter("exchange_reconnects", "reconnects", "Connections to the exchange that were replaced."),
    _gauge("exchange_connections", "connected", "Connections to the exchange that stand."),
    _gauge("event_loop_lag_seconds", "loop_lag_ms", "How late the event loop was at the last beat.", 1e-3),
    _gauge("last_trade_age_seconds", "age_s:", "Age of the symbol's newest trade from the exchange."),
    _gauge("symbols_quiet", "quiet", "Silent symbols that the exchange has no newer trade of either."),
    _gauge("symbols_behind", "behind", "Symbols whose newest trades the stream did not bring."),
    _gauge("quiet_asked_age_seconds", "quiet_s:", "How long ago the exchange had no newer trade either."),
    _gauge("stream_behind_trades", "behind:", "Newer trades of the symbol that the stream did not bring."),
)

_PROCESSOR: Final = (
    _counter("records_read", "received", "Records read from Kafka whose batch was merged."),
    _counter("trades_merged", "merged", "Trades merged into rows of candles."),
    _counter(
        "candles_written",
        "candles",
        "Rows of the finest candles written, one for each candle of a batch; its roll-ups' come on top.",
    ),
    _counter("records_duplicate", "duplicate", "Records whose trade was in its candle already."),
    _counter("records_rejected", "rejected", "Records that the processor refused."),
    _counter("trades_late", "late", "Merged trades whose finest candle had closed."),
    _counter("batches", "batches", "Batches merged."),
    _counter("query_restarts", "restarts", "How often Spark's query ended and was started anew."),
    _gauge("lag_records", "lag", "Records in Kafka that are in no candle yet; absent while Kafka is away."),
    Family(
        "batch_duration_recent_seconds",
        Kind.GAUGE,
        "How long the last thousand batches took, by percentile.",
        {"batch_ms_p50": {"percentile": "50"}, "batch_ms_p99": {"percentile": "99"}},
        1e-3,
    ),
    Family(
        "trade_to_row_recent_seconds",
        Kind.GAUGE,
        "From a live trade's time to its row, over the last minute, by percentile.",
        {"latency_ms_p50": {"percentile": "50"}, "latency_ms_p99": {"percentile": "99"}},
        1e-3,
    ),
    Family(
        "trade_to_row_seconds",
        Kind.HISTOGRAM,
        "From a live trade's time to the end of the COMMIT that merged it.",
        {"latency_le:": {}, "latency_sum:": {}},
    ),
)

_AUDIT: Final = (
    _counter("holes_found", "holes", "Holes in the candles' trade ids that nobody had noted."),
    _gauge("candles_repaired", "repaired", "Candles of the followed symbols that were ever folded anew."),
    Family(
        "klines_compared",
        Kind.GAUGE,
        "Windows of the last ten minutes held against the exchange's klines, by verdict.",
        {verdict: {"verdict": verdict} for verdict in _VERDICTS},
    ),
    Family(
        "symbol_klines_compared",
        Kind.GAUGE,
        "The same, of each symbol; a verdict that no window has is left out.",
        {f"{verdict}:": {"verdict": verdict} for verdict in _VERDICTS},
    ),
    _gauge("klines_compared_age_seconds", "compared_age_s:", "How long ago the symbol was compared."),
)

_ALERTS: Final = (
    _gauge("alert_rules", "rules", "Rules in force."),
    _counter("alerts_decided", "decided", "Alerts that were decided."),
    _counter("alert_pictures_sent", "pictures", "Pictures of the chart that a channel took."),
    _gauge("alert_deliveries_waiting", "waiting", "Messages that wait to be sent."),
    Family(
        "alert_deliveries",
        Kind.COUNTER,
        "Messages by what became of them.",
        {outcome: {"outcome": outcome} for outcome in ("sent", "refused", "unknown")},
    ),
)

_FORECASTER: Final = (
    _counter("forecasts_made", "forecasts", "Forecasts that were kept."),
    _counter("forecasts_scored", "scored", "Forecasts held against the close that came."),
    _counter("forecasts_late", "late", "Forecasts whose window had begun: they count for nothing."),
    _gauge(
        "forecast_skill_ratio",
        "skill:",
        "1 - error / error of the last price, of the symbol's last 2000 scored forecasts.",
    ),
    Family(
        "forecast_skill_bound_ratio",
        Kind.GAUGE,
        "The ends of the skill's 95 % interval.",
        {"skill_lower:": {"bound": "lower"}, "skill_upper:": {"bound": "upper"}},
    ),
)

_SIMULATOR: Final = (
    _counter("simulated_messages_sent", "sent", "Messages that the simulated exchange has sent."),
    _gauge("simulator_clients", "clients", "Clients of the simulated exchange."),
)

FAMILIES: Final[Mapping[str, tuple[Family, ...]]] = {
    "producer": _PRODUCER,
    "processor": _PROCESSOR,
    "audit": _AUDIT,
    "alerts": _ALERTS,
    "forecaster": _FORECASTER,
    "simulator": _SIMULATOR,
}
"""By process, what it exports beside what every process does."""


def families_of(name: str) -> tuple[Family, ...]:
    """What the process of that name exports; ``producer-2-of-4`` as ``producer``."""
    return FAMILIES[name.partition("-")[0]]


LEFT_OUT: Final = frozenset({"merged_per_s", "latency_trades"})
"""Counts that Prometheus makes by itself of the others."""

STATES: Final = ("starting", "running", "waiting", "stopping")

STATE: Final = Family(
    "process_state", Kind.GAUGE, "1 for the state that the process is in, 0 for the others."
)
LAST_BEAT: Final = Family(
    "last_beat_age_seconds",
    Kind.GAUGE,
    "How long ago the process last told of itself; it does once a second.",
)
BUILD: Final = Family("build_info", Kind.GAUGE, "Always 1; the version is a label.")
OF_EVERY_PROCESS: Final = (STATE, LAST_BEAT, BUILD)


@dataclass(frozen=True, slots=True)
class Value:
    """One value of a family, in its unit."""

    labels: Mapping[str, str]
    value: float


def values(family: Family, counts: Mapping[str, int | float]) -> Iterator[Value]:
    """What the counts have of a family that isn't a histogram."""
    for name, labels in family.counts.items():
        if not name.endswith(":"):
            if name in counts:
                yield Value(labels, counts[name] * family.scale)
            continue
        for count, value in counts.items():
            if count.startswith(name):
                yield Value({**labels, "symbol": count.removeprefix(name)}, value * family.scale)


def buckets(counts: Mapping[str, int | float]) -> tuple[list[tuple[str, float]], float] | None:
    """The histogram's buckets, each an upper bound and how many up to it, and its sum; None if not told."""
    found = [
        (name.removeprefix("latency_le:"), float(count))
        for name, count in counts.items()
        if name.startswith("latency_le:")
    ]
    return (found, counts.get("latency_sum:s", 0.0)) if found else None
