"""What the counts of the heartbeats are called in Prometheus, with unit and help text.

Counts since a process's start become counters, what stands now becomes a gauge; times are in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from candleflow.telemetry import Heartbeat

PREFIX: Final = "candleflow_"


@dataclass(frozen=True, slots=True)
class Family:
    """A metric, a counter where its name ends in ``_total``; ``name`` is without the prefix."""

    name: str
    help: str
    counts: Mapping[str, Mapping[str, str]]
    """The heartbeat's counts in it, each with its labels."""
    scale: float = 1.0
    """A count is this many of the metric's unit."""
    of_symbols: bool = False
    """Whether each count has a value for each symbol; the symbol becomes a label."""

    def metric(self, beat: Heartbeat) -> Metric | None:
        """Build the metric from a heartbeat; None if the heartbeat has none of its counts."""
        found = [(labels, value * self.scale) for labels, value in self._values(beat)]
        return metric(self.name, self.help, found) if found else None

    def _values(self, beat: Heartbeat) -> Iterator[tuple[Mapping[str, str], float]]:
        for count, labels in self.counts.items():
            if self.of_symbols:
                for symbol, value in beat.by_label.get(count, {}).items():
                    yield {**labels, "symbol": symbol}, value
            elif count in beat.counts:
                yield labels, beat.counts[count]


def metric(name: str, text: str, found: Sequence[tuple[Mapping[str, str], float]]) -> Metric:
    """Build a metric from values and their labels; all values have the same label names."""
    made = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
    family = made(PREFIX + name, text, labels=list(found[0][0]))
    for labels, value in found:
        family.add_metric(list(labels.values()), value)
    return family


def histogram(beat: Heartbeat) -> Metric | None:
    """Build the processor's histogram of latencies, from what ``RecentLatency.histogram`` returned."""
    told = dict(beat.by_label.get("latency", {}))
    if not told:
        return None
    total = told.pop("sum")
    text = "From a live trade's time to the end of the COMMIT that merged it."
    return HistogramMetricFamily(f"{PREFIX}trade_to_row_seconds", text, [*told.items()], total)


def _one(name: str, count: str, text: str, scale: float = 1.0) -> Family:
    return Family(name, text, {count: {}}, scale)


def _of_symbols(name: str, count: str, text: str) -> Family:
    return Family(name, text, {count: {}}, of_symbols=True)


_VERDICTS: Final = ("different", "missing", "extra", "incomplete", "not comparable", "equal")

_PRODUCER: Final = (
    _one("trades_received_total", "received", "Messages and fetched trades that should be trades."),
    _one("trades_published_total", "published", "Trades that Kafka has acknowledged."),
    _one("trades_duplicate_total", "duplicate", "Trades that had been published before."),
    _one("trades_rejected_total", "rejected", "Records put aside in the topic of rejected ones."),
    _one("trades_in_flight", "in_flight", "Records that wait for Kafka's acknowledgement."),
    _one("gaps_open", "open_gaps", "Open gaps: ranges of trades seen to be missing, and not filled yet."),
    _one("trades_missing", "missing", "Trades of open gaps: seen to be missing, and not filled yet."),
    _one("trades_filled_total", "filled", "Trades that were missing and came from the exchange's history."),
    _one("trades_let_go_total", "let_go", "Messages let go by while Kafka took nothing; they come again."),
    _one("publish_retries_total", "retried", "Records that were handed to Kafka again."),
    _one("exchange_reconnects_total", "reconnects", "Connections to the exchange that were replaced."),
    _one("exchange_connections", "connected", "Connections to the exchange that stand."),
    _one("event_loop_lag_seconds", "loop_lag_ms", "How late the event loop was at the last beat.", 1e-3),
    _of_symbols("last_trade_age_seconds", "age_s", "Age of the symbol's newest trade from the exchange."),
    _one("symbols_quiet", "quiet", "Silent symbols that the exchange has no newer trade of either."),
    _one("symbols_behind", "behind", "Symbols whose newest trades the stream did not bring."),
    _of_symbols("quiet_asked_age_seconds", "quiet_s", "How long ago the exchange had no newer trade either."),
    _of_symbols(
        "stream_behind_trades", "behind", "Newer trades of the symbol that the stream did not bring."
    ),
)

_PROCESSOR: Final = (
    _one("records_read_total", "received", "Records read from Kafka whose batch was merged."),
    _one("trades_merged_total", "merged", "Trades merged into rows of candles."),
    _one(
        "candles_written_total",
        "candles",
        "Rows of the finest candles written, one for each candle of a batch; its roll-ups' come on top.",
    ),
    _one("records_duplicate_total", "duplicate", "Records whose trade was in its candle already."),
    _one("records_rejected_total", "rejected", "Records that the processor refused."),
    _one("trades_late_total", "late", "Merged trades whose finest candle had closed."),
    _one("batches_total", "batches", "Batches merged."),
    _one("query_restarts_total", "restarts", "How often Spark's query ended and was started anew."),
    _one("lag_records", "lag", "Records in Kafka that are in no candle yet; absent while Kafka is away."),
    Family(
        "batch_duration_recent_seconds",
        "How long the last thousand batches took, by percentile.",
        {"batch_ms_p50": {"percentile": "50"}, "batch_ms_p99": {"percentile": "99"}},
        1e-3,
    ),
    Family(
        "trade_to_row_recent_seconds",
        "From a live trade's time to its row, over the last minute, by percentile.",
        {"latency_ms_p50": {"percentile": "50"}, "latency_ms_p99": {"percentile": "99"}},
        1e-3,
    ),
)

_AUDIT: Final = (
    _one("holes_found_total", "holes", "Holes in the candles' trade ids that nobody had noted."),
    _one("candles_repaired", "repaired", "Candles of the followed symbols that were ever folded anew."),
    Family(
        "klines_compared",
        "Windows of the last ten minutes held against the exchange's klines, by verdict.",
        {verdict: {"verdict": verdict} for verdict in _VERDICTS},
    ),
    Family(
        "symbol_klines_compared",
        "The same, of each symbol; a verdict that no window has is left out.",
        {verdict: {"verdict": verdict} for verdict in _VERDICTS},
        of_symbols=True,
    ),
    _of_symbols("klines_compared_age_seconds", "compared_age_s", "How long ago the symbol was compared."),
)

_ALERTS: Final = (
    _one("alert_rules", "rules", "Rules in force."),
    _one("alerts_decided_total", "decided", "Alerts that were decided."),
    _one("alert_pictures_sent_total", "pictures", "Pictures of the chart that a channel took."),
    _one("alert_deliveries_waiting", "waiting", "Messages that wait to be sent."),
    Family(
        "alert_deliveries_total",
        "Messages by what became of them.",
        {outcome: {"outcome": outcome} for outcome in ("sent", "refused", "unknown")},
    ),
)

_FORECASTER: Final = (
    _one("forecasts_made_total", "forecasts", "Forecasts that were kept."),
    _one("forecasts_scored_total", "scored", "Forecasts held against the close that came."),
    _one("forecasts_late_total", "late", "Forecasts whose window had begun: they count for nothing."),
    _of_symbols(
        "forecast_skill_ratio",
        "skill",
        "1 - error / error of the last price, of the symbol's last 2000 scored forecasts.",
    ),
    Family(
        "forecast_skill_bound_ratio",
        "The ends of the skill's 95 % interval.",
        {"skill_lower": {"bound": "lower"}, "skill_upper": {"bound": "upper"}},
        of_symbols=True,
    ),
)

_SIMULATOR: Final = (
    _one("simulated_messages_sent_total", "sent", "Messages that the simulated exchange has sent."),
    _one("simulator_clients", "clients", "Clients of the simulated exchange."),
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
