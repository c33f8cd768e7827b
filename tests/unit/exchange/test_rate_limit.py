"""The rate limit with a virtual clock: several processes share one budget and one wait."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from candleflow import settings as settings_module
from candleflow.errors import RateLimitError
from candleflow.exchange.addresses import addresses
from candleflow.exchange.rate_limit import Budget, RateLimiter, RestAddress, Share, Wait, weight
from tests.unit.exchange.virtual_clock import Clock

URL = "https://api.binance.com"
BEGIN = 1_000_020.0
"""A whole minute."""
LIMIT = 6_000


class Exchange:
    """Counts weights by the minute as Binance does. Each request during a wait causes a longer ban."""

    def __init__(self, clock: Clock, limit: int = LIMIT) -> None:
        self._clock = clock
        self._limit = limit
        self._used: dict[int, int] = {}
        self._wait_until = 0.0
        self.asked_in_vain = 0
        self.most_used = 0
        self.refused_at: list[float] = []
        self.asked_at: list[float] = []

    async def ask(self, limiter: RateLimiter, cost: int, patience: float = float("inf")) -> bool:
        """Send one request, which takes 50 ms, through the limiter; return whether it was answered."""
        await limiter.turn(cost, patience)
        asked_at = self._clock.now
        await self._clock.sleep(0.05)
        self.asked_at.append(self._clock.now)
        minute = int(self._clock.now // 60)
        self._used[minute] = used = self._used.get(minute, 0) + cost
        self.most_used = max(self.most_used, used)
        limiter.answered(cost, used, asked_at)
        if self._clock.now < self._wait_until:
            self.asked_in_vain += 1
        elif used <= self._limit:
            return True
        self.refused_at.append(self._clock.now)
        self._wait_until = self._clock.now + 200
        limiter.refused(200)
        return False

    async def ask_all(self, limiter: RateLimiter, costs: list[int]) -> None:
        for cost in costs:
            while not await self.ask(limiter, cost):
                assert len(self.refused_at) < 10, "a limiter must not be refused again and again"


async def test_two_hundred_symbols_are_audited_and_a_gap_filled_within_one_budget(tmp_path: Path) -> None:
    clock = Clock(BEGIN + 7)
    exchange = Exchange(clock)
    auditor = clock.limiter(URL, share=Share.AUDITING, folder=tmp_path)
    producer = clock.limiter(URL, share=Share.FILLING, folder=tmp_path)
    rounds = [1, 2, 2] * 200 * 5
    await clock.run(exchange.ask_all(auditor, rounds), exchange.ask_all(producer, [25] * 300))
    assert exchange.refused_at == []
    assert exchange.most_used <= Share.FILLING


async def test_after_a_refusal_no_process_asks_until_the_wait_is_over_and_then_all_go_on(
    tmp_path: Path,
) -> None:
    clock = Clock(BEGIN)
    exchange = Exchange(clock, limit=700)  # as if other programs at this address had used the rest
    auditor = clock.limiter(URL, share=Share.AUDITING, folder=tmp_path)
    producer = clock.limiter(URL, folder=tmp_path)

    async def fill() -> None:
        while not exchange.refused_at:
            await clock.sleep(0.01)
        await exchange.ask_all(producer, [25, 25, 25])

    await clock.run(exchange.ask_all(auditor, [1, 2, 2] * 200), fill())
    first = exchange.refused_at[0]
    assert exchange.asked_in_vain == 0
    assert not [at for at in exchange.asked_at if first < at < first + 200]
    assert len(exchange.asked_at) == 603 + len(exchange.refused_at)


async def test_a_gap_is_filled_while_the_auditor_has_used_its_share(tmp_path: Path) -> None:
    clock = Clock(BEGIN)
    exchange = Exchange(clock)
    auditor = clock.limiter(URL, share=Share.AUDITING, folder=tmp_path)
    await exchange.ask_all(auditor, [25] * 80)
    with pytest.raises(RateLimitError, match=r"api\.binance\.com: rate limit, no request for 56 s"):
        await exchange.ask(auditor, 1, patience=10)
    producer = clock.limiter(URL, folder=tmp_path)
    await exchange.ask_all(producer, [25] * 40)
    assert clock.now < BEGIN + 60, "all within the minute"
    with pytest.raises(RateLimitError):
        await exchange.ask(producer, 25, patience=10)


@given(
    share=st.integers(25, 3_000),
    costs=st.lists(st.lists(st.sampled_from([1, 2, 4, 20, 25]), max_size=60), min_size=1, max_size=4),
    begins_in=st.floats(0, 59),
)
async def test_no_minute_has_more_than_the_share_however_many_ask_in_a_process(
    share: int, costs: list[list[int]], begins_in: float
) -> None:
    clock = Clock(BEGIN + begins_in)
    exchange = Exchange(clock)
    limiter = clock.limiter(URL, share=share)
    await clock.run(*(exchange.ask_all(limiter, some) for some in costs))
    # A request sent at the end of a minute may be counted in the next one.
    assert exchange.most_used <= share + 25 * len(costs)
    assert len(exchange.asked_at) == sum(map(len, costs))


def test_without_the_exchanges_own_figure_we_count_ourselves() -> None:
    budget = Budget(50)
    for _ in range(2):
        assert budget.wait_seconds(25, BEGIN) == 0
        budget.asked(25)
        budget.answered(25, None, BEGIN, BEGIN)
    assert budget.wait_seconds(1, BEGIN + 20) == 40
    assert budget.wait_seconds(1, BEGIN + 60) == 0


def test_what_others_at_this_address_use_counts() -> None:
    budget = Budget(2_000)
    budget.asked(1)
    budget.answered(1, 1_999, BEGIN, BEGIN + 1)
    assert budget.wait_seconds(1, BEGIN + 1) == 0
    assert budget.wait_seconds(2, BEGIN + 1) == 59


def test_a_wait_is_not_longer_for_a_clock_that_was_set_back() -> None:
    wait = Wait(until=1_000.0, seconds=60.0)
    assert (wait.left(970.0), wait.left(1_000.0), wait.left(939.0), wait.left(0.0)) == (30.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    "content", ["", "soon", "{}", "[1]", '["x", 2]', "[null, 1]", "\x00\xff", "[1, 2]", "[1e999, 1e999]"]
)
async def test_a_file_that_says_nothing_is_no_wait(tmp_path: Path, content: str) -> None:
    (tmp_path / "rate-limit-api.binance.com.txt").write_text(content, encoding="latin-1")
    assert await Clock(BEGIN).limiter(URL, folder=tmp_path).turn(1, 0) == 0


async def test_a_folder_that_cannot_be_written_is_said_and_the_wait_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    limiter = Clock(BEGIN).limiter(URL, folder=tmp_path / "file")
    limiter.refused(30)
    assert "can't be written, so other processes don't know" in caplog.text
    with pytest.raises(RateLimitError):
        await limiter.turn(1, 10)


async def test_a_shorter_wait_never_ends_a_longer_one_and_hosts_have_their_own(tmp_path: Path) -> None:
    clock = Clock(BEGIN)
    clock.limiter(URL, folder=tmp_path).refused(300)
    other = clock.limiter(URL, folder=tmp_path)
    other.refused(5)
    with pytest.raises(RateLimitError) as raised:
        await other.turn(1, 10)
    assert raised.value.wait_seconds == 300
    assert await clock.limiter("https://data-api.binance.vision", folder=tmp_path).turn(1, 0) == 0


def test_all_clients_of_an_address_have_one_limiter_and_processes_one_file(tmp_path: Path) -> None:
    settings = settings_module.load(exchange="binance", data_dir=str(tmp_path))
    filling, auditing = (addresses(settings, share).rest for share in Share)
    assert isinstance(filling[0], RestAddress)
    assert filling[0] == auditing[0] == URL
    auditing[0].limiter.refused(100)
    assert [file.name for file in settings.stack.run_dir.iterdir()] == ["rate-limit-api.binance.com.txt"]


@pytest.mark.parametrize(
    ("path", "parameters", "cost"),
    [
        ("/api/v3/time", {}, 1),
        ("/api/v3/exchangeInfo", {}, 20),
        ("/api/v3/historicalTrades", {"symbol": "BTCUSDT", "limit": 1}, 25),
        ("/api/v3/trades", {"symbol": "BTCUSDT"}, 25),
        ("/api/v3/aggTrades", {"symbol": "BTCUSDT"}, 4),
        ("/api/v3/klines", {"symbol": "BTCUSDT"}, 2),
        ("/api/v3/ticker/24hr", {}, 80),
        ("/api/v3/ticker/24hr", {"symbol": "BTCUSDT"}, 2),
        ("/api/v3/ticker/24hr", {"symbols": str(["A"] * 20)}, 2),
        ("/api/v3/ticker/24hr", {"symbols": str(["A"] * 21)}, 40),
        ("/api/v3/ticker/24hr", {"symbols": str(["A"] * 101)}, 80),
    ],
)
def test_weights_are_the_documented_ones(path: str, parameters: dict[str, str | int], cost: int) -> None:
    assert weight(path, parameters) == cost
