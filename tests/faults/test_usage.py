"""Tests of the soak test's verdict: steady growth is reported, variation is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.soak import SAMPLES, Series, growth_table, plotted
from tests.faults.usage import size_mb

RISING = [100 + 2.0 * at for at in range(SAMPLES)]
WAVERING = [100 + 5.0 * (at % 3) for at in range(SAMPLES)]
WARM = [min(400.0, 100 + 20.0 * at) for at in range(SAMPLES)]
"""Like a JVM's heap, which reaches its size in the first half."""


CAUGHT = [76.0] * (SAMPLES - 1) + [230.0]
"""A single outlier, such as a moment when a worker has many files open."""


@pytest.mark.parametrize(
    ("name", "values", "is_flat"),
    [
        ("producer: descriptors", RISING, False),
        ("producer: descriptors", WAVERING, True),
        ("PostgreSQL: descriptors", CAUGHT, True),
        ("producer: memory MB", [3 * value for value in RISING], False),
        ("producer: memory MB", RISING, True),
        ("processor: memory MB", WARM, True),
        ("logs MB", RISING, False),
        ("Kafka's data MB", RISING, True),
    ],
)
def test_growth_after_the_warm_up_is_reported(name: str, values: list[float], is_flat: bool) -> None:
    series = Series(name, values, hours=1)
    assert series.is_flat is is_flat
    assert ("GROWS" in growth_table([series])) is not is_flat
    assert plotted([series, series]).count("<polyline") == 2


def test_the_slope_is_per_hour() -> None:
    assert Series("threads", RISING, hours=0.5).slope == pytest.approx(2 * (SAMPLES - 1) / 0.5)


def test_the_size_of_a_folder_includes_its_subfolders(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a").write_bytes(bytes(1_000_000))
    (tmp_path / "b").write_bytes(bytes(500_000))
    assert size_mb(tmp_path) == 1.5
    assert size_mb(tmp_path / "b", tmp_path / "absent") == 0.5
