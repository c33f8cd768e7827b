"""Search for unsafe code (bandit), Dockerfiles (hadolint) and workflows (zizmor), secrets (detect-secrets)
and vulnerable packages (pip-audit).

Run it by `make security`. The tools are installed in .venv-checkers. The exit status is 1 if a tool finds
something or can't run. If no vulnerability service can be reached, for example without a network, a line says
so and the check passes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
TOOLS: Final = ROOT / ".venv-checkers" / "bin"

LOCKED: Final = "[-]hash=sha256:"
"""Lines of pip's lock files that contain a hash, which looks like a secret."""

NO_SECRETS: Final = r"canary|^(scram-sha-256|password|given|forgotten|made-up|secret|p%40ss\S*)$"
"""Strings that look like secrets but aren't: made-up ones in tests, an example in a docstring, a method's
name."""

IGNORED: Final[Mapping[str, str]] = {}
"""Vulnerabilities that don't affect us: id and reason."""

SERVICES: Final = (("pypi",), ("osv",))
"""Vulnerability services, as pip-audit names them. The first that works is used."""
VULNERABLE: Final = "requests==2.19.0"
"""A package with well-known vulnerabilities. A service that doesn't report them doesn't work."""
_ANSWER_SECONDS: Final = "10"
_PIN: Final = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*])?==([^\s;\\]+)")


@dataclass(frozen=True)
class Outcome:
    """The report of one search, and whether the check fails."""

    says: str
    is_bad: bool


def run(tool: str, *arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [TOOLS / tool, *arguments]
    return subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, text=True, check=False)


def unsafe_code(paths: Sequence[str | Path]) -> Outcome:
    """Run bandit, whose settings are in pyproject.toml."""
    found = run("bandit", "--quiet", "--configfile", ROOT / "pyproject.toml", "--recursive", *paths)
    if found.returncode == 0:
        return Outcome("bandit: nothing found", is_bad=False)
    # Bandit warns about each line of a statement to which a `nosec` in it doesn't apply.
    problems = [line for line in found.stderr.splitlines() if "nosec encountered" not in line]
    return Outcome("\n".join(["bandit:", found.stdout, *problems]), is_bad=True)


def unsafe_files(tool: str, *arguments: str | Path) -> Outcome:
    """Run a checker that ends with 0 if it finds nothing."""
    found = run(tool, *arguments)
    if found.returncode == 0:
        return Outcome(f"{tool}: nothing found", is_bad=False)
    return Outcome(f"{tool}:\n{found.stdout}{found.stderr}", is_bad=True)


def secrets(paths: Sequence[str | Path]) -> Outcome:
    """Search for strings that look like secrets, without verifying them at a server."""
    options = ("--no-verify", "--exclude-secrets", NO_SECRETS, "--exclude-lines", LOCKED)
    found = run("detect-secrets-hook", *options, *paths)
    if found.returncode == 0:
        return Outcome(f"detect-secrets: nothing found in {len(paths)} files", is_bad=False)
    return Outcome(f"detect-secrets:\n{found.stdout}{found.stderr}", is_bad=True)


def vulnerabilities(locks: Sequence[Path], services: Sequence[Sequence[str]] = SERVICES) -> Outcome:
    """Search for known vulnerabilities of all packages in the lock files, for every system and Python."""
    try:
        lists = _without_duplicates(locks)
    except ValueError as error:
        return Outcome(f"pip-audit can't read the locks: {error}", is_bad=True)
    for service in services:
        if _vulnerable(_audit(service, [VULNERABLE])):
            packages = [_audit(service, packages) for packages in lists]
            return _judged(packages, len(locks))
    asked = " nor ".join(service[0] for service in services)
    return Outcome(f"pip-audit: NOT CHECKED, because neither {asked} could be reached", is_bad=False)


def _without_duplicates(locks: Sequence[Path]) -> list[list[str]]:
    """Split the packages of all lock files into lists without duplicate names, which pip-audit rejects.

    Raises ValueError if a lock file can't be parsed.
    """
    versions: dict[str, dict[str, None]] = {}
    for lock in locks:
        for name, version in _of_uv(lock) if lock.name == "uv.lock" else _of_pip(lock):
            versions.setdefault(name, {})[f"{name}=={version}"] = None
    columns = zip_longest(*versions.values())
    return [[one for one in column if one is not None] for column in columns]


def _of_uv(lock: Path) -> Iterator[tuple[str, str]]:
    for package in tomllib.loads(lock.read_text())["package"]:
        if "registry" in package["source"]:  # all but candleflow itself
            yield package["name"], package["version"]


def _of_pip(lock: Path) -> Iterator[tuple[str, str]]:
    for line in lock.read_text().splitlines():
        if line.strip() and not line.startswith((" ", "#")):
            pin = _PIN.match(line)
            if pin is None:
                raise ValueError(f"{lock.name}: the line {line!r} doesn't pin a version")
            yield pin[1], pin[2]


def _audit(service: Sequence[str], packages: Sequence[str]) -> list[dict[str, Any]]:
    """Return the service's answer for each package; an empty list if it can't be reached."""
    options = ["--disable-pip", "--no-deps", "--progress-spinner", "off", "--format", "json"]
    options += ["--desc", "off", "--timeout", _ANSWER_SECONDS, "--vulnerability-service", *service]
    options += [word for one in IGNORED for word in ("--ignore-vuln", one)]
    done = run("pip-audit", *options, "--requirement", "/dev/stdin", stdin="\n".join(packages))
    try:
        answers: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except ValueError:
        return []
    return answers


def _vulnerable(packages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each vulnerability."""
    return [
        f"  {one['name']} {one['version']}: {bad['id']}, fixed in {' '.join(bad['fix_versions']) or 'none'}"
        for one in packages
        for bad in one.get("vulns", [])
    ]


def _judged(lists: Sequence[Sequence[Mapping[str, Any]]], locks: int) -> Outcome:
    packages = [one for answers in lists for one in answers]
    known = _vulnerable(packages)
    if known:
        return Outcome("\n".join(["pip-audit:", *known]), is_bad=True)
    if not all(lists):
        return Outcome(
            "pip-audit: NOT CHECKED completely, because the service stopped answering", is_bad=False
        )
    unknown = [one["name"] for one in packages if "skip_reason" in one]
    but = f"; the service doesn't know {', '.join(unknown)}" if unknown else ""
    return Outcome(
        f"pip-audit: nothing known against the {len(packages)} packages of {locks} locks{but}", is_bad=False
    )


def tracked(*patterns: str) -> list[Path]:
    """The files that git tracks, of those that are there."""
    command = ["git", "ls-files", "-z", *patterns]  # nosec B607 # whichever git checked this out
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def locks() -> list[Path]:
    """Those of Python packages: pip-audit knows nothing of jars and Java."""
    return tracked("uv.lock", "deploy/uv.txt", "bench/peers/requirements/*.lock")


def main() -> int:
    if not (TOOLS / "bandit").exists():
        print("make security: the tools are missing; run deploy/checkers", file=sys.stderr)
        return 1
    code: list[str | Path] = ["candleflow", "bench", "deploy", *sorted(ROOT.glob("*.py"))]
    with ThreadPoolExecutor() as pool:
        searches = [
            pool.submit(secrets, tracked()),
            pool.submit(unsafe_code, code),
            pool.submit(unsafe_files, "hadolint", *tracked("*Dockerfile")),
            pool.submit(unsafe_files, "zizmor", "--offline", "--quiet", ".github"),
            pool.submit(vulnerabilities, locks()),
        ]
        outcomes = [one.result() for one in searches]
    for outcome in outcomes:
        print(outcome.says)
    return int(any(outcome.is_bad for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
