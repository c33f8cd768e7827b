"""The README says what is true: each setting and each command has its line there."""

from __future__ import annotations

from pathlib import Path

import pytest

from candleflow.settings import FIELDS, PREFIX

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_setting_has_its_line_with_meaning_and_default(name: str) -> None:
    field = Settings.model_fields[name]
    lines = [line for line in README.splitlines() if line.startswith(f"| `{PREFIX}{name.upper()}` |")]
    assert len(lines) == 1, f"{PREFIX}{name.upper()} needs one row in the README's table of settings"
    assert (field.description or "no description") in lines[0]


def test_no_setting_is_listed_that_is_none() -> None:
    listed = {line.split("`")[1] for line in README.splitlines() if line.startswith(f"| `{PREFIX}")}
    assert listed == {PREFIX + name.upper() for name in Settings.model_fields}
