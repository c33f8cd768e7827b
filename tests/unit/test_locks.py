"""uv.lock matches pyproject.toml, and requirements.txt matches uv.lock."""

from __future__ import annotations

import re
import subprocess
import tomllib

from candleflow import __version__
from tests.processes import ROOT

UV = ROOT / ".venv" / "bin" / "uv"
PUBLIC = {"https://pypi.org", "https://files.pythonhosted.org"}


def uv(*arguments: str) -> str:
    return subprocess.run([UV, *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_requirements_txt_is_what_the_lock_has() -> None:
    """Export it again with the command that its first lines name, as ``make lock`` does."""
    written = (ROOT / "requirements.txt").read_text()
    (command,) = re.findall(r"^#    uv (.*) --output-file requirements.txt$", written, re.MULTILINE)
    exported = uv(*command.split())
    assert exported.splitlines()[2:] == written.splitlines()[2:]


def test_the_lock_is_of_this_pyproject() -> None:
    uv("lock", "--check", "--offline", "--default-index", "https://pypi.org/simple")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__


def test_no_address_but_pypis_is_in_the_lock() -> None:
    found = re.findall(r"https?://[^/\"]+", (ROOT / "uv.lock").read_text())
    assert set(found) == PUBLIC
