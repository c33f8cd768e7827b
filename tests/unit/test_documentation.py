"""The documentation matches the code: README's size, the reference, named files, errors with a cure."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deploy import reference

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
OUTSIDE_THE_SITE = sorted([*ROOT.glob("*.md"), ROOT / "tests" / "README.md"])
"""`mkdocs build --strict` checks the links of docs/, but not these files."""
HEADINGS = re.findall(r"(?m)^### (.*…?.*)$", (ROOT / "docs" / "guides" / "troubleshooting.md").read_text())
OURS = {".py", ".sql"}


@pytest.mark.parametrize("name", ["settings", "commands", "metrics"])
def test_the_reference_is_what_the_code_declares(name: str) -> None:
    written = (reference.FOLDER / f"{name}.md").read_text()
    assert written == getattr(reference, f"{name}_page")(), "run make reference"


def test_the_readme_takes_two_minutes() -> None:
    assert len(README.splitlines()) <= 140
    assert len(README.split()) <= 1_200


@pytest.mark.parametrize("document", OUTSIDE_THE_SITE, ids=lambda one: str(one.relative_to(ROOT)))
def test_each_relative_link_leads_to_a_file_and_its_heading(document: Path) -> None:
    links = re.findall(r"(?:\]\(|(?:src|srcset|href)=\")(?!https?://)([^)\"]+)", document.read_text())
    assert [one for one in links if not leads_somewhere(document, *one.split("#"))] == []


def leads_somewhere(document: Path, path: str, anchor: str = "") -> bool:
    file = document.parent / path if path else document
    if not file.exists() or not anchor:
        return file.exists()
    headings = re.findall(r"(?m)^#+ (.+)$", file.read_text())
    return anchor in {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}


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
