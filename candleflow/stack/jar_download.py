"""Download jars from Maven Central in parallel, with a progress bar, and verify each one's SHA-256."""

from __future__ import annotations

import hashlib
import os
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import certifi
import httpx2 as httpx
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from candleflow.backoff import Backoff
from candleflow.errors import StackError
from candleflow.proxies import proxy_for
from candleflow.stack.jar_lock import Jar

_CONNECTIONS: Final = 8
_ATTEMPTS: Final = 4
_RETRY_DELAYS: Final = partial(Backoff, 1.0, 4.0)
_TIMEOUT: Final = httpx.Timeout(30, connect=15)
_CHUNK_BYTES: Final = 1 << 16

Advance = Callable[[int], None]


def download(jars: list[Jar], folder: Path, maven_url: str, console: Console | None, what: str) -> None:
    """Download ``jars`` into ``folder``. Raises StackError that names the jar, its address and the reason."""
    total_bytes = sum(jar.size_bytes for jar in jars)
    host = httpx.URL(maven_url).host
    title = f"{what} jars from {host}"
    stopping = threading.Event()
    with (
        client_for(maven_url) as client,
        _progress(console or Console(stderr=True), title, len(jars), total_bytes) as advance,
        ThreadPoolExecutor(_CONNECTIONS) as pool,
    ):
        # Largest first, so that no large download runs alone at the end.
        ordered = sorted(jars, key=lambda jar: -jar.size_bytes)
        futures = [
            pool.submit(_fetch_one, client, jar, folder, f"{maven_url}/{jar.path}", advance, stopping)
            for jar in ordered
        ]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stopping.set()
            pool.shutdown(cancel_futures=True)
            raise


def _fetch_one(
    client: httpx.Client, jar: Jar, folder: Path, url: str, advance: Advance, stopping: threading.Event
) -> None:
    backoff = _RETRY_DELAYS()
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _download(client, jar, folder, url, advance, stopping)
        except (httpx.HTTPError, _WrongBytesError) as error:
            if attempt == _ATTEMPTS or _is_final(error) or stopping.wait(backoff.next_delay()):
                raise StackError(
                    f"{jar.name} could not be fetched from {url}: {error or type(error).__name__}; "
                    "set CANDLEFLOW_MAVEN_URL to use another repository"
                ) from error
        except OSError as error:
            raise StackError(
                f"{folder} can't be written to: {error}; set CANDLEFLOW_CACHE_DIR to another folder"
            ) from error
        else:
            return


def _is_final(error: Exception) -> bool:
    """Return whether a retry can't help: the repository lacks the file or refuses access."""
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code in (401, 403, 404, 410)


def _download(
    client: httpx.Client, jar: Jar, folder: Path, url: str, advance: Advance, stopping: threading.Event
) -> None:
    unfinished = folder / f".{jar.name}.{os.getpid()}.part"
    digest, size = hashlib.sha256(), 0
    try:
        with client.stream("GET", url) as answer, unfinished.open("wb") as file:
            answer.raise_for_status()
            for chunk in answer.iter_bytes(_CHUNK_BYTES):
                if stopping.is_set() or size > jar.size_bytes:
                    break
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
                advance(len(chunk))
        _check(jar, digest.hexdigest(), size)
        unfinished.replace(folder / jar.name)
    except BaseException:
        advance(-size)
        raise
    finally:
        unfinished.unlink(missing_ok=True)


def _check(jar: Jar, sha256: str, size_bytes: int) -> None:
    if sha256 != jar.sha256:
        raise _WrongBytesError(f"{size_bytes:,} bytes with SHA-256 {sha256}, not {jar.sha256}")


class _WrongBytesError(Exception):
    """The downloaded bytes don't have the locked SHA-256."""


def client_for(url: str) -> httpx.Client:
    """Return an HTTP client for ``url`` that uses the proxy from the environment."""
    return httpx.Client(
        verify=_tls_context(),
        timeout=_TIMEOUT,
        follow_redirects=True,
        trust_env=False,
        proxy=proxy_for(url),
    )


def _tls_context() -> ssl.SSLContext:
    """Trust the system's certificates and certifi's, as on some machines one of the two is empty."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


@contextmanager
def _progress(console: Console, title: str, count: int, total_bytes: int) -> Iterator[Advance]:
    """Show a progress bar on a terminal; otherwise print a line at the start and at each 25 %."""
    if not console.is_terminal:
        console.print(f"Fetching {count} {title}, {total_bytes / 1e6:.1f} MB", highlight=False)
        yield _Quarters(console, title, total_bytes).advance
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(f"{count} {title}", total=total_bytes)
        yield lambda size_bytes: progress.advance(task, size_bytes)


class _Quarters:
    """Prints a line for each 25 % of the bytes."""

    def __init__(self, console: Console, title: str, total_bytes: int) -> None:
        self._console = console
        self._title = title
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self._quarters = 0
        self._lock = threading.Lock()

    def advance(self, size_bytes: int) -> None:
        with self._lock:
            self._done_bytes += size_bytes
            quarters = 4 * self._done_bytes // self._total_bytes
            if quarters > self._quarters:
                self._quarters = quarters
                self._console.print(f"  {self._title}: {25 * quarters} %", highlight=False)
