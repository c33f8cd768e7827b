"""The documentation matches the code: README's size, the reference, named files, errors with a cure."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deploy import reference

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
HEADINGS = re.findall(r"(?m)^### (.*…?.*)$", (ROOT / "docs" / "guides" / "troubleshooting.md").read_text())
OURS = {".py", ".sql"}


@pytest.mark.parametrize("name", ["settings", "commands", "metrics"])
def test_the_reference_is_what_the_code_declares(name: str) -> None:
    written = (reference.FOLDER / f"{name}.md").read_text()
    assert written == getattr(reference, f"{name}_page")(), "run make reference"


def test_the_readme_takes_two_minutes() -> None:
    assert len(README.splitlines()) <= 140
    assert len(README.split()) <= 1_200


@pytest.mark.parametrize("document", sorted((ROOT / "docs").rglob("*.md")), ids=lambda one: one.name)
def test_each_file_of_ours_that_a_page_names_exists(document: Path) -> None:
    named = set(re.findall(r"`((?:tests|candleflow|bench|deploy)/[\w/.]+\.\w+)`", document.read_text()))
    assert sorted(one for one in named if not (ROOT / one).exists()) == []


@pytest.mark.parametrize("heading", [one for one in HEADINGS if "…" in one])
def test_a_message_with_a_cure_is_still_a_message(heading: str) -> None:
    """A heading is the message, with … for its values."""
    source = " ".join(
        re.sub(r'"\s*\n\s*f?"', "", file.read_text())
        for file in sorted((ROOT / "candleflow").rglob("*"))
        if file.suffix in OURS
    )
    for part in (part.strip(" :'\"") for part in heading.split("…")):
        assert part in source, part
