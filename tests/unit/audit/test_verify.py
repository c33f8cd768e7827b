"""``verify`` without connections: arguments, defaults, pages and the report."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from candleflow import cli
from candleflow import settings as settings_module
from candleflow.audit.klines import Comparison, FieldDifference, Finding, Verdict, bases
from candleflow.audit.verify import add_arguments, asked_for, pages
from candleflow.audit.verify_report import Asked, Verified, print_report
from candleflow.exchange.rest import ExchangeRest
from candleflow.market.window import SECOND_US, WINDOW_SECONDS, Windows
from candleflow.store.reader import CandleReader

NOW = int(datetime(2026, 11, 22, 12, 30, 7, tzinfo=UTC).timestamp()) * SECOND_US
TEN = int(datetime(2026, 11, 22, 10, tzinfo=UTC).timestamp()) * SECOND_US


@pytest.fixture(autouse=True)
def _an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def nothing_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("a connection would have been opened")

    monkeypatch.setattr(CandleReader, "from_settings", refuse)
    monkeypatch.setattr(ExchangeRest, "__init__", refuse)


def status(argv: list[str]) -> int:
    try:
        return cli.main(["verify", *argv])
    except SystemExit as ended:  # by argparse
        return int(ended.code or 0)


@pytest.mark.parametrize(
    ("argv", "named", "accepted"),
    [
        (["--symbol", "BTC/USDT"], "--symbol: 'BTC/USDT'", "a symbol such as BTCUSDT"),
        (["--from", "yesterday"], "--from: 'yesterday'", "a time such as 2026-11-22T10:00"),
        (["--to", "1969-12-31T23:59"], "--to: '1969-12-31T23:59'", "from 1970 on"),
        (["--to", "0001-01-01T00:00+10:00"], "--to: '0001-01-01T00:00+10:00'", "a time such as"),
        (["--from", "2020-01-01T11:00", "--to", "2020-01-01T10:00"],
         "--from 2020-01-01T11:00:00Z --to 2020-01-01T10:00:00Z", "--from before --to"),
        (["--from", "2020-01-01T10:00:01", "--to", "2020-01-01T10:00:09"],
         "--from 2020-01-01T10:00:01Z", "a whole window of 5 s"),
        (["--from", "9999-01-01", "--to", "9999-12-31T23:59"], "--from 9999-01-01T00:00:00Z", "before now"),
        (["--bogus"], "--bogus", "usage:"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("nothing_opens")
def test_a_bad_argument_is_named_with_what_is_accepted(
    argv: list[str], named: str, accepted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(argv) == 2
    said = capsys.readouterr().err
    assert named in said
    assert accepted in said


@pytest.mark.usefixtures("nothing_opens")
def test_without_a_rest_address_there_are_no_klines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CANDLEFLOW_EXCHANGE_WS_URL", "ws://127.0.0.1:9443")
    assert status([]) == 2
    assert capsys.readouterr().err.startswith("CANDLEFLOW_EXCHANGE_REST_URL=''")


def asked(*argv: str) -> Asked:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    settings = settings_module.load(symbols="ETHUSDT,BTCUSDT")
    return asked_for(settings, parser.parse_args(argv), NOW)


def test_the_defaults_are_the_first_symbol_and_the_last_hour() -> None:
    hour = 3_600 * SECOND_US
    assert asked() == Asked("ETHUSDT", NOW - hour, NOW)
    assert asked("--symbol", "btcusdt").symbol == "BTCUSDT"
    assert asked("--to", "2026-11-22T10:00") == Asked("ETHUSDT", TEN - hour, TEN)
    assert asked("--from", "2026-11-22T10:00") == Asked("ETHUSDT", TEN, NOW)


@pytest.mark.parametrize(
    "text", ["2026-11-22T10:00", "2026-11-22T10:00:00Z", "2026-11-22 10:00", "2026-11-22T15:30+05:30"]
)
def test_times_are_utc_unless_they_name_an_offset(text: str) -> None:
    assert asked("--from", text).since == TEN


@pytest.mark.parametrize("size", WINDOW_SECONDS)
def test_each_page_fits_one_request(size: int) -> None:
    for slide in (one for one in WINDOW_SECONDS if size % one == 0):
        for basis in bases(Windows.of_seconds(size, slide)):
            opens = basis.opens(TEN, TEN + 7 * 3_600 * SECOND_US)
            cut = list(pages(opens, basis))
            assert [one for page in cut for one in page] == list(opens)
            klines = [(page[-1] - page[0] + basis.windows.size_us) // basis.kline_us for page in cut]
            assert max(klines) <= 1_000
            one_more = basis.windows.slide_us // basis.kline_us
            assert all(count + one_more > 1_000 for count in klines[:-1])


def printed(verified: Verified, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """Return the words of each non-empty line."""
    print_report(verified)
    return [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]


def test_the_report_has_counts_and_twenty_windows_the_most_serious_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lost = FieldDifference("trade_count", 0, 7)
    wrong = FieldDifference("volume", Decimal("12345678.10000000"), Decimal("12345678.2"))
    findings = (
        Finding("5s", TEN, Verdict.NOT_COMPARABLE, "it has not ended yet"),
        *(Finding("5s", TEN + 5 * n * SECOND_US, Verdict.MISSING, fields=(lost,)) for n in range(30)),
        Finding("5s", TEN + 900 * SECOND_US, Verdict.DIFFERENT, fields=(wrong, lost)),
    )
    counts = {Verdict.EQUAL: 1_200, Verdict.MISSING: 30, Verdict.DIFFERENT: 1, Verdict.NOT_COMPARABLE: 1}
    comparisons = (Comparison("5s", counts, findings), Comparison("1m", {Verdict.EQUAL: 60}))
    lines = printed(Verified(asked(), "http://[::1]:9443", comparisons), capsys)
    assert lines[0][-1] == "http://[::1]:9443"
    assert lines[2:5] == [
        ["5s", "1,200", "1", "30", "0", "0", "1"],
        ["1m", "60", "0", "0", "0", "0", "0"],
        ["1", "not", "comparable:", "it", "has", "not", "ended", "yet"],
    ]
    assert lines[6:11] == [
        ["5s", "2026-11-22T10:15:00Z", "different"],
        ["volume", "12345678.1", "12345678.2"],
        ["trade_count", "0", "7"],
        ["5s", "2026-11-22T10:00:00Z", "missing"],
        ["trade_count", "0", "7"],
    ]
    assert sum(line[0] == "5s" and line[-1] in ("missing", "different") for line in lines) == 20
    assert lines[-2:] == [
        ["and", "11", "more", "windows:", "--json", "prints", "all"],
        ["31", "windows", "differ", "from", "the", "exchange's", "klines,", "1,260", "are", "equal"],
    ]


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({Verdict.EQUAL: 3, Verdict.INCOMPLETE: 1}, "3 windows equal the exchange's klines, none differs"),
        ({Verdict.NOT_COMPARABLE: 3}, "no window could be compared"),
    ],
)
def test_the_report_ends_with_a_conclusion(
    counts: dict[Verdict, int], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    verified = Verified(asked(), "http://127.0.0.1:9443", (Comparison("5s", counts),), is_simulated=True)
    lines = printed(verified, capsys)
    assert (lines[0], lines[-1]) == (["SIMULATED"], said.split())
    assert not verified.differs
