"""The jars that Kafka and Spark run on: locked by SHA-256, fetched once, verified at each start.

``jars.lock`` names every file of a bundle by its path on Maven Central. A start hashes what the cache holds
(60 MB take about 0.1 s), so a cut or altered jar is noticed and fetched again, and a start with a whole
cache opens no connection.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from candleflow.errors import StackError
from candleflow.stack.jar_lock import Bundle, Jar, locked

if TYPE_CHECKING:
    from rich.console import Console

MAVEN_CENTRAL: Final = "https://repo1.maven.org/maven2"


def ensure_jars(
    bundle: Bundle, cache_dir: Path, *, maven_url: str = MAVEN_CENTRAL, console: Console | None = None
) -> list[Path]:
    """The bundle's files below ``cache_dir/jars``, each with the lock's SHA-256, fetched where need be.

    Raises StackError naming what could not be fetched, from where, and why.
    """
    return fetch(locked(bundle), cache_dir / "jars", maven_url=maven_url, console=console, what=bundle)


def fetch(
    jars: list[Jar], folder: Path, *, maven_url: str, console: Console | None = None, what: str = "the"
) -> list[Path]:
    """As ``ensure_jars``, for any list of jars and any folder."""
    paths = [folder / jar.name for jar in jars]
    missing = [jar for path, jar in zip(paths, jars, strict=True) if not _is_intact(path, jar)]
    if missing:
        # Here, as a start with a whole cache needs no HTTP, whose import alone takes half a second.
        from candleflow.stack.jar_download import download

        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StackError(
                f"{folder} can't be made: {error.strerror}; CANDLEFLOW_CACHE_DIR moves it"
            ) from error
        download(missing, folder, maven_url, console, what)
    return paths


def _is_intact(path: Path, jar: Jar) -> bool:
    try:
        if path.stat().st_size != jar.size_bytes:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == jar.sha256
    except OSError:
        return False
