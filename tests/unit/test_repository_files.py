"""What GitHub and newcomers read: that it names what is there."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from candleflow.settings import unknown_names
from tests.processes import ROOT

CHECKER = ROOT / ".venv-checkers" / "bin" / "check-jsonschema"


def test_every_variable_of_the_example_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    named = re.findall(r"(?m)^#?(CANDLEFLOW_[A-Z_]+)=", (ROOT / ".env.example").read_text())
    assert named
    for name in [one for one in os.environ if one.startswith("CANDLEFLOW_")]:
        monkeypatch.delenv(name)
    for name in named:
        monkeypatch.setenv(name, "")
    assert unknown_names() == []


@pytest.mark.parametrize("file", ["CONTRIBUTING.md", "SECURITY.md"])
def test_every_path_that_is_named_exists(file: str) -> None:
    text = (ROOT / file).read_text()
    named = re.findall(r"`((?:candleflow|tests|docs|deploy|\.ci)/[\w./-]+)`", text)
    missing = [path for path in named if not (ROOT / path).exists()]
    assert missing == []


def test_every_make_command_that_is_named_exists() -> None:
    named = set(re.findall(r"`?make ([a-z][a-z-]+)", (ROOT / "CONTRIBUTING.md").read_text()))
    targets = set(re.findall(r"(?m)^([a-z][a-z-]+):", (ROOT / "Makefile").read_text()))
    assert named <= targets


@pytest.mark.skipif(not CHECKER.exists(), reason="no .venv-checkers here: deploy/checkers makes it")
@pytest.mark.parametrize(
    ("schema", "file"),
    [
        *(("vendor.github-workflows", f".github/workflows/{name}.yml") for name in ("ci", "docs", "release")),
        ("vendor.dependabot", ".github/dependabot.yml"),
    ],
)
def test_githubs_files_are_valid(schema: str, file: str) -> None:
    command = [str(CHECKER), "--builtin-schema", schema, str(ROOT / file)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
