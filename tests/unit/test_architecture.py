"""ARCHITECTURE.md is a map of what is there: its stops, rooms and tests exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "ARCHITECTURE.md").read_text()
STOPS = re.findall(r"^\d+\. `([^`]+)`", TEXT, re.MULTILINE)
ROOMS = re.findall(r"^\| `(\w+)/` \|", TEXT, re.MULTILINE)


def test_a_trade_is_followed_in_at_most_ten_stops() -> None:
    assert 1 < len(STOPS) <= 10


@pytest.mark.parametrize("stop", STOPS)
def test_each_stop_is_a_file(stop: str) -> None:
    assert (ROOT / stop).is_file()


def test_each_room_has_its_line() -> None:
    folders = {one.parent.name for one in (ROOT / "candleflow").glob("*/__init__.py")}
    assert sorted(ROOMS) == sorted(folders)


@pytest.mark.parametrize("document", ["ARCHITECTURE.md", "docs/explanation/decisions.md"])
def test_each_file_of_ours_that_is_named_exists(document: str) -> None:
    named = set(re.findall(r"(?:tests|candleflow|bench|deploy)/[\w/]+\.\w+", (ROOT / document).read_text()))
    assert sorted(one for one in named if not (ROOT / one).is_file()) == []


def test_each_test_that_the_tests_readme_names_exists() -> None:
    named = re.findall(r"`([\w/]+\.py)`", (ROOT / "tests" / "README.md").read_text())
    assert sorted(one for one in named if not (ROOT / "tests" / one).is_file()) == []


def test_it_fits_on_three_screens() -> None:
    assert len(TEXT.splitlines()) <= 100
