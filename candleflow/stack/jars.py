"""The jars that Kafka and Spark run on: locked by SHA-256, fetched once, verified at each start.

``jars.lock`` names every file of a bundle by its path on Maven Central. A start hashes what the cache holds
(60 MB take about 0.1 s), so a cut or altered jar is noticed and fetched again, and a start with a whole
cache opens no connection.
"""

from __future__ import annotations

import hashlib
import os
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import certifi
import httpx
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from candleflow.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAVEN_CENTRAL: Final = "https://repo1.maven.org/maven2"
LOCK: Final = "jars.lock"

Bundle = Literal["kafka", "spark"]

_CONNECTIONS: Final = 8
_ATTEMPTS: Final = 4
_TIMEOUT: Final = httpx.Timeout(30, connect=15)
_CHUNK_BYTES: Final = 1 << 16

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Jar:
    """One file of a bundle, as the lock names it."""

    path: str
    """Below the repository's base address: ``org/postgresql/postgresql/42.7.14/postgresql-42.7.14.jar``."""
    sha256: str
    size_bytes: int

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


def locked(bundle: Bundle, lock: str | None = None) -> list[Jar]:
    """The jars of a bundle, in the lock's order, which is the class path's."""
    text = resources.files(__package__).joinpath(LOCK).read_text("utf-8") if lock is None else lock
    rows = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return [Jar(path, sha256, int(size)) for name, size, sha256, path in rows if name == bundle]


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
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        good = list(pool.map(_is_intact, paths, jars))
        missing = [jar for jar, is_good in zip(jars, good, strict=True) if not is_good]
        if missing:
            folder.mkdir(parents=True, exist_ok=True)
            _fetch_all(pool, missing, folder, maven_url, console or Console(stderr=True), what)
    return paths


def _is_intact(path: Path, jar: Jar) -> bool:
    try:
        if path.stat().st_size != jar.size_bytes:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == jar.sha256
    except OSError:
        return False


def _fetch_all(
    pool: ThreadPoolExecutor, jars: list[Jar], folder: Path, maven_url: str, console: Console, what: str
) -> None:
    total_bytes = sum(jar.size_bytes for jar in jars)
    host = httpx.URL(maven_url).host
    title = f"{what} jars from {host}"
    stopping = threading.Event()
    with (
        httpx.Client(verify=tls_context(), timeout=_TIMEOUT, follow_redirects=True) as client,
        _progress(console, title, len(jars), total_bytes) as advance,
    ):
        # The largest first: then none is left to run alone at the end.
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
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _download(client, jar, folder, url, advance, stopping)
        except (httpx.HTTPError, _WrongBytesError) as error:
            if attempt == _ATTEMPTS or stopping.wait(0.5 * 2**attempt) or _is_final(error):
                raise StackError(
                    f"{jar.name} could not be fetched from {url}: {error or type(error).__name__}; "
                    "CANDLEFLOW_MAVEN_URL names another repository"
                ) from error
        except OSError as error:
            raise StackError(
                f"{folder} can't be written to: {error}; CANDLEFLOW_CACHE_DIR moves it"
            ) from error
        else:
            return


def _is_final(error: Exception) -> bool:
    """Whether trying again can't help: the repository answered that it has no such file, or won't give it."""
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code in (401, 403, 404, 410)


def _download(
    client: httpx.Client, jar: Jar, folder: Path, url: str, advance: Advance, stopping: threading.Event
) -> None:
    beside = folder / f".{jar.name}.{os.getpid()}.part"
    digest, size = hashlib.sha256(), 0
    try:
        with client.stream("GET", url) as answer, beside.open("wb") as file:
            answer.raise_for_status()
            for chunk in answer.iter_bytes(_CHUNK_BYTES):
                if stopping.is_set() or size > jar.size_bytes:
                    break
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
                advance(len(chunk))
        _check(jar, digest.hexdigest(), size)
        beside.replace(folder / jar.name)
    except BaseException:
        advance(-size)
        raise
    finally:
        beside.unlink(missing_ok=True)


def _check(jar: Jar, sha256: str, size_bytes: int) -> None:
    if sha256 != jar.sha256:
        raise _WrongBytesError(f"{size_bytes:,} bytes with SHA-256 {sha256}, not {jar.sha256}")


class _WrongBytesError(Exception):
    """What came isn't the locked file."""


def tls_context() -> ssl.SSLContext:
    """Trusts what the machine trusts and what certifi does: either alone is empty on some machines."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


@contextmanager
def _progress(console: Console, title: str, count: int, total_bytes: int) -> Iterator[Advance]:
    """A bar on a terminal; elsewhere a line at the start, at each quarter, and so at the end."""
    if not console.is_terminal:
        console.print(f"Fetching {count} {title}, {total_bytes / 1e6:.1f} MB", highlight=False)
        yield _Quarters(console, title, total_bytes).advance
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(f"{count} {title}", total=total_bytes)
        yield lambda size_bytes: progress.advance(task, size_bytes)


class _Quarters:
    """Prints a line whenever another quarter has come."""

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
