"""The Prometheus metrics of each process: name, help text and unit of each count in its heartbeat.

Totals since the start of the process are counters, current values are gauges. Times are in seconds.
`make reference` writes docs/reference/metrics.md from this module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from candleflow.telemetry import Heartbeat

PREFIX: Final = "candleflow_"


class Described(NamedTuple):
    """A metric as its documentation shows it; ``name`` is without the prefix."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


BUILD_INFO: Final = Described(
    "build_info", "gauge", ("process", "version"), "Always 1; the label says which version runs."
)
LAST_BEAT_AGE: Final = Described(
    "last_beat_age_seconds",
    "gauge",
    ("process",),
    "Time since the process's last heartbeat; it sends one each second.",
)
PROCESS_STATE: Final = Described(
    "process_state",
    "gauge",
    ("process", "state"),
    "1 for the current state of the process, 0 for the others.",
)
COMMON: Final = (BUILD_INFO, LAST_BEAT_AGE, PROCESS_STATE)
"""What every process exports."""
TRADE_TO_ROW: Final = Described(
    "trade_to_row_seconds",
    "histogram",
    (),
    "From a live trade's time to the end of the COMMIT that merged it.",
)


@dataclass(frozen=True, slots=True)
class Family:
    """A metric of one process: a counter if its name ends in ``_total``, else a gauge.

    ``name`` is without the prefix.
    """

    name: str
    help: str
    counts: Mapping[str, Mapping[str, str]]
    """The heartbeat's counts that it shows, each with its labels."""
    scale: float = 1.0
    """Factor from the count's unit to the metric's: 1e-3 from milliseconds to seconds."""
    of_symbols: bool = False
    """Whether each count has one value per symbol, which becomes a label."""

    def metric(self, beat: Heartbeat) -> Metric | None:
        """Build the metric from a heartbeat; None if the heartbeat has none of its counts."""
        found = [(labels, value * self.scale) for labels, value in self._values(beat)]
        return metric(self.name, self.help, found) if found else None

    def described(self) -> Described:
        """Return what the reference page says of it."""
        labels = dict.fromkeys(label for one in self.counts.values() for label in one)
        return Described(
            self.name, _kind(self.name), (*labels, *(("symbol",) if self.of_symbols else ())), self.help
        )

    def _values(self, beat: Heartbeat) -> Iterator[tuple[Mapping[str, str], float]]:
        for count, labels in self.counts.items():
            if self.of_symbols:
                for symbol, value in beat.by_label.get(count, {}).items():
                    yield {**labels, "symbol": symbol}, value
            elif count in beat.counts:
                yield labels, beat.counts[count]


def metric(name: str, text: str, found: Sequence[tuple[Mapping[str, str], float]]) -> Metric:
    """Build a metric from values and their labels; all values have the same label names."""
    made = CounterMetricFamily if _kind(name) == "counter" else GaugeMetricFamily
    family = made(PREFIX + name, text, labels=list(found[0][0]))
    for labels, value in found:
        family.add_metric(list(labels.values()), value)
    return family


def histogram(beat: Heartbeat) -> Metric | None:
    """Build the processor's latency histogram from what ``RecentLatency.histogram`` returned, if anything."""
    buckets = dict(beat.by_label.get("latency", {}))
    if not buckets:
        return None
    total = buckets.pop("sum")
    return HistogramMetricFamily(PREFIX + TRADE_TO_ROW.name, TRADE_TO_ROW.help, [*buckets.items()], total)


def _kind(name: str) -> str:
    return "counter" if name.endswith("_total") else "gauge"


def _one(name: str, count: str, text: str, scale: float = 1.0) -> Family:
    return Family(name, text, {count: {}}, scale)


def _of_symbols(name: str, count: str, text: str) -> Family:
    return Family(name, text, {count: {}}, of_symbols=True)


_VERDICTS: Final = ("different", "missing", "extra", "incomplete", "not comparable", "equal")

_PRODUCER: Final = (
    _one(
        "trades_received_total",
        "received",
        "Trades received from the exchange, by stream or by REST, before validation.",
    ),
    _one("trades_published_total", "published", "Trades that Kafka acknowledged."),
    _one("trades_duplicate_total", "duplicate", "Trades dropped because they were published before."),
    _one(
        "trades_rejected_total", "rejected", "Invalid records sent to the dead-letter topic trades.rejected."
    ),
    _one("trades_in_flight", "in_flight", "Records sent to Kafka and not acknowledged yet."),
    _one("gaps_open", "open_gaps", "Gaps, that is ranges of missing trade ids, that are not filled yet."),
    _one("trades_missing", "missing", "Missing trades in all gaps that are not filled yet."),
    _one("trades_filled_total", "filled", "Missing trades that were fetched from the exchange's REST API."),
    _one(
        "trades_let_go_total",
        "let_go",
        "Messages dropped at the in-flight limit (load shedding); the producer fetches their trades later.",
    ),
    _one("publish_retries_total", "retried", "Records sent to Kafka again after a failure."),
    _one(
        "exchange_reconnects_total",
        "reconnects",
        "Connections to the exchange that were replaced, planned or after a failure.",
    ),
    _one("exchange_connections", "connected", "Open WebSocket connections to the exchange."),
    _one(
        "event_loop_lag_seconds",
        "loop_lag_ms",
        "How late the event loop was at the last heartbeat; high if the process is overloaded.",
        1e-3,
    ),
    _of_symbols("last_trade_age_seconds", "age_s", "Age of the newest trade received for the symbol."),
    _one(
        "symbols_quiet",
        "quiet",
        "Silent symbols for which the exchange's REST API has no newer trade either.",
    ),
    _one("symbols_behind", "behind", "Symbols with newer trades at the exchange than the stream delivered."),
    _of_symbols(
        "quiet_asked_age_seconds",
        "quiet_s",
        "Time since the REST API last confirmed that a silent symbol has no newer trade.",
    ),
    _of_symbols(
        "stream_behind_trades",
        "behind",
        "Trades of the symbol at the exchange that the stream did not deliver.",
    ),
)

_PROCESSOR: Final = (
    _one("records_read_total", "received", "Records read from Kafka in batches that were merged."),
    _one("trades_merged_total", "merged", "Trades merged into candles."),
    _one(
        "candles_written_total",
        "candles",
        "Finest candles written, counted once per batch; roll-ups are not counted.",
    ),
    _one(
        "records_duplicate_total",
        "duplicate",
        "Records skipped because their trade was in its candle already.",
    ),
    _one("records_rejected_total", "rejected", "Records that the processor rejected as invalid."),
    _one("trades_late_total", "late", "Merged trades whose finest candle had already closed."),
    _one("batches_total", "batches", "Batches merged."),
    _one("query_restarts_total", "restarts", "Restarts of the Spark query after a failure."),
    _one(
        "lag_records", "lag", "Records in Kafka that are not merged yet; absent while Kafka can't be reached."
    ),
    Family(
        "batch_duration_recent_seconds",
        "Duration of the last thousand batches, by percentile.",
        {"batch_ms_p50": {"percentile": "50"}, "batch_ms_p99": {"percentile": "99"}},
        1e-3,
    ),
    Family(
        "trade_to_row_recent_seconds",
        "From a live trade's time to its commit, over the last minute, by percentile.",
        {"latency_ms_p50": {"percentile": "50"}, "latency_ms_p99": {"percentile": "99"}},
        1e-3,
    ),
)

_AUDIT: Final = (
    _one("holes_found_total", "holes", "Gaps in the candles' trade ids that the producer had not recorded."),
    _one("candles_repaired", "repaired", "Candles of the followed symbols rebuilt from their trades, ever."),
    Family(
        "klines_compared",
        "Windows of the last ten minutes compared with the exchange's klines, by verdict.",
        {verdict: {"verdict": verdict} for verdict in _VERDICTS},
    ),
    Family(
        "symbol_klines_compared",
        "The same for each symbol; verdicts without a window are left out.",
        {verdict: {"verdict": verdict} for verdict in _VERDICTS},
        of_symbols=True,
    ),
    _of_symbols(
        "klines_compared_age_seconds",
        "compared_age_s",
        "Time since the symbol was last compared with the exchange's klines.",
    ),
)

_ALERTS: Final = (
    _one("alert_rules", "rules", "Rules in force."),
    _one("alerts_decided_total", "decided", "Alerts decided."),
    _one("alert_pictures_sent_total", "pictures", "Chart pictures accepted by a channel."),
    _one("alert_deliveries_waiting", "waiting", "Messages not sent yet."),
    Family(
        "alert_deliveries_total",
        "Messages by outcome; unknown: no answer came, so it is not sent again.",
        {outcome: {"outcome": outcome} for outcome in ("sent", "refused", "unknown")},
    ),
)

_FORECASTER: Final = (
    _one("forecasts_made_total", "forecasts", "Forecasts stored before their window began."),
    _one("forecasts_scored_total", "scored", "Forecasts compared with the real close."),
    _one("forecasts_late_total", "late", "Forecasts discarded because their window had begun."),
    _of_symbols(
        "forecast_skill_ratio",
        "skill",
        "1 - error / error of the last price, over the symbol's last 2000 scored forecasts.",
    ),
    Family(
        "forecast_skill_bound_ratio",
        "Both ends of the skill's 95 % confidence interval.",
        {"skill_lower": {"bound": "lower"}, "skill_upper": {"bound": "upper"}},
        of_symbols=True,
    ),
)

_SIMULATOR: Final = (
    _one("simulated_messages_sent_total", "sent", "Messages that the simulated exchange sent."),
    _one("simulator_clients", "clients", "WebSocket clients of the simulated exchange."),
)

FAMILIES: Final[Mapping[str, tuple[Family, ...]]] = {
    "producer": _PRODUCER,
    "processor": _PROCESSOR,
    "audit": _AUDIT,
    "alerts": _ALERTS,
    "forecaster": _FORECASTER,
    "simulator": _SIMULATOR,
}
"""By process, what it exports in addition to ``COMMON``."""


def families_of(name: str) -> tuple[Family, ...]:
    """Return the families of the process; ``producer-2-of-4`` has those of ``producer``."""
    return FAMILIES[name.partition("-")[0]]
