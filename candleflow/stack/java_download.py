"""Download a Java archive and verify its SHA-256."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx2 as httpx

from candleflow.stack.jar_download import client_for


def fetch(url: str, sha256: str, folder: Path) -> Path:
    """Download the archive into ``folder`` and return its path.

    Raises OSError if the download fails or the SHA-256 differs.
    """
    archive = folder / "archive"
    digest = hashlib.sha256()
    try:
        with (
            client_for(url) as client,
            client.stream("GET", url) as answer,
            archive.open("wb") as file,
        ):
            answer.raise_for_status()
            for chunk in answer.iter_bytes():
                file.write(chunk)
                digest.update(chunk)
    except httpx.HTTPError as error:
        raise OSError(f"{url}: {error or type(error).__name__}") from error
    if digest.hexdigest() != sha256:
        raise OSError(f"the file from {url} has the SHA-256 {digest.hexdigest()}, not {sha256}")
    return archive
