"""Every count of a heartbeat has a Prometheus metric, and every metric's name follows the conventions."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from candleflow import settings
from candleflow.alerts.process import Alerting
from candleflow.audit.klines import Verdict
from candleflow.audit.process import Auditor, _Agreement
from candleflow.broker.offsets import Latest
from candleflow.engine.recent_latency import LiveTrades
from candleflow.engine.sink import Tally
from candleflow.forecast.process import Forecaster
from candleflow.market.gap import GapEvent, GapEventKind
from candleflow.metrics.families import FAMILIES, Family
from candleflow.processor.process import _Processor
from candleflow.producer.process import Producer
from candleflow.settings import METRICS_PORTS, Settings
from candleflow.stack.spark import spark_files
from candleflow.store.credentials import Role
from candleflow.store.forecasts import ForecastStore
from candleflow.telemetry import ByLabel, Counts

EVERY = [(process, family) for process, families in FAMILIES.items() for family in families]
LEFT_OUT = {"merged_per_s", "latency_trades"}
"""Counts that Prometheus can compute from the others, so they are not exported."""


def known(process: str, *, of_symbols: bool) -> set[str]:
    return {count for one in FAMILIES[process] if one.of_symbols is of_symbols for count in one.counts}


async def of_producer(in_force: Settings) -> tuple[Counts, ByLabel]:
    producer = Producer(in_force)
    return producer._counts(), producer._by_symbol()


async def of_audit(in_force: Settings) -> tuple[Counts, ByLabel]:
    auditor = Auditor(in_force)
    auditor._agreement["BTCUSDT"] = _Agreement(Counter(Verdict), 0.0)
    return auditor.counts(), auditor.by_symbol()


async def of_alerts(in_force: Settings) -> tuple[Counts, ByLabel]:
    return Alerting(in_force).counts(), {}


async def of_forecaster(in_force: Settings) -> tuple[Counts, ByLabel]:
    forecaster = Forecaster(in_force, ForecastStore.from_settings(in_force, Role.FORECASTER))
    return forecaster.counts(), {"skill": {}, "skill_lower": {}, "skill_upper": {}}


@dataclass
class Sink:
    """The part of a CandleSink that the processor's counts use: two batches with a live trade each."""

    tally: Tally = field(default_factory=Tally)
    offsets: dict[int, int] = field(default_factory=lambda: {0: 3})


async def of_processor(in_force: Settings) -> tuple[Counts, ByLabel]:
    sink, processor = Sink(), _Processor(in_force, partial(spark_files, in_force, "test"))
    sink.tally.latency.note([LiveTrades(0, 0, 1)], 1, 1)
    sink.tally.batch_seconds.extend((0.2, 0.3))
    processor._sink = sink  # type: ignore[assignment]
    processor._end_offsets._latest = Latest(time.monotonic(), "", {0: 10})
    counts = processor._counts()
    assert {"lag", "batch_ms_p99", "latency_ms_p50"} <= counts.keys()
    return counts, {}


@pytest.mark.parametrize(
    ("process", "counts_of"),
    [
        ("producer", of_producer),
        ("audit", of_audit),
        ("alerts", of_alerts),
        ("forecaster", of_forecaster),
        ("processor", of_processor),
    ],
)
async def test_each_count_of_a_heartbeat_has_a_name_and_each_name_a_count(
    process: str, counts_of: Callable[[Settings], Awaitable[tuple[Counts, ByLabel]]], tmp_path: Path
) -> None:
    counts, by_symbol = await counts_of(settings.load(data_dir=tmp_path))
    assert counts.keys() - LEFT_OUT == known(process, of_symbols=False)
    assert by_symbol.keys() == known(process, of_symbols=True)


async def test_consecutive_missing_trades_are_one_open_gap(tmp_path: Path) -> None:
    producer = Producer(settings.load(data_dir=tmp_path, symbols="BTCUSDT,ETHUSDT"))

    def after(kind: GapEventKind, symbol: str, first: int, last: int) -> tuple[int | float, int | float]:
        producer._filler.add([GapEvent(kind, symbol, first, last, 1, "jump")])
        counts = producer._counts()
        return counts["open_gaps"], counts["missing"]

    assert after(GapEventKind.SEEN, "BTCUSDT", 5, 9) == (1, 5)
    assert after(GapEventKind.SEEN, "BTCUSDT", 10, 11) == (1, 7)
    assert after(GapEventKind.SEEN, "BTCUSDT", 20, 20) == (2, 8)
    assert after(GapEventKind.SEEN, "ETHUSDT", 5, 9) == (3, 13)
    assert after(GapEventKind.GIVEN_UP, "ETHUSDT", 5, 9) == (3, 13)
    assert after(GapEventKind.FILLED, "BTCUSDT", 7, 7) == (4, 12)
    assert after(GapEventKind.FILLED, "BTCUSDT", 5, 20) == (1, 5)


@pytest.mark.parametrize(("process", "family"), EVERY, ids=lambda one: getattr(one, "name", str(one)))
def test_names_follow_the_conventions(process: str, family: Family) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*[a-z0-9]", family.name), process
    assert not family.name.endswith(("_count", "_sum", "_bucket", "_ms", "_s"))
    assert family.help.endswith(".")
    if family.scale != 1:
        assert family.name.endswith("_seconds")


def test_no_name_is_given_twice() -> None:
    names = [family.name for _, family in EVERY]
    assert len(names) == len(set(names))


def test_each_process_has_a_port_of_its_own() -> None:
    assert METRICS_PORTS.keys() == FAMILIES.keys()
    assert len(set(METRICS_PORTS.values())) == len(METRICS_PORTS)
