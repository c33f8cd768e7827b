"""The exchange's public archive: a day's trades of a symbol as a file, checked, and cut into parts.

A day is a zip with one file of lines (``engine.archive`` has their form), oldest trade first, and beside it a
file with its SHA-256. A busy day has some million trades, so nothing of it is ever held whole in memory, nor
unpacked whole on disk.

Source: github.com/binance/binance-public-data.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from http import HTTPStatus
from pathlib import Path
from typing import IO, Final

import httpx

from candleflow.errors import ExchangeError
from candleflow.exchange import tls
from candleflow.market.trade import to_microseconds
from candleflow.market.window import SECOND_US
from candleflow.proxies import proxy_for

PART_US: Final = 3_600 * SECOND_US
PART_LINES: Final = 250_000
"""A part has the trades of an hour at most, which bounds its candles, and at most so many lines."""

_SIZE_LIMIT_BYTES: Final = 64 << 30
"""No day unpacked is longer: the busiest so far have some GB."""
_LINE_LIMIT_BYTES: Final = 4_096
_CHUNK_BYTES: Final = 1 << 18
_TIMEOUT: Final = httpx.Timeout(60, connect=15)
_CHECKSUM: Final = re.compile(r"([0-9a-fA-F]{64})(?:\s+\*?(\S+))?\s*")
_CHECKSUM_LIMIT_BYTES: Final = 4_096

Advance = Callable[[int, int | None], None]
"""Told of each so many bytes that have come, and of how many there are in all, where that is known."""


def address(base_url: str, symbol: str, day: date) -> str:
    """Where the archive has a day's trades; its checksum is there with ``.CHECKSUM`` after it."""
    return f"{base_url.rstrip('/')}/data/spot/daily/trades/{symbol}/{symbol}-trades-{day.isoformat()}.zip"


def fetch(url: str, folder: Path, advance: Advance) -> Path:
    """Bring a file and check it against the archive's own checksum.

    Raises ExchangeError where either can't be had or they don't fit: then nothing is left in ``folder``.
    Raises SettingError where a proxy variable is wrong.
    """
    file = folder / url.rpartition("/")[2]
    try:
        with httpx.Client(
            timeout=_TIMEOUT,
            follow_redirects=True,
            trust_env=False,
            proxy=proxy_for(url),
            verify=tls.context(),
            event_hooks={"request": [_refuse_plain_text] if url.startswith("https:") else []},
        ) as client:
            expected = _checksum(_text(client, f"{url}.CHECKSUM"), file.name)
            found = _download(client, url, file, advance)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        file.unlink(missing_ok=True)
        words = tls.failure(error) or str(error) or type(error).__name__
        raise ExchangeError(f"{url} can't be fetched: {words}") from error
    except OSError as error:
        file.unlink(missing_ok=True)
        raise ExchangeError(f"{file} can't be written: {error.strerror}") from error
    if found != expected:
        file.unlink()
        raise ExchangeError(
            f"{url} is not what its checksum says: SHA-256 {found}, not {expected}; nothing was loaded"
        )
    return file


def check(file: Path) -> bool:
    """Check a local file against a ``.CHECKSUM`` file beside it; whether there is one.

    Raises ExchangeError where it doesn't fit, or either can't be read.
    """
    beside = file.with_name(f"{file.name}.CHECKSUM")
    try:
        if not beside.exists():
            return False
        expected = _checksum(beside.read_text(encoding="ascii", errors="replace"), file.name)
        with file.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise ExchangeError(f"{file} can't be read: {error.strerror}") from error
    if found != expected:
        raise ExchangeError(f"{file} is not what {beside.name} says: SHA-256 {found}, not {expected}")
    return True


def parts(file: Path, folder: Path) -> Iterator[Path]:
    """The lines of an archive, a zip or already unpacked, as one text file after another in ``folder``.

    Each part is removed when the next is asked for. A header is left out; whether the rest are trades is for
    others to say. Raises ExchangeError where the file can't be read, or isn't an archive of one file.
    """
    try:
        with _opened(file) as content:
            lines = _lines(content, file)
            pending = next(lines, None)
            number = 0
            while pending is not None:
                part = folder / f"part-{number:05}.csv"
                with part.open("wb") as out:
                    pending = _write_part(pending, lines, out)
                yield part
                part.unlink()
                number += 1
    except (OSError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        # RuntimeError is zipfile's word for a file that is encrypted.
        raise ExchangeError(f"{file} can't be read: {error}") from error


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    if not zipfile.is_zipfile(file):
        with file.open("rb") as plain:
            yield plain
        return
    with zipfile.ZipFile(file) as archive:
        members = [one for one in archive.infolist() if not one.is_dir()]
        if len(members) != 1:
            raise ExchangeError(f"{file} has {len(members)} files, an archive of a day has one")
        # What a zip declares is all that is ever unpacked of it.
        if members[0].file_size > _SIZE_LIMIT_BYTES:
            raise ExchangeError(f"{file} would unpack to {members[0].file_size:,} bytes: no day is so long")
        with archive.open(members[0]) as content:
            yield content


def _lines(content: IO[bytes], file: Path) -> Iterator[bytes]:
    for number, line in enumerate(iter(lambda: content.readline(_LINE_LIMIT_BYTES), b"")):
        if len(line) == _LINE_LIMIT_BYTES and not line.endswith(b"\n"):
            raise ExchangeError(f"{file} has a line longer than {_LINE_LIMIT_BYTES} bytes: it is no archive")
        if number == 0 and line[:3].lower() == b"id,":
            continue
        if line.strip():
            yield line


def _write_part(first: bytes, lines: Iterator[bytes], out: IO[bytes]) -> bytes | None:
    """Write a part that begins with ``first``; the line that the next one begins with, if any."""
    hour = _hour(first)
    out.write(first)
    for number, line in enumerate(lines, start=1):
        at = _hour(line)
        if number == PART_LINES or (at is not None and hour is not None and at != hour):
            return line
        hour = hour if at is None else at
        out.write(line)
    return None


def _hour(line: bytes) -> int | None:
    """The hour of a line's trade, None where it has no time."""
    fields = line.split(b",", 5)
    try:
        return to_microseconds(int(fields[4])) // PART_US
    except (IndexError, ValueError):
        return None


def _refuse_plain_text(request: httpx.Request) -> None:
    """For an archive with TLS, whose redirects are followed: one that leads out of it isn't."""
    if request.url.scheme != "https":
        raise ExchangeError(f"the archive leads to {request.url}, in plain text: that is not followed")


def _text(client: httpx.Client, url: str) -> str:
    with client.stream("GET", url) as answer:
        _check_status(answer, url)
        content = b""
        for chunk in answer.iter_bytes():
            content += chunk
            if len(content) > _CHECKSUM_LIMIT_BYTES:
                break
    return content.decode("ascii", "replace")


def _checksum(text: str, name: str) -> str:
    """The digest in a file of one checksum, in sha256sum's format."""
    match = _CHECKSUM.fullmatch(text)
    if match is None or match[2] not in (None, name):
        raise ExchangeError(f"the checksum of {name} can't be read: {text[:200]!r}")
    return match[1].lower()


def _download(client: httpx.Client, url: str, file: Path, advance: Advance) -> str:
    """Fetch a file; its SHA-256."""
    digest = hashlib.sha256()
    with client.stream("GET", url) as answer, file.open("wb") as out:
        _check_status(answer, url)
        length = answer.headers.get("Content-Length", "")
        total = int(length) if length.isascii() and length.isdigit() else None
        for chunk in answer.iter_bytes(_CHUNK_BYTES):
            out.write(chunk)
            digest.update(chunk)
            advance(len(chunk), total)
    return digest.hexdigest()


def _check_status(answer: httpx.Response, url: str) -> None:
    if answer.status_code == HTTPStatus.NOT_FOUND:
        raise ExchangeError(
            f"there is no {url}: the archive has a day's trades some hours after the day is over"
        )
    answer.raise_for_status()
