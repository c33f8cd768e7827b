"""The server of the metrics and health pages, on a port of this machine."""

from __future__ import annotations

import http.client
import logging
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from candleflow import settings
from candleflow.metrics.serving import served_heartbeat
from candleflow.settings import METRICS_PORTS, Settings
from candleflow.stack.process import free_port, is_free, is_listening, wait_for
from candleflow.telemetry import HeartbeatFile, read_heartbeat


@pytest.fixture
def in_force(tmp_path: Path) -> Settings:
    """Return settings with metrics on; the producer has the first port."""
    return settings.load(data_dir=tmp_path, metrics_port=free_port())


@pytest.fixture
def heartbeat(in_force: Settings) -> Iterator[HeartbeatFile]:
    made = served_heartbeat(in_force, "producer")
    yield made
    made.remove()


def asked(
    port: int, path: str, method: str = "GET", host: str | None = None
) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, headers={} if host is None else {"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), {k.lower(): v for k, v in answer.getheaders()}
    finally:
        connection.close()


def test_the_three_pages_follow_the_heartbeat(in_force: Settings, heartbeat: HeartbeatFile) -> None:
    port = in_force.metrics.port
    assert asked(port, "/readyz")[:2] == (503, "starting\n")
    heartbeat.beat("running", "BTCUSDT", {"received": 5})
    assert asked(port, "/healthz")[:2] == (200, "ok\n")
    assert asked(port, "/readyz")[:2] == (200, "running: BTCUSDT\n")
    status, text, headers = asked(port, "/metrics?x=1")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    found = {
        sample.name: sample.value for one in text_string_to_metric_families(text) for sample in one.samples
    }
    assert found["candleflow_trades_received_total"] == 5
    assert read_heartbeat(in_force.stack.run_dir, "producer") == heartbeat.last[0]


def test_a_head_has_no_body_and_another_method_is_refused(
    in_force: Settings, heartbeat: HeartbeatFile
) -> None:
    heartbeat.beat("running")
    assert asked(in_force.metrics.port, "/healthz", "HEAD")[:2] == (200, "")
    assert asked(in_force.metrics.port, "/healthz", "POST")[0] == 501
    assert asked(in_force.metrics.port, "/elsewhere")[0] == 404


@pytest.mark.parametrize("host", ["evil.example", "127.evil.example", "[::", "", "producer:9464"])
def test_a_page_of_another_site_cannot_read_it(
    in_force: Settings, heartbeat: HeartbeatFile, host: str
) -> None:
    heartbeat.beat("running")
    assert asked(in_force.metrics.port, "/metrics", host=host)[0] == 421


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:9464"])
def test_requests_with_a_name_of_this_machine_are_answered(
    in_force: Settings, heartbeat: HeartbeatFile, host: str
) -> None:
    heartbeat.beat("running")
    assert asked(in_force.metrics.port, "/healthz", host=host)[0] == 200


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has 127.0.0.1 alone of the loopback")
def test_it_listens_on_this_machine_only(in_force: Settings, heartbeat: HeartbeatFile) -> None:
    heartbeat.beat("running")
    with socket.socket() as probe:
        probe.bind(
            ("127.0.0.2", in_force.metrics.port)
        )  # this would fail if the server listened on all addresses


def test_on_all_addresses_a_request_with_any_name_is_answered(tmp_path: Path) -> None:
    in_force = settings.load(data_dir=tmp_path, metrics_port=free_port(), metrics_host="0.0.0.0")  # noqa: S104
    heartbeat = served_heartbeat(in_force, "producer")
    try:
        assert asked(in_force.metrics.port, "/healthz", host="producer:9464")[0] == 200
    finally:
        heartbeat.remove()


@pytest.mark.skipif(not socket.has_ipv6 or not is_free(free_port(), "::1"), reason="no IPv6 here")
def test_it_can_listen_on_ipv6(tmp_path: Path) -> None:
    in_force = settings.load(data_dir=tmp_path, metrics_port=free_port(), metrics_host="::1")
    heartbeat = served_heartbeat(in_force, "producer")
    try:
        assert is_listening(in_force.metrics.port, "::1")
        assert not is_listening(in_force.metrics.port)
    finally:
        heartbeat.remove()


def test_an_invalid_request_ends_only_its_own_connection(
    in_force: Settings, heartbeat: HeartbeatFile
) -> None:
    heartbeat.beat("running")
    for garbage in (b"\x00\xff\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"A" * 70_000 + b"\r\n"):
        with socket.create_connection(("127.0.0.1", in_force.metrics.port), timeout=10) as one:
            one.sendall(garbage)
    assert asked(in_force.metrics.port, "/healthz")[0] == 200


def test_the_port_is_free_again_afterwards(in_force: Settings) -> None:
    heartbeat = served_heartbeat(in_force, "producer")
    assert is_listening(in_force.metrics.port)
    heartbeat.remove()
    assert is_free(in_force.metrics.port)


def test_a_taken_port_is_logged_in_one_line_and_stops_nothing(
    in_force: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", in_force.metrics.port)):
        heartbeat = served_heartbeat(in_force, "producer")
    (line,) = caplog.records
    assert line.levelno == logging.WARNING
    assert f"port {in_force.metrics.port}" in line.getMessage()
    assert "CANDLEFLOW_METRICS_PORT" in line.getMessage()
    heartbeat.beat("running")
    assert read_heartbeat(in_force.stack.run_dir, "producer") is not None
    heartbeat.remove()


def test_nothing_listens_by_default(tmp_path: Path) -> None:
    before = threading.active_count()
    heartbeat = served_heartbeat(settings.load(data_dir=tmp_path, metrics_port=0), "producer")
    assert threading.active_count() == before
    assert heartbeat.on_removed is None


def test_each_process_has_its_own_port_above_the_first(in_force: Settings) -> None:
    audit = served_heartbeat(in_force, "audit")
    try:
        assert asked(in_force.metrics.port + METRICS_PORTS["audit"], "/healthz")[0] == 200
    finally:
        audit.remove()


def test_silent_clients_do_not_block_others(in_force: Settings, heartbeat: HeartbeatFile) -> None:
    heartbeat.beat("running")
    address = ("127.0.0.1", in_force.metrics.port)
    silent = [socket.create_connection(address) for _ in range(40)]
    try:
        handlers = [one for one in threading.enumerate() if "process_request" in one.name]
        assert len(handlers) <= 16
    finally:
        for one in silent:
            one.close()

    def answers() -> bool:
        try:
            return asked(in_force.metrics.port, "/healthz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    assert wait_for(answers, 20)
