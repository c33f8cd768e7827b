"""The exchange's public archive: a day's trades of a symbol as a file, checked, and cut into parts.

A day, or a month, is a zip with one file of lines (``COLUMNS``), oldest trade first, and beside it a file
with its SHA-256. A busy day has some million trades, so nothing of it is ever held whole in memory, nor
unpacked whole on disk.

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
"""A part has the trades of an hour, which bounds its candles, and at most so many lines."""
PART_HOURS: Final = 24
"""Where hours interleave, a part has the trades of so many at most."""

_INTEGER: Final = r"[0-9]+"
_DECIMAL: Final = r"[0-9]+(?:\.[0-9]+)?"
_BOOLEAN: Final = r"(?i:true|false)"
COLUMNS: Final[Mapping[str, str]] = {
    "id": _INTEGER, "price": _DECIMAL, "qty": _DECIMAL, "quote_qty": _DECIMAL, "time": _INTEGER,
    "is_buyer_maker": _BOOLEAN, "is_best_match": _BOOLEAN,
}  # fmt: skip
"""What a line of spot trades has, each column's form as a regular expression of Python's."""

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
"""Opens, open, high, low, close, volume, closes, quote volume, trades, taker's volumes, and one unused."""
_HEADERS: Final = (b"id,", b"open_time,")
_OTHER_SHAPES: Final = {6: "futures trades", 8: "spot aggTrades", 12: "klines"}
_LOOKED_AT: Final = 20
_EXPONENT: Final = re.compile(rb"(?<![^,])([0-9]+(?:\.[0-9]+)?)[eE]([-+]?[0-9]{1,2})(?=,)")
"""A number such as ``1E-8``, as a program writes it that takes the archive's decimals for floats."""
_NOT_OF_THE_ARCHIVE: Final = re.compile(r"(?:^|/)(?:__MACOSX/|\._|\.DS_Store$|Thumbs\.db$)")
"""What macOS and Windows put into a zip beside its files."""

_SIZE_LIMIT_BYTES: Final = 64 << 30
"""No day unpacked is longer: the busiest so far have some GB."""
_LINE_LIMIT_BYTES: Final = 4_096
_CHUNK_BYTES: Final = 1 << 18
_TIMEOUT: Final = httpx.Timeout(60, connect=15)
_CHECKSUM: Final = re.compile(r"([0-9a-fA-F]{64})(?:\s+\*?(\S+))?\s*")
_CHECKSUM_LIMIT_BYTES: Final = 4_096
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MONTH_LENGTH: Final = len("2024-08")

Advance = Callable[[int, int | None], None]
"""Told of each so many bytes that have come, and of how many there are in all, where that is known."""


def address(base_url: str, symbol: str, day: str, interval: str = "") -> str:
    """Where the archive has the trades, or the interval's klines, of a day or month (``2024-08``).

    The file's checksum is there with ``.CHECKSUM`` after it.
    """
    named = quote(symbol)
    folder = f"klines/{named}/{interval}" if interval else f"trades/{named}"
    period = "monthly" if len(day) == _MONTH_LENGTH else "daily"
    name = f"{named}-{interval or 'trades'}-{day}.zip"
    return f"{base_url.rstrip('/')}/data/spot/{period}/{folder}/{name}"


def fetch(url: str, folder: Path, advance: Advance) -> Path:
    """Bring a file and check it against the archive's own checksum.

    Raises ExchangeError where either can't be had or they don't fit: then nothing is left in ``folder``.
    Raises SettingError where a proxy variable is wrong.
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
        expected = _checksum(beside.read_text(encoding="utf-8", errors="replace"), file.name)
        with file.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise ExchangeError(f"{file} can't be read: {error.strerror}") from error
    if found != expected:
        raise ExchangeError(f"{file} is not what {beside.name} says: SHA-256 {found}, not {expected}")
    return True


def fault(line: str) -> str | None:
    """What a line has that a line of spot trades hasn't, as the end of a sentence; None for a sound form."""
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
    """Look at a file's first lines: one is to be a spot trade in [since, until), microseconds.

    So a file of another shape or time is refused before it is read whole. Raises ExchangeError, which says
    what is needed and what was found, and as ``parts``.
    """
    with _read(file) as lines:
        head = list(islice(lines, _LOOKED_AT))
    sound = [line for line in head if fault(line.decode(errors="replace")) is None]
    if not sound:
        first = head[0].decode(errors="replace").rstrip() if head else ""
        found = f"its first line {fault(first)}: {first[:200]!r}" if head else "it has no line"
        raise ExchangeError(f"{file} is no file of spot trades ({','.join(COLUMNS)}): {found}")
    times = [_time(line) for line in sound]
    if not any(since <= at < until for at in times):
        raise ExchangeError(
            f"{file} begins at {_written(times[0])}, and trades from {_written(since)} to {_written(until)} "
            "were asked for; a file of a month is known by its name, such as BTCUSDT-trades-2024-08.zip"
        )


def trades(file: Path, since: int, until: int) -> Iterator[list[str]]:
    """The COLUMNS of each trade in [since, until), microseconds, in the file's order.

    Raises ExchangeError where a line isn't a trade, and as ``parts``.
    """
    with _read(file) as lines:
        for line in lines:
            text = line.decode(errors="replace")
            if not _LINE.fullmatch(text):
                found = f"a line {fault(text)}: {text[:200]!r}"
                raise ExchangeError(f"{file} is no file of spot trades: {found}")
            trade = text.rstrip().split(",")
            if since <= to_microseconds(int(trade[4])) < until:
                yield trade


def klines(file: Path, symbol: str, interval: str) -> Iterator[Kline]:
    """The klines of an archive, which is of this symbol and interval.

    Raises ExchangeError where a line isn't a kline, and as ``parts``.
    """
    with _read(file) as lines:
        for line in lines:
            text = line.decode(errors="replace").rstrip()
            found = _KLINE.fullmatch(text)
            if found is None:
                raise ExchangeError(f"{file} is no file of klines: {text[:200]!r}")
            opens, open_, high, low, close, volume, closes, quote, count_, taker, taker_quote = found.groups()
            yield Kline(
                symbol, interval, to_microseconds(int(opens)), to_microseconds(int(closes)),
                Decimal(open_), Decimal(high), Decimal(low), Decimal(close), Decimal(volume), Decimal(quote),
                int(count_), Decimal(taker), Decimal(taker_quote),
            )  # fmt: skip


def parts(
    file: Path, folder: Path, since: int = 0, until: int = TIME_LIMIT_US, *, passes_over: bool = False
) -> Iterator[Path]:
    """The lines of an archive, a zip or already unpacked, as one text file after another in ``folder``.

    Each part is removed when the next is asked for. A header is left out; whether the rest are trades is for
    others to say. With ``passes_over``, lines at a time outside [since, until), microseconds, are left out.
    A file has no more parts than hours in that time, and one for each ``PART_LINES``, in any order of its
    lines. Raises ExchangeError where the file can't be read, isn't an archive of one file, or has lines in
    such disorder that a part would have more than ``PART_HOURS``.
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
    """Cuts lines into parts: one ends before the first trade of an hour later than all before it."""

    def __init__(self, lines: Iterator[bytes], file: Path, times: range, *, passes_over: bool) -> None:
        self._lines = lines
        self._file = file
        self._times = times
        self._passes_over = passes_over
        self._pending: bytes | None = None
        self._newest_hour = -1

    def write_part(self, out: IO[bytes]) -> int:
        """Write the next part; how many lines it has."""
        written = 0
        hours: set[int] = set()
        while (line := self._next()) is not None:
            at = _time(line)
            is_inside = at in self._times
            if self._passes_over and at >= 0 and not is_inside:
                continue
            hour = at // PART_US
            is_new = is_inside and hour not in hours
            if written == PART_LINES or (is_new and self._begins_another(hour, hours)):
                self._pending = line
                break
            out.write(line)
            written += 1
        return written

    def _next(self) -> bytes | None:
        pending, self._pending = self._pending, None
        return pending or next(self._lines, None)

    def _begins_another(self, hour: int, hours: set[int]) -> bool:
        """Whether the hour's trade begins another part; if not, the part has it."""
        if hour > self._newest_hour:
            self._newest_hour = hour
            if hours:
                return True
        hours.add(hour)
        if len(hours) > PART_HOURS:
            raise ExchangeError(
                f"{self._file} has trades of more than {PART_HOURS} hours in disorder: sort its lines by "
                "time (column 5), then load it; what was loaded before stays"
            )
        return False


@contextmanager
def _read(file: Path) -> Iterator[Iterator[bytes]]:
    """The file's lines, while it is open. Raises ExchangeError where it can't be read."""
    try:
        with _opened(file) as content:
            yield _lines(content, file)
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
        members = [
            one for one in archive.infolist()
            if not (one.is_dir() or _NOT_OF_THE_ARCHIVE.search(one.filename))
        ]  # fmt: skip
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
        read = line if number else line.removeprefix(codecs.BOM_UTF8)
        if number == 0 and read.lower().startswith(_HEADERS):
            continue
        if read.strip():
            # An expression on each line would take eight times as long as all else.
            may_have_exponent = b"E" in read or b"e-" in read or b"e+" in read
            yield _EXPONENT.sub(_in_plain_digits, read) if may_have_exponent else read


def _in_plain_digits(found: re.Match[bytes]) -> bytes:
    return f"{Decimal(found[0].decode()):f}".encode()


def _time(line: bytes) -> int:
    """When a line's trade was, microseconds since the epoch; -1 where it has no time."""
    fields = line.split(b",", 5)
    try:
        return to_microseconds(int(fields[4]))
    except (IndexError, ValueError):
        return -1


def _written(time: int) -> str:
    return f"{_EPOCH + timedelta(microseconds=min(time, TIME_LIMIT_US - 1)):%Y-%m-%d %H:%M} UTC"


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
    return content.decode("utf-8", "replace")


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
