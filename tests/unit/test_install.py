"""``deploy/environment`` installs into its own environment, despite variables of pip and Python."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.processes import ROOT

UV = """#!/bin/sh
case $1 in
--version) exit 0 ;;
export) for wanted; do :; done; echo "thing==1" >"$wanted"; exit 0 ;;
esac
site=$(echo "$(dirname "$4")"/../lib/python*/site-packages)
mkdir "$site/thing-1.dist-info"
printf 'Metadata-Version: 2.1\\nName: thing\\nVersion: 1\\n' >"$site/thing-1.dist-info/METADATA"
"""
"""A small program instead of uv, installed by the real pip; it exports and installs one locked package."""


def wheel_of_uv(folder: Path) -> Path:
    wheel = folder / "uv-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        program = zipfile.ZipInfo("uv-1.data/scripts/uv")
        program.external_attr = 0o100755 << 16
        archive.writestr(program, UV)
        archive.writestr("uv-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: uv\nVersion: 1\n")
        archive.writestr(
            "uv-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("uv-1.dist-info/RECORD", "")
    return wheel


@pytest.mark.slow  # creating an environment takes 5 s
def test_variables_of_pip_and_python_and_a_pip_conf_have_no_effect(tmp_path: Path) -> None:
    tree, elsewhere = tmp_path / "tree", tmp_path / "elsewhere"
    (tree / "deploy").mkdir(parents=True)
    shutil.copy(ROOT / "deploy" / "environment", tree / "deploy")
    wheel = wheel_of_uv(tmp_path)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (tree / "deploy" / "uv.txt").write_text(f"uv==1 --hash=sha256:{digest}\n")
    (tree / "uv.lock").write_text("made up")
    (tmp_path / "pip.conf").write_text(f"[install]\nprefix = {elsewhere}\nuser = true\n")
    variables = {
        "PYTHON": sys.executable,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path),
        "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"),
        "PIP_USER": "1",
        "PIP_TARGET": str(elsewhere),
        "PIP_DRY_RUN": "1",
        "PIP_NO_BINARY": ":all:",
        "PIP_PYTHON": "/nowhere/python",
        "PYTHONHOME": "/nowhere",
        "PYTHONPATH": str(elsewhere),
    }
    command = (tree / "deploy" / "environment", "run")
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tree / ".venv" / "bin" / "uv").exists()
    assert (tree / ".venv" / ".installed.run").read_text() == "made up"
    assert not elsewhere.exists()
