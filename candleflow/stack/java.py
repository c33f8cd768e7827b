"""Find a Java for Spark 4.2 and Kafka 4.4, version 17 or 21, or download the one in ``java.lock``."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Final

from rich.console import Console

from candleflow.errors import StackError

VERSIONS: Final = (17, 21)
"""The versions that Spark 4.2 supports. Kafka 4.4 runs on both."""

TEMURIN_VERSION: Final = "17.0.20.1+1"
"""The version in ``java.lock``. ``BASE`` is the address of its archives."""
BASE: Final = "https://github.com/adoptium/temurin17-binaries/releases/download/jdk-17.0.20.1%2B1"
LOCK: Final = "java.lock"

# Spark 4.2 starts its JVM with --add-modules=jdk.incubator.vector, which a reduced runtime (jlink) may lack.
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
    """Return a JAVA_HOME of version 17 or 21. Downloads one into ``cache_dir/java`` if the machine has none.

    Raises StackError that says what to install if the download fails.
    """
    for home in _candidates(os.environ, cache_dir / "java"):
        if is_suitable(home):
            return home.resolve()
    return _download(cache_dir / "java", console or Console(stderr=True))


def is_suitable(home: Path) -> bool:
    """Return whether Spark can run on the Java in this folder, according to its ``release`` file."""
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


def _candidates(environment: Mapping[str, str], downloaded: Path) -> Iterator[Path]:
    """Yield folders to check: JAVA_HOME, the java on PATH, the usual places, and downloaded ones."""
    if environment.get("JAVA_HOME"):
        yield Path(environment["JAVA_HOME"])
    on_path = shutil.which("java", path=environment.get("PATH"))
    if on_path:
        yield Path(on_path).resolve().parent.parent
    yield from _macos_home()
    for pattern in _COMMON_PLACES:
        yield from sorted(Path("/").glob(pattern.removeprefix("/")))
    yield from sorted(downloaded.glob("*"))
    yield from sorted(downloaded.glob("*/Contents/Home"))


def _macos_home() -> Iterator[Path]:
    """Yield the Java homes that macOS knows.

    There /usr/bin/java is only a stub, and java_home prints the folder.
    """
    if platform.system() != "Darwin":
        return
    for version in VERSIONS:
        asked = ["/usr/libexec/java_home", "-v", str(version)]
        answer = subprocess.run(asked, capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            yield Path(answer.stdout.strip())


def locked(lock: str | None = None) -> dict[str, tuple[str, str]]:
    """Return the archive's SHA-256 and name for each kind of machine, such as ``linux x86_64``."""
    text = resources.files(__package__).joinpath(LOCK).read_text("utf-8") if lock is None else lock
    rows = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return {f"{system} {kind}": (sha256, name) for system, kind, sha256, name in rows}


def machine() -> str:
    """Return this machine's kind as ``java.lock`` names it.

    Systems with musl, such as Alpine, need their own Java.
    """
    is_musl = platform.system() == "Linux" and platform.libc_ver()[0] != "glibc"
    return f"{'musl' if is_musl else platform.system().lower()} {platform.machine()}"


def _download(folder: Path, console: Console) -> Path:
    """Download Eclipse Temurin, verify it, unpack it and move it into place."""
    found = locked().get(machine())
    if found is None:
        raise StackError(_advice())
    console.print(
        f"No Java {' or '.join(map(str, VERSIONS))} here: fetching Temurin {TEMURIN_VERSION}", highlight=False
    )
    from candleflow.stack.java_download import fetch  # imported here, as only a download needs it

    unfinished = folder / f".part-{os.getpid()}"
    try:
        unfinished.mkdir(parents=True)
        place = _unpack(fetch(f"{BASE}/{found[1]}", found[0], unfinished), folder)
    except (OSError, tarfile.TarError) as error:
        raise StackError(f"{_advice()} (downloading it failed: {error})") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    for home in (place, place / "Contents" / "Home"):
        if is_suitable(home):
            return home
    raise StackError(f"{_advice()} (the one downloaded into {place} lacks {NEEDED_MODULE})")


def _unpack(archive: Path, folder: Path) -> Path:
    """Unpack the archive and move its only folder into ``folder``; return the new path."""
    into = archive.parent / "unpacked"
    with tarfile.open(archive) as content:
        # Python before 3.11.4 has no filter. The archive is safe anyway: its SHA-256 was verified.
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        content.extractall(into, **safely)  # type: ignore[arg-type]  # nosec B202 # noqa: S202 - verified above
    (unpacked,) = into.iterdir()
    place = folder / unpacked.name
    if not place.exists():
        unpacked.rename(place)
    return place


def _advice() -> str:
    """Return a line that says how to install Java with this machine's package manager."""
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
