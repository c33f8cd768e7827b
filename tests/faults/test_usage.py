"""The soak's judgement: what grows is told, and what only wavers is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.soak import SAMPLES, Course, pictured, told
from tests.faults.usage import size_mb

RISING = [100 + 2.0 * at for at in range(SAMPLES)]
WAVERING = [100 + 5.0 * (at % 3) for at in range(SAMPLES)]
WARM = [min(400.0, 100 + 20.0 * at) for at in range(SAMPLES)]
"""As a JVM's heap, which comes to its size in the first half."""


CAUGHT = [76.0] * (SAMPLES - 1) + [230.0]
"""A moment at which a worker has opened its files."""


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
def test_what_grows_after_the_warm_up_is_told(name: str, values: list[float], is_flat: bool) -> None:
    course = Course(name, values, hours=1)
    assert course.is_flat is is_flat
    assert ("GROWS" in told([course])) is not is_flat
    assert pictured([course, course]).count("<polyline") == 2


def test_the_slope_is_by_the_hour() -> None:
    assert Course("threads", RISING, hours=0.5).slope == pytest.approx(2 * (SAMPLES - 1) / 0.5)


def test_the_size_of_a_folder_is_that_of_all_below(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a").write_bytes(bytes(1_000_000))
    (tmp_path / "b").write_bytes(bytes(500_000))
    assert size_mb(tmp_path) == 1.5
    assert size_mb(tmp_path / "b", tmp_path / "absent") == 0.5
