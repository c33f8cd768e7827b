"""Provide the jars that Kafka and Spark need: download them once and verify their SHA-256 at each start.

``jars.lock`` lists the jars. Each start hashes the cached files, which takes about 0.1 s for 60 MB, and
downloads those that are missing, truncated or altered. With a complete cache it opens no connection.
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
    """Return the paths of the bundle's jars in ``cache_dir/jars``; download those that aren't intact.

    Raises StackError that names the jar that could not be downloaded, its address and the reason.
    """
    return fetch(locked(bundle), cache_dir / "jars", maven_url=maven_url, console=console, what=bundle)


def fetch(
    jars: list[Jar], folder: Path, *, maven_url: str, console: Console | None = None, what: str = "the"
) -> list[Path]:
    """Do what ``ensure_jars`` does for any list of jars and any folder."""
    paths = [folder / jar.name for jar in jars]
    missing = [jar for path, jar in zip(paths, jars, strict=True) if not _is_intact(path, jar)]
    if missing:
        # Imported only here: it takes half a second, and a start with a complete cache doesn't need it.
        from candleflow.stack.jar_download import download

        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StackError(
                f"{folder} can't be created: {error.strerror}; set CANDLEFLOW_CACHE_DIR to another folder"
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
