"""The simulator over real sockets, with websockets and httpx as clients, and its commands as processes."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx2 as httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from candleflow.errors import ExchangeError
from candleflow.exchange.messages import (
    ControlReply,
    Message,
    ServerShutdown,
    TradeMessage,
    decode,
)
from candleflow.market.trade_ids import TradeIds
from candleflow.simulator.audience import Faults
from candleflow.simulator.market import SeededMarket
from candleflow.simulator.process import continued_market
from candleflow.simulator.recording import Recording
from candleflow.simulator.server import SERVER_HEADER, Simulator, Timing
from tests import oracle

ROOT: Final = Path(__file__).resolve().parents[2]
SYMBOLS: Final = frozenset({"BTCUSDT", "ETHUSDT"})
SECONDS: Final = 20.0
BOTH: Final = "/stream?streams=btcusdt@trade/ethusdt@trade"


def market(rate: float = 400) -> SeededMarket:
    return SeededMarket(1, rate, sorted(SYMBOLS))


def read(frame: str | bytes) -> Message:
    return decode(
        frame if isinstance(frame, bytes) else frame.encode(), SYMBOLS, time.time_ns() // 1_000, 1_000_000
    )


async def messages(connection: ClientConnection, count: int) -> list[Message]:
    async with asyncio.timeout(SECONDS):
        return [read(await connection.recv()) for _ in range(count)]


async def trades(connection: ClientConnection, count: int) -> list[TradeMessage]:
    found = [message for message in await messages(connection, count) if isinstance(message, TradeMessage)]
    assert len(found) == count
    return found


async def ask(connection: ClientConnection, **request: Any) -> ControlReply:
    """Send a request and return its reply, skipping trades that arrive before it."""
    await connection.send(json.dumps(request))
    async with asyncio.timeout(SECONDS):
        while True:
            message = read(await connection.recv())
            if isinstance(message, ControlReply):
                return message


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


async def until_closed(connection: ClientConnection) -> tuple[list[Message], int | None]:
    """Return the messages until the connection is closed, and the close code."""
    found: list[Message] = []
    try:
        async with asyncio.timeout(SECONDS):
            while True:
                found.append(read(await connection.recv()))
    except ConnectionClosed as closed:
        return found, closed.rcvd.code if closed.rcvd else None


@asynccontextmanager
async def connected(simulator: Simulator, path: str, **options: Any) -> AsyncIterator[ClientConnection]:
    async with connect(simulator.ws_url + path, close_timeout=1, max_queue=None, **options) as connection:
        yield connection


async def history(simulator: Simulator, symbol: str, from_id: int, limit: int) -> list[Any]:
    """Return rows of historicalTrades."""
    query: dict[str, str | int] = {"symbol": symbol, "fromId": from_id, "limit": limit}
    async with httpx.AsyncClient(base_url=simulator.rest_url, trust_env=False) as rest:
        rows: list[Any] = (await rest.get("/api/v3/historicalTrades", params=query)).json()
    return rows


class TestWebSocket:
    async def test_raw_trades_come_without_a_wrapper_in_the_canonical_layout(self) -> None:
        async with Simulator(market()) as simulator, connected(simulator, "/ws/btcusdt@trade") as client:
            async with asyncio.timeout(SECONDS):
                frame = await client.recv()
            message = read(frame)
            assert isinstance(message, TradeMessage)
            assert message.payload.decode() == frame

    async def test_combined_trades_name_their_stream(self) -> None:
        async with Simulator(market()) as simulator, connected(simulator, BOTH) as client:
            async with asyncio.timeout(SECONDS):
                frames = [json.loads(await client.recv()) for _ in range(100)]
            assert {frame["stream"] for frame in frames} == {"btcusdt@trade", "ethusdt@trade"}
            assert all(frame["stream"] == frame["data"]["s"].lower() + "@trade" for frame in frames)

    async def test_ids_have_no_gap_and_times_are_current(self) -> None:
        async with Simulator(market(2_000)) as simulator, connected(simulator, BOTH) as client:
            seen: dict[str, list[int]] = {}
            late_ms = []
            async with asyncio.timeout(SECONDS):
                for _ in range(1_000):
                    data = json.loads(await client.recv())["data"]
                    seen.setdefault(data["s"], []).append(data["t"])
                    late_ms.append(data["E"] - data["T"])
            for ids in seen.values():
                assert ids == list(range(ids[0], ids[0] + len(ids)))
            assert min(late_ms) >= 0
            assert sorted(late_ms)[500] < 100  # a few ms on an idle machine; other tests may run

    async def test_a_client_can_ask_for_microseconds(self) -> None:
        async with (
            Simulator(market()) as simulator,
            connected(simulator, "/ws/btcusdt@trade?timeUnit=MICROSECOND") as precise,
            connected(simulator, "/ws/btcusdt@trade") as plain,
        ):
            in_us = {one.trade.trade_id: one.trade.trade_time for one in await trades(precise, 100)}
            in_ms = {one.trade.trade_id: one.trade.trade_time for one in await trades(plain, 100)}
            both = in_us.keys() & in_ms.keys()
            assert len(both) > 50
            assert all(in_us[one] // 1_000 * 1_000 == in_ms[one] for one in both)
            assert any(in_us[one] != in_ms[one] for one in both)

    async def test_subscriptions_change_while_connected(self) -> None:
        async with Simulator(market()) as simulator, connected(simulator, "/ws") as client:
            granted = await ask(client, method="SUBSCRIBE", params=["btcusdt@trade"], id=1)
            assert granted == ControlReply(1)
            assert {one.trade.symbol for one in await trades(client, 20)} == {"BTCUSDT"}
            assert await ask(client, method="SUBSCRIBE", params=["ethusdt@trade"], id=2) == ControlReply(2)
            assert {one.trade.symbol for one in await trades(client, 200)} == SYMBOLS
            assert await ask(client, method="UNSUBSCRIBE", params=["btcusdt@trade"], id=3) == ControlReply(3)
            assert {one.trade.symbol for one in await trades(client, 20)} == {"ETHUSDT"}
            listed = await ask(client, method="LIST_SUBSCRIPTIONS", id=4)
            assert listed == ControlReply(4, ["ethusdt@trade"])

    async def test_the_wrapper_can_be_switched_on(self) -> None:
        async with Simulator(market()) as simulator, connected(simulator, "/ws/btcusdt@trade") as client:
            assert await ask(client, method="SET_PROPERTY", params=["combined", True], id=1) == ControlReply(
                1
            )
            async with asyncio.timeout(SECONDS):
                assert json.loads(await client.recv())["stream"] == "btcusdt@trade"

    async def test_other_streams_are_silent_and_so_are_names_in_capitals(self) -> None:
        path = "/stream?streams=btcusdt@depth/BTCUSDT@trade/btcusdt@kline_1m/nothing/ethusdt@trade"
        async with Simulator(market()) as simulator, connected(simulator, path) as client:
            assert {one.trade.symbol for one in await trades(client, 50)} == {"ETHUSDT"}

    async def test_a_thousand_and_twenty_four_streams_are_the_limit(self) -> None:
        names = [f"s{number}@trade" for number in range(1_024)]
        async with Simulator(market()) as simulator:
            async with connected(simulator, "/stream") as client:
                assert (await ask(client, method="SUBSCRIBE", params=names, id=1)).error is None
                assert (await ask(client, method="SUBSCRIBE", params=["one@trade"], id=2)).error is not None
            with pytest.raises(InvalidStatus) as raised:
                await connect(f"{simulator.ws_url}/ws/" + "/".join(f"s{n}" for n in range(1_025)))
            assert raised.value.response.status_code == 400

    async def test_a_client_that_talks_too_much_is_cut_off(self) -> None:
        async with Simulator(market()) as simulator, connected(simulator, "/ws") as client:
            for number in range(6):
                await client.send(json.dumps({"method": "LIST_SUBSCRIPTIONS", "id": number}))
            replies, code = await until_closed(client)
            assert (len(replies), code) == (5, 1008)

    async def test_the_handshake_says_that_this_is_a_simulator(self) -> None:
        async with Simulator(market()) as simulator, connected(simulator, "/ws") as client:
            assert client.response is not None
            assert client.response.headers["Server"] == SERVER_HEADER

    async def test_a_path_that_is_not_served_is_not_found(self) -> None:
        async with Simulator(market()) as simulator:
            with pytest.raises(InvalidStatus) as raised:
                await connect(f"{simulator.ws_url}/nothing")
            assert raised.value.response.status_code == 404

    async def test_all_clients_get_the_same_and_the_ledger_counts_it_once(self) -> None:
        async with (
            Simulator(market()) as simulator,
            connected(simulator, BOTH) as one,
            connected(simulator, "/ws/btcusdt@trade") as other,
        ):
            payloads = {trade.trade.trade_id: trade.payload for trade in await trades(other, 100)}
            both = {
                trade.trade.trade_id: trade.payload
                for trade in await trades(one, 300)
                if trade.trade.symbol == "BTCUSDT"
            }
            common = payloads.keys() & both.keys()
            assert len(common) > 50
            assert all(payloads[trade_id] == both[trade_id] for trade_id in common)
            sent = simulator.sent
            assert sent.by_stream["btcusdt@trade"] == len(sent.trade_ids["BTCUSDT"])
            assert payloads.keys() <= set(range(*sent.trade_ids["BTCUSDT"].ranges[0]))
            assert sent.messages == sent.by_stream.total()

    async def test_a_restarted_simulator_resumes_where_it_stopped(self) -> None:
        last: dict[str, int] = {}
        for _ in range(2):
            async with Simulator(market()) as simulator, connected(simulator, "/ws/btcusdt@trade") as client:
                found = await trades(client, 10)
                if last:
                    missed = found[0].trade.trade_id - last["id"]
                    waited = (found[0].trade.trade_time - last["time"]) / 1e6
                    assert 0 < missed < 200 * waited * 3 + 500
                last = {"id": found[-1].trade.trade_id, "time": found[-1].trade.trade_time}

    async def test_what_was_sent_live_is_what_history_has(self) -> None:
        async with Simulator(market()) as simulator, connected(simulator, "/ws/ethusdt@trade") as client:
            live = await trades(client, 200)
            rows = await history(simulator, "ETHUSDT", live[0].trade.trade_id, 200)
            assert [(row["id"], row["price"], row["qty"], row["time"]) for row in rows] == [
                (one["t"], one["p"], one["q"], one["T"])
                for one in (json.loads(each.payload) for each in live)
            ]


class TestConnectionsEnd:
    async def test_at_the_end_of_its_lifetime(self) -> None:
        timing = Timing(lifetime_seconds=0.5)
        async with Simulator(market(), timing=timing) as simulator, connected(simulator, BOTH) as client:
            found, code = await until_closed(client)
            assert code == 1001
            assert all(isinstance(message, TradeMessage) for message in found)
            async with connected(simulator, BOTH) as again:
                await trades(again, 1)

    @pytest.mark.parametrize(("path", "is_combined"), [("/ws/btcusdt@trade", False), (BOTH, True)])
    async def test_announced_by_server_shutdown_and_trades_come_until_then(
        self, path: str, is_combined: bool
    ) -> None:
        timing = Timing(lifetime_seconds=1.5, shutdown_notice_seconds=1.2)
        async with Simulator(market(), timing=timing) as simulator, connected(simulator, path) as client:
            async with asyncio.timeout(SECONDS):
                while "serverShutdown" not in (frame := str(await client.recv())):
                    assert isinstance(read(frame), TradeMessage)
            assert isinstance(read(frame), ServerShutdown)
            assert frame.startswith('{"stream":"!serverShutdown","data":{') is is_combined
            found, code = await until_closed(client)
            assert code == 1001
            assert len(found) > 5

    async def test_when_a_test_says_so(self) -> None:
        async with Simulator(market()) as simulator, connected(simulator, BOTH) as client:
            await trades(client, 1)
            ending = asyncio.create_task(simulator.shut_down_clients(0.2))
            found, code = await until_closed(client)
            await ending
            assert any(isinstance(message, ServerShutdown) for message in found)
            assert code == 1001

    async def test_when_a_client_does_not_answer_pings(self) -> None:
        timing = Timing(ping_seconds=0.2, pong_seconds=0.4)
        async with Simulator(market(), timing=timing) as simulator, connected(simulator, BOTH) as client:
            client.transport.pause_reading()  # as a stalled event loop would
            await until(lambda: simulator.clients == 1)
            await until(lambda: simulator.clients == 0)
            client.transport.resume_reading()

    async def test_but_not_while_it_answers_them(self) -> None:
        timing = Timing(ping_seconds=0.05, pong_seconds=0.3)
        async with Simulator(market(), timing=timing) as simulator, connected(simulator, BOTH) as client:
            before = time.monotonic()
            while time.monotonic() - before < 1.0:
                await trades(client, 10)
            assert simulator.clients == 1

    async def test_when_a_client_takes_its_messages_too_slowly(self) -> None:
        async with (
            Simulator(market(20_000), max_waiting_bytes=20_000) as simulator,
            connected(simulator, BOTH) as client,
        ):
            client.transport.pause_reading()
            await until(lambda: simulator.clients == 1)
            await until(lambda: simulator.clients == 0)
            client.transport.resume_reading()


class TestFaults:
    async def test_ids_are_left_out_but_stay_in_history(self) -> None:
        class EveryTenth:
            def __contains__(self, trade_id: object) -> bool:
                return isinstance(trade_id, int) and trade_id % 10 == 0

        faults = Faults(omit_ids={"BTCUSDT": EveryTenth()})
        async with Simulator(market(), faults=faults) as simulator, connected(simulator, BOTH) as client:
            found = [one.trade for one in await trades(client, 300)]
            bitcoin = [one.trade_id for one in found if one.symbol == "BTCUSDT"]
            ether = [one.trade_id for one in found if one.symbol == "ETHUSDT"]
            assert not [trade_id for trade_id in bitcoin if trade_id % 10 == 0]
            assert bitcoin == [one for one in range(bitcoin[0], bitcoin[-1] + 1) if one % 10]
            assert ether == list(range(ether[0], ether[-1] + 1))
            missing = bitcoin[0] // 10 * 10 + 10
            rows = await history(simulator, "BTCUSDT", missing, 1)
            assert rows[0]["id"] == missing

    async def test_some_come_twice(self) -> None:
        faults = Faults(duplicate_fraction=0.3)
        async with Simulator(market(), faults=faults) as simulator, connected(simulator, BOTH) as client:
            found = [(one.trade.symbol, one.trade.trade_id) for one in await trades(client, 1_000)]
            twice = [one for one, count in Counter(found).items() if count == 2]
            assert 0.2 < len(twice) / len(set(found)) < 0.4

    async def test_a_connection_breaks_after_a_number_of_messages(self) -> None:
        faults = Faults(disconnect_after=25)
        async with Simulator(market(), faults=faults) as simulator:
            seen = TradeIds()
            for _ in range(2):
                async with connected(simulator, "/ws/btcusdt@trade") as client:
                    found, code = await until_closed(client)
                    assert (len(found), code) == (25, None)
                    for message in found:
                        assert isinstance(message, TradeMessage)
                        seen.add(message.trade.trade_id)
            assert simulator.sent.trade_ids["BTCUSDT"] == seen

    async def test_connections_are_refused_for_a_while_and_counted(self) -> None:
        faults = Faults(refuse_connections=2)
        async with Simulator(market(), faults=faults) as simulator:
            for _ in range(2):
                with pytest.raises(InvalidStatus) as raised:
                    await connect(simulator.ws_url + BOTH)
                assert raised.value.response.status_code == 503
            async with connected(simulator, BOTH) as client:
                await trades(client, 1)
            assert len(simulator.connection_attempts) == 3

    async def test_it_falls_silent_and_does_not_send_those_trades_later(self) -> None:
        async with Simulator(market()) as simulator, connected(simulator, "/ws/btcusdt@trade") as client:
            await trades(client, 5)
            simulator.faults.is_silent = True
            sent = simulator.sent.messages
            before = time.time_ns() // 1_000
            assert await _hears_nothing_more(client)
            assert simulator.sent.messages == sent
            simulator.faults.is_silent = False
            assert (await trades(client, 1))[0].trade.trade_time > before + 400_000


async def _hears_nothing_more(client: ClientConnection, for_seconds: float = 0.5) -> bool:
    """Read what is already on its way; return whether nothing follows for ``for_seconds``."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            async with asyncio.timeout(for_seconds):
                await client.recv()
        except TimeoutError:
            return True
    return False


class TestRest:
    async def test_it_is_served_on_the_same_port_and_says_what_it_is(self) -> None:
        async with (
            Simulator(market()) as simulator,
            httpx.AsyncClient(base_url=simulator.rest_url, trust_env=False) as rest,
        ):
            response = await rest.get(
                "/api/v3/klines", params={"symbol": "BTCUSDT", "interval": "1m", "limit": 2}
            )
            assert response.status_code == 200
            assert response.headers["Server"] == SERVER_HEADER
            assert response.headers["Content-Type"] == "application/json;charset=UTF-8"
            assert int(response.headers["X-MBX-USED-WEIGHT-1M"]) >= 2
            assert len(response.json()) == 2
            wrong = await rest.get("/api/v3/klines", params={"symbol": "", "interval": "1m"})
            assert (wrong.status_code, wrong.json()["code"]) == (400, -1102)
            assert (await rest.head("/api/v3/ping")).status_code == 405
            assert (await rest.get("/nothing")).status_code == 404
            in_us = await rest.get("/api/v3/time", headers={"X-MBX-TIME-UNIT": "microsecond"})
            assert in_us.json()["serverTime"] > 10**15

    async def test_a_long_answer_does_not_hold_up_the_trades(self) -> None:
        async with (
            Simulator(market()) as simulator,
            connected(simulator, BOTH) as client,
            httpx.AsyncClient(base_url=simulator.rest_url, trust_env=False, timeout=60) as rest,
        ):
            query: dict[str, str | int] = {"symbol": "BTCUSDT", "interval": "1m", "limit": 10}
            asked = asyncio.create_task(rest.get("/api/v3/klines", params=query))
            await trades(client, 1)
            count = 0
            while not asked.done():
                await trades(client, 1)
                count += 1
            assert (await asked).status_code == 200
            assert count > 50

    async def test_a_taken_port_is_named_with_the_setting_that_changes_it(self) -> None:
        async with Simulator(market()) as simulator:
            with pytest.raises(ExchangeError, match=f"{simulator.port}.*CANDLEFLOW_SIMULATOR_PORT"):
                await Simulator(market(), port=simulator.port).__aenter__()


class TestRecording:
    async def test_it_resumes_where_it_was_when_a_client_reconnects(self, tmp_path: Path) -> None:
        file = tmp_path / "short.jsonl"
        file.write_text("".join(_recorded(number) + "\n" for number in range(3_000)))
        faults = Faults(disconnect_after=1_000)
        async with Simulator(Recording(file, speed=0), faults=faults) as simulator:
            seen: list[int] = []
            while len(seen) < 2_000:
                async with connected(simulator, "/ws/btcusdt@trade") as client:
                    found, _ = await until_closed(client)
                    seen.extend(one.trade.trade_id for one in found if isinstance(one, TradeMessage))
            assert seen == sorted(set(seen))

    async def test_a_client_that_stays_is_kept_after_the_end_and_history_is_served(
        self, tmp_path: Path
    ) -> None:
        file = tmp_path / "short.jsonl"
        file.write_text("".join(_recorded(number) + "\n" for number in range(100)))
        recording = Recording(file, speed=0)
        async with Simulator(recording) as simulator, connected(simulator, "/ws/btcusdt@trade") as client:
            await trades(client, 100)
            await simulator.feed_ended()
            assert await ask(client, method="LIST_SUBSCRIPTIONS", id=1) == ControlReply(1, ["btcusdt@trade"])
            rows = await history(simulator, "BTCUSDT", 40, 3)
            assert [row["id"] for row in rows] == [40, 41, 42]
            assert simulator.sent.trade_ids["BTCUSDT"] == TradeIds(range(100))

    async def test_a_broken_text_is_sent_byte_for_byte(self, tmp_path: Path) -> None:
        file = tmp_path / "broken.jsonl"
        file.write_bytes(_recorded(0).encode() + b'\n{"e":"trade","s":"\xc3"}\n')
        recording = Recording(file, speed=0, every_line=True)
        async with Simulator(recording) as simulator, connected(simulator, "/ws/btcusdt@trade") as client:
            async with asyncio.timeout(SECONDS):
                assert await client.recv(decode=False) == _recorded(0).encode()
                assert await client.recv(decode=False) == b'{"e":"trade","s":"\xc3"}'


def _recorded(number: int) -> str:
    data = (
        f'{{"e":"trade","E":1723161255343,"s":"BTCUSDT","t":{number},"p":"61837.63000000","q":"0.02000000",'
        '"T":1723161255342,"m":true,"M":true}'
    )
    return f'{{"stream":"btcusdt@trade","data":{data}}}'


@contextmanager
def command(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run ``python -m candleflow`` with these arguments as a process."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CANDLEFLOW_")}
    environment["CANDLEFLOW_DATA_DIR"] = str(folder / "data")
    with subprocess.Popen(
        [sys.executable, "-m", "candleflow", *arguments],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def said(process: subprocess.Popen[str]) -> Any:
    """Return the next line of JSON that the process prints."""
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


class TestCommand:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_simulate_prints_its_addresses_and_ends_cleanly(self, tmp_path: Path, number: int) -> None:
        options = ["--port", "0", "--rate", "500", "--seed", "3", "--symbols", "btcusdt,ETHUSDT"]
        with command(tmp_path, "simulate", *options) as process:
            addresses = await asyncio.to_thread(said, process)
            async with connect(addresses["ws_url"] + BOTH, close_timeout=1) as client:
                await trades(client, 10)
                heartbeat = json.loads((tmp_path / "data/run/simulator.json").read_text())
                assert (heartbeat["pid"], heartbeat["state"]) == (process.pid, "running")
                process.send_signal(number)
                await until_closed(client)
            assert await asyncio.to_thread(process.wait, 10) == 0
            assert not (tmp_path / "data/run/simulator.json").exists()
            assert process.stderr is not None
            assert "SIMULATED" in process.stderr.read()

    async def test_replay_sends_the_whole_recording_and_reports_its_end(self, tmp_path: Path) -> None:
        if not oracle.TRADES_ONLY.exists():
            pytest.skip(oracle.ABSENT)
        with gzip.open(oracle.TRADES_ONLY, "rt") as lines:
            expected = [line.rstrip("\n") for line in lines]
        with command(tmp_path, "replay", str(oracle.TRADES_ONLY), "--port", "0", "--speed", "0") as process:
            addresses = await asyncio.to_thread(said, process)
            async with connect(addresses["ws_url"] + BOTH, close_timeout=1) as client:
                async with asyncio.timeout(60):
                    assert [await client.recv() for _ in expected] == expected
                end = await asyncio.to_thread(said, process)
                assert (end["event"], end["messages"]) == ("finished", 34_419)
                assert end["sent"] == {"btcusdt@trade": 19_904, "ethusdt@trade": 14_515}
                process.send_signal(signal.SIGTERM)
                await until_closed(client)
            assert await asyncio.to_thread(process.wait, 10) == 0

    def test_a_market_with_a_changed_rate_continues_its_ids(self, tmp_path: Path) -> None:
        file = tmp_path / "data/market.json"
        now = time.time_ns() // 1_000
        slow = continued_market(file, 1, 10, ["BTCUSDT"], now - 60_000_000)
        last = slow.id_at("BTCUSDT", now - 60_000_000)
        quick = continued_market(file, 1, 1_000, ["BTCUSDT"], now - 50_000_000)
        first, end = quick.id_at("BTCUSDT", now - 60_000_000), quick.id_at("BTCUSDT", now)
        assert first == last
        assert end > first + 10_000
        shared = continued_market(file, 1, 1_000, ["BTCUSDT", "ETHUSDT"], now)
        assert shared.id_at("BTCUSDT", now - 1_000_000) == quick.id_at("BTCUSDT", now - 1_000_000)
        assert continued_market(file, 1, 1_000, ["BTCUSDT", "ETHUSDT"], now + 5).eras == shared.eras
        assert [era.symbol_rate for era in shared.eras] == [10, 1_000, 500]

    @pytest.mark.parametrize(
        "content", ["", "[]", "{", "5", '[{"since":1}]', '[{"since":"x","seed":1,"symbol_rate":1}]']
    )
    def test_a_market_with_a_broken_file_starts_again(self, tmp_path: Path, content: str) -> None:
        file = tmp_path / "market.json"
        file.write_text(content)
        market = continued_market(file, 1, 10, ["BTCUSDT"], time.time_ns() // 1_000)
        assert market.eras == SeededMarket(1, 10, ["BTCUSDT"]).eras
        assert len(json.loads(file.read_text())) == 1

    @pytest.mark.parametrize(
        ("arguments", "status", "words"),
        [
            (["simulate", "--port", "65536"], 2, "65535"),
            (["simulate", "--port", "x"], 2, "65535"),
            (["simulate", "--rate", "0"], 2, "above 0"),
            (["simulate", "--rate", "nan"], 2, "above 0"),
            (["simulate", "--seed", "-1"], 2, "2^63 - 1"),
            (["simulate", "--symbols", "BTC/USDT"], 2, "BTCUSDT"),
            (["replay", "absent.jsonl", "--speed", "-1"], 2, "0 or more"),
            (["replay", "absent.jsonl", "--wait-for", "0"], 2, "from 1"),
            (["replay", "absent.jsonl", "--port", "0"], 1, "absent.jsonl"),
            (["replay"], 2, "FILE"),
        ],
    )
    def test_a_wrong_option_is_named_with_what_is_accepted(
        self, tmp_path: Path, arguments: Sequence[str], status: int, words: str
    ) -> None:
        with command(tmp_path, *arguments) as process:
            _, errors = process.communicate(timeout=30)
        assert process.returncode == status, errors
        assert words in errors
        assert "Traceback" not in errors
