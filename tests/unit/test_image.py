"""The Dockerfile, without Docker: that what it copies is there and is all that its steps need."""

from __future__ import annotations

import ast
import fnmatch
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pyspark
import pytest

from candleflow.settings import METRICS_PORTS, load
from deploy import slim_image

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
HADOLINT = ROOT / ".venv-checkers" / "bin" / "hadolint"
STEPS = [
    re.sub(r"\\\n\s*", "", step).strip()
    for step in re.split(r"\n(?=[A-Z]+ )", re.sub(r"(?m)^#.*\n", "", DOCKERFILE))
]
STARTS = [place for place, step in enumerate(STEPS) if step.startswith("FROM")]
PINNED, JAVA, BUILD, FINAL = (
    [step.split(" ", 1) for step in STEPS[start:end]]
    for start, end in zip(STARTS, [*STARTS[1:], None], strict=True)
)


def copied(stage: list[list[str]]) -> list[str]:
    """What a stage takes of this folder."""
    found = []
    for name, words in stage:
        if name == "COPY" and "--from" not in words:
            found += shlex.split(words)[:-1]
    return found


def is_sent(path: str) -> bool:
    """Whether .dockerignore lets a path go to the builder: of its lines, the last that fits decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        parts = Path(path).parts
        if any(fnmatch.fnmatch("/".join(parts[:end]), pattern) for end in range(1, len(parts) + 1)):
            sent = line.startswith("!")
    return sent


def healthcheck() -> ModuleType:
    spec = importlib.util.spec_from_file_location("healthcheck", ROOT / "deploy" / "healthcheck.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_base_is_pinned_where_dependabot_updates_it_and_can_be_replaced() -> None:
    assert STEPS[0] == "ARG PYTHON_IMAGE=pinned"
    ((_, pinned),) = PINNED
    assert re.fullmatch(r"python:3\.11-slim-bookworm@sha256:[0-9a-f]{64} AS pinned", pinned)
    assert {stage[0][1].split()[0] for stage in (JAVA, BUILD, FINAL)} == {"${PYTHON_IMAGE}"}


@pytest.mark.parametrize("path", [*copied(BUILD), *copied(FINAL)])
def test_what_is_copied_is_there_and_is_sent_to_the_builder(path: str) -> None:
    assert (ROOT / path).exists()
    assert is_sent(path)


@pytest.mark.parametrize(
    "path", [".env", ".data/run/credentials.json", ".git/config", ".venv/bin/python", "tests"]
)
def test_no_secret_and_no_data_is_sent_to_the_builder(path: str) -> None:
    assert not is_sent(path)


def test_it_runs_as_nobody_special_and_is_asked_for_its_health() -> None:
    user, health = (dict(FINAL)[name] for name in ("USER", "HEALTHCHECK"))
    assert user == "10001:10001"
    assert health.endswith('CMD ["python", "deploy/healthcheck.py"]')
    assert [name for name, _ in FINAL].index("USER") > max(
        place for place, (name, _) in enumerate(FINAL) if name in ("RUN", "COPY")
    )


def test_packages_are_installed_by_their_hashes_only() -> None:
    (install,) = (words for name, words in BUILD if name == "RUN" and "requirements.txt" in words)
    assert install.count("install ") == install.count("--require-hashes") == 2


@pytest.mark.parametrize(
    ("folder", "unused"),
    [("", slim_image.PACKAGES), ("pyspark/jars", slim_image.JARS)],
    ids=["packages", "jars"],
)
def test_what_the_image_leaves_out_is_in_the_installed_packages(
    folder: str, unused: Mapping[str, str]
) -> None:
    found = Path(pyspark.__file__).parents[1] / folder
    assert [one for ones in unused.values() for one in ones.split() if not any(found.glob(one))] == []


def test_a_pattern_that_matches_nothing_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "old-1.0.jar").touch()
    with pytest.raises(FileNotFoundError, match=r"new-\* is no longer there \(not needed\)"):
        slim_image.remove(tmp_path, {"not needed": "old-* new-*"})
    assert list(tmp_path.iterdir()) == []


def test_every_script_of_the_top_folder_is_in_the_image() -> None:
    assert {path.name for path in ROOT.glob("*.py")} <= set(copied(FINAL))


def test_what_is_copied_to_fetch_the_jars_is_enough(tmp_path: Path) -> None:
    (fetch,) = (words for name, words in BUILD if name == "RUN" and "ensure_jars" in words)
    for path in copied(BUILD):
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, target)
    program = shlex.split(fetch)[2]
    imports = [
        ast.unparse(one) for one in ast.parse(program).body if isinstance(one, ast.Import | ast.ImportFrom)
    ]
    imports.append(
        "import candleflow.stack.jar_download, candleflow.stack.jars as jars; jars.locked('spark')[0]"
    )
    subprocess.run([sys.executable, "-c", "\n".join(imports)], cwd=tmp_path, check=True, timeout=60)


def test_the_health_check_knows_the_ports() -> None:
    assert sorted(METRICS_PORTS.values()) == list(range(healthcheck().PROCESSES))
    for shard in ("1/1", "1/4", "2/4", "4/4"):
        mine = load(shard=shard, metrics_port=9_464).metrics_port_of("producer")
        assert mine in healthcheck().ports(9_464, shard)


@pytest.mark.parametrize(
    ("answers", "is_well"),
    [([None, None], False), ([None, 200], True), ([200, 503], False), ([504, None], False), ([], False)],
)
def test_a_container_is_well_when_somebody_answers_and_all_who_do_are(
    answers: list[int | None], is_well: bool
) -> None:
    assert healthcheck().is_healthy(answers) is is_well


@pytest.mark.skipif(not os.access(HADOLINT, os.X_OK), reason="no hadolint here: deploy/checkers installs it")
@pytest.mark.parametrize("path", ["Dockerfile", "deploy/aws/Dockerfile"])
def test_hadolint_finds_nothing_to_say(path: str) -> None:
    linted = subprocess.run([HADOLINT, ROOT / path], capture_output=True, text=True, check=False, timeout=60)
    assert (linted.returncode, linted.stdout) == (0, "")
