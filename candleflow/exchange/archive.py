"""The exchange's public archive: downloads a day's trades of a symbol, checks and splits the file.

The archive has a zip file for each day and month, with one CSV file (``COLUMNS``), oldest trade first. Next
to it is a file with its SHA-256. A busy day has millions of trades, so a file is never read whole into memory
or unpacked whole to disk.

Source: github.com/binance/binance-public-data.
"""

from __future__ import annotations

import codecs
import hashlib
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http import HTTPStatus
from itertools import count, islice
from pathlib import Path
from typing import IO, Final
from urllib.parse import quote, unquote

import httpx2 as httpx

from candleflow.errors import ExchangeError
from candleflow.exchange import tls
from candleflow.market.kline import Kline
from candleflow.market.trade import TIME_LIMIT_US, to_microseconds
from candleflow.market.window import SECOND_US
from candleflow.proxies import proxy_for

PART_US: Final = 3_600 * SECOND_US
PART_LINES: Final = 250_000
"""Maximum number of lines in a part. A part normally has one hour's trades, which bounds its candles."""
PART_HOURS: Final = 24
"""Maximum number of hours in a part of a file whose hours are mixed."""

_INTEGER: Final = r"[0-9]+"
_DECIMAL: Final = r"[0-9]+(?:\.[0-9]+)?"
_BOOLEAN: Final = r"(?i:true|false)"
COLUMNS: Final[Mapping[str, str]] = {
    "id": _INTEGER, "price": _DECIMAL, "qty": _DECIMAL, "quote_qty": _DECIMAL, "time": _INTEGER,
    "is_buyer_maker": _BOOLEAN, "is_best_match": _BOOLEAN,
}  # fmt: skip
"""The columns of a line of spot trades, each with the regular expression of its values."""

_LINE: Final = re.compile(",".join(COLUMNS.values()) + r"[\r\n]*")
_KLINE: Final = re.compile(
    ",".join(
        f"({column})"
        for column in (
            _INTEGER, *[_DECIMAL] * 5, _INTEGER, _DECIMAL, _INTEGER, _DECIMAL, _DECIMAL,
        )
    )
    + ",.*"
)  # fmt: skip
"""Open time, open, high, low, close, volume, close time, quote volume, trades, taker volumes, one unused."""
_HEADERS: Final = (b"id,", b"open_time,")
_OTHER_SHAPES: Final = {6: "futures trades", 8: "spot aggTrades", 12: "klines"}
_HEAD_LINES: Final = 20
_EXPONENT: Final = re.compile(rb"(?<![^,])([0-9]+(?:\.[0-9]+)?)[eE]([-+]?[0-9]{1,2})(?=,)")
"""A number such as ``1E-8``. Programs that read the archive's decimals as floats write them so."""
_NOT_OF_THE_ARCHIVE: Final = re.compile(r"(?:^|/)(?:__MACOSX/|\._|\.DS_Store$|Thumbs\.db$)")
"""Files that macOS and Windows add to a zip."""

_SIZE_LIMIT_BYTES: Final = 64 << 30
"""Maximum size of an unpacked file. The busiest days so far have a few GB."""
_LINE_LIMIT_BYTES: Final = 4_096
_CHUNK_BYTES: Final = 1 << 18
_TIMEOUT: Final = httpx.Timeout(60, connect=15)
_CHECKSUM: Final = re.compile(r"([0-9a-fA-F]{64})(?:\s+\*?(\S+))?\s*")
_CHECKSUM_LIMIT_BYTES: Final = 4_096
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MONTH_LENGTH: Final = len("2024-08")

Advance = Callable[[int, int | None], None]
"""Called with the number of new bytes, and the file's whole size if it is known."""


def address(base_url: str, symbol: str, day: str, interval: str = "") -> str:
    """Return the archive's URL for the trades, or the interval's klines, of a day or month (``2024-08``).

    The URL of the checksum is the same with ``.CHECKSUM`` appended.
    """
    named = quote(symbol)
    folder = f"klines/{named}/{interval}" if interval else f"trades/{named}"
    period = "monthly" if len(day) == _MONTH_LENGTH else "daily"
    name = f"{named}-{interval or 'trades'}-{day}.zip"
    return f"{base_url.rstrip('/')}/data/spot/{period}/{folder}/{name}"


def fetch(url: str, folder: Path, advance: Advance) -> Path:
    """Download a file into ``folder``, and verify it against the archive's checksum.

    Raises ExchangeError if either can't be fetched or they don't match; ``folder`` then has no new file.
    Raises SettingError if a proxy variable is wrong.
    """
    file = folder / unquote(url.rpartition("/")[2])
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
            f"{url} doesn't match its checksum: SHA-256 {found}, not {expected}; nothing was loaded"
        )
    return file


def check(file: Path) -> bool:
    """Verify a local file against the ``.CHECKSUM`` file next to it; return whether there is one.

    Raises ExchangeError if the checksum doesn't match, or if either file can't be read.
    """
    beside = file.with_name(f"{file.name}.CHECKSUM")
    try:
        if not beside.exists():
            return False
        expected = _checksum(beside.read_text(encoding="utf-8", errors="replace"), file.name)
        with file.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise ExchangeError(f"{file} can't be read: {error.strerror}") from error
    if found != expected:
        raise ExchangeError(
            f"{file} doesn't match {beside.name}: SHA-256 {found}, not {expected}; download it again"
        )
    return True


def fault(line: str) -> str | None:
    """Return why a line isn't a line of spot trades, as the end of a sentence; None if it is one."""
    if _LINE.fullmatch(line):
        return None
    fields = line.rstrip("\r\n").split(",")
    if len(fields) != len(COLUMNS):
        other = _OTHER_SHAPES.get(len(fields))
        return f"has {len(fields)} columns" + (f", as {other} have" if other else "")
    for number, ((name, form), field) in enumerate(zip(COLUMNS.items(), fields, strict=True), start=1):
        if not re.fullmatch(form, field):
            return f"has {field[:40]!r} in column {number} ({name})"
    return None


def check_shape(file: Path, since: int = 0, until: int = TIME_LIMIT_US) -> None:
    """Check that a file's first lines have a spot trade within [since, until), in microseconds.

    So a file of another format or time is refused before it is read whole. Raises ExchangeError, which says
    what is expected and what was found; also raises as ``parts`` does.
    """
    with _read(file) as lines:
        head = list(islice(lines, _HEAD_LINES))
    sound = [line for line in head if fault(line.decode(errors="replace")) is None]
    if not sound:
        first = head[0].decode(errors="replace").rstrip() if head else ""
        found = f"its first line {fault(first)}: {first[:200]!r}" if head else "it is empty"
        raise ExchangeError(f"{file} is not a file of spot trades ({','.join(COLUMNS)}): {found}")
    times = [_time(line) for line in sound]
    if not any(since <= at < until for at in times):
        raise ExchangeError(
            f"{file} begins at {_written(times[0])}, but trades from {_written(since)} to {_written(until)} "
            "were requested; the file of a month needs a name such as BTCUSDT-trades-2024-08.zip"
        )


def trades(file: Path, since: int, until: int) -> Iterator[list[str]]:
    """Yield the COLUMNS of each trade within [since, until), in microseconds, in the file's order.

    Raises ExchangeError if a line isn't a trade; also raises as ``parts`` does.
    """
    with _read(file) as lines:
        for line in lines:
            text = line.decode(errors="replace")
            if not _LINE.fullmatch(text):
                found = f"a line {fault(text)}: {text[:200]!r}"
                raise ExchangeError(f"{file} is not a file of spot trades: {found}")
            trade = text.rstrip().split(",")
            if since <= to_microseconds(int(trade[4])) < until:
                yield trade


def klines(file: Path, symbol: str, interval: str) -> Iterator[Kline]:
    """Yield the klines of an archive file, which has this symbol and interval.

    Raises ExchangeError if a line isn't a kline; also raises as ``parts`` does.
    """
    with _read(file) as lines:
        for line in lines:
            text = line.decode(errors="replace").rstrip()
            found = _KLINE.fullmatch(text)
            if found is None:
                raise ExchangeError(f"{file} is not a file of klines: {text[:200]!r}")
            opens, open_, high, low, close, volume, closes, quote, count_, taker, taker_quote = found.groups()
            yield Kline(
                symbol, interval, to_microseconds(int(opens)), to_microseconds(int(closes)),
                Decimal(open_), Decimal(high), Decimal(low), Decimal(close), Decimal(volume), Decimal(quote),
                int(count_), Decimal(taker), Decimal(taker_quote),
            )  # fmt: skip


def parts(
    file: Path, folder: Path, since: int = 0, until: int = TIME_LIMIT_US, *, passes_over: bool = False
) -> Iterator[Path]:
    """Split an archive file, zipped or unpacked, into text files in ``folder``, and yield one after another.

    Each part is deleted when the next one is requested. A header line is skipped; other lines are not
    checked. With ``passes_over``, lines with a time outside [since, until), in microseconds, are skipped.
    Whatever the order of the lines, there is at most one part per hour, plus one per ``PART_LINES`` lines.

    Raises ExchangeError if the file can't be read, or if a zip doesn't have exactly one file. It also raises
    if the lines are so unordered that a part would have more than ``PART_HOURS`` hours.
    """
    with _read(file) as lines:
        cutter = _Cutter(lines, file, range(since, until), passes_over=passes_over)
        for number in count():
            part = folder / f"part-{number:05}.csv"
            with part.open("wb") as out:
                is_empty = not cutter.write_part(out)
            if not is_empty:
                yield part
            part.unlink()
            if is_empty:
                return


class _Cutter:
    """Splits lines into parts. A part ends before the first trade of a new hour that is the latest so far."""

    def __init__(self, lines: Iterator[bytes], file: Path, times: range, *, passes_over: bool) -> None:
        self._lines = lines
        self._file = file
        self._times = times
        self._passes_over = passes_over
        self._pending: bytes | None = None
        self._newest_hour = -1

    def write_part(self, out: IO[bytes]) -> int:
        """Write the next part, and return its number of lines."""
        written = 0
        hours: set[int] = set()
        while (line := self._next()) is not None:
            at = _time(line)
            is_inside = at in self._times
            if self._passes_over and at >= 0 and not is_inside:
                continue
            hour = at // PART_US
            is_new = is_inside and hour not in hours
            if written == PART_LINES or (is_new and self._starts_another(hour, hours)):
                self._pending = line
                break
            out.write(line)
            written += 1
        return written

    def _next(self) -> bytes | None:
        pending, self._pending = self._pending, None
        return pending or next(self._lines, None)

    def _starts_another(self, hour: int, hours: set[int]) -> bool:
        """Return whether a trade of this hour begins another part; if not, add the hour to this part."""
        if hour > self._newest_hour:
            self._newest_hour = hour
            if hours:
                return True
        hours.add(hour)
        if len(hours) > PART_HOURS:
            raise ExchangeError(
                f"{self._file} has trades of more than {PART_HOURS} hours out of order: sort its lines by "
                "time (column 5), then load it; the trades loaded so far are kept"
            )
        return False


@contextmanager
def _read(file: Path) -> Iterator[Iterator[bytes]]:
    """Open the file and return its lines. Raises ExchangeError if it can't be read."""
    try:
        with _opened(file) as content:
            yield _lines(content, file)
    except (OSError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        # zipfile raises RuntimeError for an encrypted file.
        raise ExchangeError(f"{file} can't be read: {error}") from error


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    if not zipfile.is_zipfile(file):
        with file.open("rb") as plain:
            yield plain
        return
    with zipfile.ZipFile(file) as archive:
        members = [
            one for one in archive.infolist()
            if not (one.is_dir() or _NOT_OF_THE_ARCHIVE.search(one.filename))
        ]  # fmt: skip
        if len(members) != 1:
            raise ExchangeError(f"{file} has {len(members)} files, but an archive of a day has one")
        # zipfile never unpacks more bytes than the zip declares.
        if members[0].file_size > _SIZE_LIMIT_BYTES:
            raise ExchangeError(
                f"{file} would unpack to {members[0].file_size:,} bytes, more than any day's trades have"
            )
        with archive.open(members[0]) as content:
            yield content


def _lines(content: IO[bytes], file: Path) -> Iterator[bytes]:
    for number, line in enumerate(iter(lambda: content.readline(_LINE_LIMIT_BYTES), b"")):
        if len(line) == _LINE_LIMIT_BYTES and not line.endswith(b"\n"):
            raise ExchangeError(
                f"{file} has a line longer than {_LINE_LIMIT_BYTES} bytes: it is not an archive of trades"
            )
        read = line if number else line.removeprefix(codecs.BOM_UTF8)
        if number == 0 and read.lower().startswith(_HEADERS):
            continue
        if read.strip():
            # A regular expression on each line would take eight times as long as the rest of the work.
            may_have_exponent = b"E" in read or b"e-" in read or b"e+" in read
            yield _EXPONENT.sub(_in_plain_digits, read) if may_have_exponent else read


def _in_plain_digits(found: re.Match[bytes]) -> bytes:
    return f"{Decimal(found[0].decode()):f}".encode()


def _time(line: bytes) -> int:
    """Return the time of a line's trade in microseconds since the epoch; -1 if it has none."""
    fields = line.split(b",", 5)
    try:
        return to_microseconds(int(fields[4]))
    except (IndexError, ValueError):
        return -1


def _written(time: int) -> str:
    return f"{_EPOCH + timedelta(microseconds=min(time, TIME_LIMIT_US - 1)):%Y-%m-%d %H:%M} UTC"


def _refuse_plain_text(request: httpx.Request) -> None:
    """Refuse a redirect from https to plain text."""
    if request.url.scheme != "https":
        raise ExchangeError(f"the archive redirects to {request.url}, without TLS: this is not followed")


def _text(client: httpx.Client, url: str) -> str:
    with client.stream("GET", url) as answer:
        _check_status(answer, url)
        content = b""
        for chunk in answer.iter_bytes():
            content += chunk
            if len(content) > _CHECKSUM_LIMIT_BYTES:
                break
    return content.decode("utf-8", "replace")


def _checksum(text: str, name: str) -> str:
    """Return the digest from a checksum file in sha256sum's format, which must be for file ``name``."""
    match = _CHECKSUM.fullmatch(text)
    if match is None or match[2] not in (None, name):
        raise ExchangeError(f"the checksum of {name} can't be read: {text[:200]!r}")
    return match[1].lower()


def _download(client: httpx.Client, url: str, file: Path, advance: Advance) -> str:
    """Download a file, and return its SHA-256."""
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
            f"{url} doesn't exist: the archive publishes a day's trades some hours after the day's end (UTC)"
        )
    answer.raise_for_status()
