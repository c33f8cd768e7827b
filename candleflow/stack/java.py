"""A Java that Spark 4.2 and Kafka 4.4 run on: version 17 or 21, found here or brought with install-jdk."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from rich.console import Console

from candleflow.errors import StackError

VERSIONS: Final = (17, 21)
"""What Spark 4.2 supports; Kafka 4.4 runs on both."""

BROUGHT: Final = 17

# Spark 4.2 starts its JVM with --add-modules=jdk.incubator.vector; a JVM that was cut down lacks it.
NEEDED_MODULE: Final = "jdk.incubator.vector"

_COMMON_PLACES: Final = (
    "/usr/lib/jvm/*",
    "/usr/java/*",
    "/opt/java/*",
    "/opt/jdk*",
    "/Library/Java/JavaVirtualMachines/*/Contents/Home",
    "/opt/homebrew/opt/openjdk@*/libexec/openjdk.jdk/Contents/Home",
    "/usr/local/opt/openjdk@*/libexec/openjdk.jdk/Contents/Home",
)


def find_java(cache_dir: Path, *, console: Console | None = None) -> Path:
    """A JAVA_HOME of version 17 or 21; brings one into ``cache_dir/java`` where the machine has none.

    Raises StackError with one line that says what to install.
    """
    for home in _candidates(os.environ, cache_dir / "java"):
        if is_suitable(home):
            return home.resolve()
    return _bring(cache_dir / "java", console or Console(stderr=True))


def is_suitable(home: Path) -> bool:
    """Whether this is the home of a Java that Spark runs on, as its ``release`` file says."""
    if not os.access(home / "bin" / "java", os.X_OK):
        return False
    try:
        release = (home / "release").read_text("utf-8", errors="replace")
    except OSError:
        return False
    version = re.search(r'^JAVA_VERSION="(\d+)', release, re.MULTILINE)
    modules = re.search(r'^MODULES="([^"]*)"', release, re.MULTILINE)
    return (
        version is not None
        and int(version[1]) in VERSIONS
        and (modules is None or NEEDED_MODULE in modules[1].split())
    )


def _candidates(environment: Mapping[str, str], brought: Path) -> Iterator[Path]:
    """Homes to look at: JAVA_HOME, that of the java on PATH, the usual places, and what was brought."""
    if environment.get("JAVA_HOME"):
        yield Path(environment["JAVA_HOME"])
    on_path = shutil.which("java", path=environment.get("PATH"))
    if on_path:
        yield Path(on_path).resolve().parent.parent
    yield from _macos_home()
    for pattern in _COMMON_PLACES:
        yield from sorted(Path("/").glob(pattern.removeprefix("/")))
    yield from sorted(brought.glob("*"))
    yield from sorted(brought.glob("*/Contents/Home"))


def _macos_home() -> Iterator[Path]:
    """/usr/bin/java is a stub on macOS: java_home knows what stands behind it."""
    if platform.system() != "Darwin":
        return
    for version in VERSIONS:
        asked = ["/usr/libexec/java_home", "-v", str(version)]
        answer = subprocess.run(asked, capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            yield Path(answer.stdout.strip())


def _bring(folder: Path, console: Console) -> Path:
    """Eclipse Temurin by install-jdk: into a folder of its own, moved into place when whole."""
    import jdk  # imported where needed: it looks at the machine when imported

    console.print(
        f"No Java {' or '.join(map(str, VERSIONS))} here: fetching Temurin {BROUGHT}", highlight=False
    )
    beside = folder / f".part-{os.getpid()}"
    try:
        beside.mkdir(parents=True)
        unpacked = Path(jdk.install(str(BROUGHT), path=str(beside)))
        place = folder / unpacked.name
        if not place.exists():
            unpacked.rename(place)
    except (jdk.JdkError, OSError, ValueError) as error:
        raise StackError(f"{_advice()} (fetching one failed: {error})") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    for home in (place, place / "Contents" / "Home"):
        if is_suitable(home):
            return home
    raise StackError(f"{_advice()} (the one fetched into {place} lacks {NEEDED_MODULE})")


def _advice() -> str:
    """One line that says what to install, in this machine's words."""
    if platform.system() == "Darwin":
        how = "brew install openjdk@17"
    elif shutil.which("apt-get"):
        how = "apt-get install openjdk-17-jre-headless"
    elif shutil.which("dnf"):
        how = "dnf install java-17-openjdk-headless"
    elif shutil.which("apk"):
        how = "apk add openjdk17-jre-headless"
    else:
        how = f"Temurin 17 for {platform.system()} {platform.machine()} from https://adoptium.net"
    return f"Java 17 or 21 is needed: {how}, or set JAVA_HOME to one"
