"""Downloading, checking and splitting the archive's files, whatever they contain."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from candleflow.errors import ExchangeError
from candleflow.exchange import archive

HOUR_MS = 3_600_000
T0_MS = 1_723_075_200_000
"""2024-08-08."""
NAME = "BTCUSDT-trades-2024-08-08.zip"


def line(trade_id: int, time: int) -> bytes:
    return b"%d,61837.63000000,0.02000000,1236.75260000,%d,True,True\n" % (trade_id, time)


def zipped(file: Path, *contents: bytes) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
        for number, content in enumerate(contents):
            out.writestr(f"{number}.csv", content)
    return file


def found_parts(file: Path, folder: Path) -> list[bytes]:
    found = []
    for part in archive.parts(file, folder):
        found.append(part.read_bytes())
        assert len(list(folder.glob("part-*"))) == 1, "one part at a time is on the disk"
    assert list(folder.glob("part-*")) == []
    return found


@pytest.mark.parametrize("unit", [1, 1_000], ids=["milliseconds", "microseconds"])
@pytest.mark.parametrize("is_zipped", [True, False])
def test_a_part_is_an_hour_at_most(tmp_path: Path, unit: int, *, is_zipped: bool) -> None:
    lines = [line(number, (T0_MS + number * HOUR_MS // 4) * unit) for number in range(10)]
    file = tmp_path / "a.zip"
    if is_zipped:
        zipped(file, b"".join(lines))
    else:
        file.write_bytes(b"".join(lines))
    (tmp_path / "work").mkdir()
    assert found_parts(file, tmp_path / "work") == [
        b"".join(lines[:4]), b"".join(lines[4:8]), b"".join(lines[8:])
    ]  # fmt: skip


def test_a_part_has_a_bounded_number_of_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "PART_LINES", 3)
    lines = [line(number, T0_MS) for number in range(7)]
    (tmp_path / "a.csv").write_bytes(b"".join(lines))
    assert [one.count(b"\n") for one in found_parts(tmp_path / "a.csv", tmp_path)] == [3, 3, 1]


def test_hours_that_interleave_make_no_more_parts_than_there_are_hours(tmp_path: Path) -> None:
    lines = [line(n, T0_MS + (n * 7 % 24) * HOUR_MS + n) for n in range(2_400)]
    (tmp_path / "a.csv").write_bytes(b"".join(lines))
    (tmp_path / "work").mkdir()
    found = found_parts(tmp_path / "a.csv", tmp_path / "work")
    assert len(found) <= 24
    assert b"".join(found) == b"".join(lines)


def test_an_unordered_month_is_refused_in_one_sentence(tmp_path: Path) -> None:
    lines = [line(n, T0_MS + (n * 7 % 744) * HOUR_MS) for n in range(7_440)]
    (tmp_path / "a.csv").write_bytes(b"".join(lines))
    with pytest.raises(ExchangeError, match=r"more than 24 hours out of order: sort its lines by time"):
        list(archive.parts(tmp_path / "a.csv", tmp_path))


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("1E-8", "0.00000001"), ("1e-08", "0.00000001"), ("2.5E-5", "0.000025"), ("1.0E7", "10000000"),
        ("6E+1", "60"), ("0.5", "0.5"), ("1E999", "1E999"), ("E-8", "E-8"), ("-1E-8", "-1E-8"),
    ],
)  # fmt: skip
def test_an_exponent_becomes_plain_digits(tmp_path: Path, written: str, plain: str) -> None:
    (tmp_path / "a.csv").write_text(f"1,2,{written},0.0,{T0_MS},True,True\n")
    assert found_parts(tmp_path / "a.csv", tmp_path) == [f"1,2,{plain},0.0,{T0_MS},True,True\n".encode()]


def test_only_the_lines_of_the_time_asked_for_are_left_of_a_month(tmp_path: Path) -> None:
    lines = [line(n, T0_MS + n * 24 * HOUR_MS) for n in range(-3, 4)]
    (tmp_path / "a.csv").write_bytes(b"".join([*lines, b"nonsense\n"]))
    since = T0_MS * 1_000
    found = archive.parts(tmp_path / "a.csv", tmp_path, since, since + 1, passes_over=True)
    assert [part.read_bytes() for part in found] == [lines[3] + b"nonsense\n"]


TRADE = f"1,61837.63,0.02,1236.7526,{T0_MS},True,True"
SHAPES = {
    "trades": (TRADE, None),
    "with a mark before it": ("\ufeff" + TRADE, None),
    "with a header": ("id,price,qty,quote_qty,time,is_buyer_maker,is_best_match\n" + TRADE, None),
    "in capitals": (TRADE.upper(), None),
    "nonsense first": ("hello\n" + TRADE, None),
    "spot aggTrades": (f"1,1.0,1.0,5,6,{T0_MS},True,True", "has 8 columns, as spot aggTrades have"),
    "futures trades": (
        f"id,price,qty,quote_qty,time,is_buyer_maker\n1,1.0,1.0,1.0,{T0_MS},true",
        "has 6 columns, as futures trades have",
    ),
    "futures aggTrades": (
        "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker\n1,1,1,5,6,7,true",
        r"has 'agg_trade_id' in column 1 \(id\)",
    ),
    "klines": (f"{T0_MS},1,1,1,1,1,{T0_MS},1,1,1,1,0", "has 12 columns, as klines have"),
    "quoted": ('"' + TRADE.replace(",", '","') + '"', r"""has '"1"' in column 1 \(id\)"""),
    "by semicolons": (TRADE.replace(",", ";"), "has 1 columns"),
    "a negative quantity": (TRADE.replace("0.02", "-0.02"), r"has '-0.02' in column 3 \(qty\)"),
    "a time of words": (TRADE.replace(str(T0_MS), "2024-08-08"), r"'2024-08-08' in column 5 \(time\)"),
    "JSON": ('{"e":"trade"}', "has 1 columns"),
    "nothing": ("", "it is empty"),
    "another day": (TRADE.replace(str(T0_MS), str(T0_MS + 25 * HOUR_MS)), "begins at 2024-08-09 01:00 UTC"),
    "no day at all": (TRADE.replace(str(T0_MS), "9" * 30), "begins at "),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_file_says_what_it_is_instead_of_trades(tmp_path: Path, shape: str) -> None:
    content, says = SHAPES[shape]
    file = tmp_path / "given.csv"
    file.write_text(content, encoding="utf-8")
    since = T0_MS * 1_000
    if says is None:
        archive.check_shape(file, since, since + 24 * archive.PART_US)
        return
    with pytest.raises(ExchangeError, match=says) as raised:
        archive.check_shape(file, since, since + 24 * archive.PART_US)
    assert "given.csv" in str(raised.value)


def test_a_zip_made_on_a_desktop_has_the_one_file(tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("a/a.csv", line(1, T0_MS))
        for name in ("__MACOSX/a/._a.csv", "a/.DS_Store", ".DS_Store", "a/._a.csv", "Thumbs.db"):
            out.writestr(name, b"\x00")
    assert found_parts(file, tmp_path) == [line(1, T0_MS)]


def test_a_header_and_empty_lines_are_left_out_and_nonsense_is_not(tmp_path: Path) -> None:
    content = b"id,price,qty,quote_qty,time,is_buyer_maker,is_best_match\r\n" + line(1, T0_MS) + b"\nhi\n"
    (tmp_path / "a.csv").write_bytes(content)
    assert found_parts(tmp_path / "a.csv", tmp_path) == [line(1, T0_MS) + b"hi\n"]
    (tmp_path / "empty.csv").write_bytes(b"")
    assert found_parts(tmp_path / "empty.csv", tmp_path) == []


def test_a_file_that_is_not_an_archive_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = zipped(tmp_path / "two.zip", line(1, T0_MS), line(2, T0_MS))
    with pytest.raises(ExchangeError, match="has 2 files"):
        found_parts(two, tmp_path)
    long = tmp_path / "long.csv"
    long.write_bytes(b"1" * 10_000)
    with pytest.raises(ExchangeError, match="longer than 4096 bytes"):
        found_parts(long, tmp_path)
    with pytest.raises(ExchangeError, match="can't be read"):
        found_parts(tmp_path / "absent.csv", tmp_path)
    whole = zipped(tmp_path / "whole.zip", b"".join(line(number, T0_MS) for number in range(20_000)))
    content = bytearray(whole.read_bytes())
    content[len(content) // 2] ^= 1
    whole.write_bytes(content)
    with pytest.raises(ExchangeError, match="can't be read"):
        found_parts(whole, tmp_path)
    monkeypatch.setattr(archive, "_SIZE_LIMIT_BYTES", 1_000_000)
    bomb = zipped(tmp_path / "bomb.zip", b"1,\n" * 1_000_000)
    assert bomb.stat().st_size < 10_000
    with pytest.raises(ExchangeError, match="would unpack to 3,000,000 bytes"):
        found_parts(bomb, tmp_path)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which it is served."""
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def checksum(file: Path, digest: str = "") -> None:
    digest = digest or hashlib.sha256(file.read_bytes()).hexdigest()
    file.with_name(f"{file.name}.CHECKSUM").write_text(f"{digest}  {file.name}\n", encoding="utf-8")


def test_a_file_is_downloaded_and_its_progress_reported(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = served
    file = zipped(folder / NAME, line(1, T0_MS) * 50_000)
    checksum(file)
    progress: list[tuple[int, int | None]] = []
    found = archive.fetch(f"{url}/{NAME}", tmp_path, lambda size, total: progress.append((size, total)))
    assert found.read_bytes() == file.read_bytes()
    assert sum(size for size, _ in progress) == file.stat().st_size
    assert {total for _, total in progress} == {file.stat().st_size}


@pytest.mark.parametrize(
    ("digest", "says"),
    [("0" * 64, "doesn't match its checksum"), ("nonsense", "can't be read"), (None, "doesn't exist")],
)
def test_without_its_checksum_nothing_is_kept(
    served: tuple[Path, str], tmp_path: Path, digest: str | None, says: str
) -> None:
    folder, url = served
    file = zipped(folder / NAME, line(1, T0_MS))
    if digest is not None:
        checksum(file, digest)
    with pytest.raises(ExchangeError, match=says):
        archive.fetch(f"{url}/{NAME}", tmp_path, lambda *_: None)
    assert not (tmp_path / NAME).exists()


def test_a_checksum_of_another_file_is_refused(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = served
    file = zipped(folder / NAME, line(1, T0_MS))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    file.with_name(f"{NAME}.CHECKSUM").write_text(f"{digest}  ETHUSDT-trades-2024-08-08.zip\n")
    with pytest.raises(ExchangeError, match="can't be read"):
        archive.fetch(f"{url}/{NAME}", tmp_path, lambda *_: None)


def test_a_local_file_is_checked_where_its_checksum_lies_beside_it(tmp_path: Path) -> None:
    file = zipped(tmp_path / NAME, line(1, T0_MS))
    assert archive.check(file) is False
    checksum(file)
    assert archive.check(file) is True
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(ExchangeError, match="doesn't match"):
        archive.check(file)


def test_where_the_archive_has_a_day() -> None:
    assert archive.address("https://data.binance.vision/", "BTCUSDT", "2024-08-08") == (
        "https://data.binance.vision/data/spot/daily/trades/BTCUSDT/BTCUSDT-trades-2024-08-08.zip"
    )
    assert archive.address("https://data.binance.vision", "BTCUSDT", "2024-08") == (
        "https://data.binance.vision/data/spot/monthly/trades/BTCUSDT/BTCUSDT-trades-2024-08.zip"
    )


def test_a_symbol_beyond_ascii_is_fetched_and_checked(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = served
    where = archive.address(url, "币安人生USDT", "2026-01-01")
    assert where.isascii()
    file = folder / "data/spot/daily/trades/币安人生USDT/币安人生USDT-trades-2026-01-01.zip"
    file.parent.mkdir(parents=True)
    zipped(file, line(1, T0_MS))
    checksum(file)
    assert archive.fetch(where, tmp_path, lambda *_: None).name == file.name


KLINE = f"{T0_MS},2.5,3,1.5,2,10,{T0_MS + 999},20,4,6,12,0\n"


def test_klines_are_read_exactly_in_either_unit_and_a_header_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("open_time,open,high\n" + KLINE)
    (found,) = archive.klines(tmp_path / "a.csv", "BTCUSDT", "1s")
    assert (found.open_time, found.open, found.low, found.close) == (
        T0_MS * 1_000, Decimal("2.5"), Decimal("1.5"), Decimal(2)
    )  # fmt: skip
    assert (found.volume, found.quote_volume, found.trade_count) == (Decimal(10), Decimal(20), 4)
    assert (found.taker_buy_volume, found.taker_buy_quote_volume) == (Decimal(6), Decimal(12))
    micros = KLINE.replace(str(T0_MS), f"{T0_MS}000").replace(str(T0_MS + 999), f"{T0_MS + 999}999")
    (tmp_path / "b.csv").write_text(micros)
    (other,) = archive.klines(tmp_path / "b.csv", "BTCUSDT", "1s")
    assert other.open_time == found.open_time


def test_a_line_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(KLINE + f"{TRADE}\n")
    with pytest.raises(ExchangeError, match=r"is not a file of klines: '1,61837"):
        list(archive.klines(tmp_path / "a.csv", "BTCUSDT", "1s"))
    with pytest.raises(ExchangeError, match=r"a line has 12 columns, as klines have"):
        list(archive.trades(tmp_path / "a.csv", 0, 2**62))


def test_only_trades_of_the_stretch_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"".join(line(number, T0_MS + number) for number in range(5)))
    found = archive.trades(tmp_path / "a.csv", (T0_MS + 1) * 1_000, (T0_MS + 3) * 1_000)
    assert [trade[0] for trade in found] == ["1", "2"]


def test_addresses_are_the_archives() -> None:
    base = "https://a/data/spot"
    assert archive.address("https://a/", "BTCUSDT", "2024-08-08", "1s") == (
        f"{base}/daily/klines/BTCUSDT/1s/BTCUSDT-1s-2024-08-08.zip"
    )
    assert archive.address("https://a", "BTCUSDT", "2024-08") == (
        f"{base}/monthly/trades/BTCUSDT/BTCUSDT-trades-2024-08.zip"
    )
