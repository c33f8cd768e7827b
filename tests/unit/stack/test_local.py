"""Ports: which ones are needed, which process holds a taken one, and the setting that changes it."""

from __future__ import annotations

import os
import socket

import pytest

from candleflow import settings as settings_module
from candleflow.errors import SettingError, StackError
from candleflow.stack.local import NeededPort, check_ports, dashboard_port, server_ports, simulator_port
from candleflow.stack.process import free_port


def test_the_servers_ports_are_those_of_the_two_addresses() -> None:
    settings = settings_module.load(
        kafka_bootstrap="localhost:19092", postgres_url="postgresql://me@127.0.0.1:15432/candles"
    )
    assert [(one.host, one.port) for one in server_ports(settings)] == [
        ("127.0.0.1", 19092),
        ("127.0.0.1", 15432),
    ]


@pytest.mark.parametrize(
    "bootstrap", ["kafka.example.com:9092", "10.0.0.5:9092", "127.0.0.1:9092,127.0.0.1:9093"]
)
def test_an_address_of_another_machine_is_a_bad_setting(bootstrap: str) -> None:
    with pytest.raises(SettingError, match="CANDLEFLOW_KAFKA_BOOTSTRAP"):
        server_ports(settings_module.load(kafka_bootstrap=bootstrap))


def test_a_postgresql_of_another_machine_is_a_bad_setting_and_no_password_is_shown() -> None:
    with pytest.raises(SettingError, match="CANDLEFLOW_POSTGRES_URL") as caught:
        server_ports(settings_module.load(postgres_url="postgresql://me:s3cret@db.example.com/candles"))
    assert "s3cret" not in str(caught.value)


def test_a_taken_port_is_named_with_its_holder_and_the_setting_that_moves_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        settings = settings_module.load(dashboard_port=port, simulator_port=free_port())
        with pytest.raises(StackError) as caught:
            check_ports([dashboard_port(settings), simulator_port(settings)])
    assert str(caught.value).startswith(f"port {port} is taken by ")
    assert f"(pid {os.getpid()})" in str(caught.value)
    assert "CANDLEFLOW_DASHBOARD_PORT" in str(caught.value)
    assert "CANDLEFLOW_SIMULATOR_PORT" not in str(caught.value)


def test_each_taken_port_has_its_own_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        needed = [
            NeededPort("Kafka", "CANDLEFLOW_KAFKA_BOOTSTRAP", one.getsockname()[1]),
            NeededPort("PostgreSQL", "CANDLEFLOW_POSTGRES_URL", two.getsockname()[1]),
        ]
        with pytest.raises(StackError) as caught:
            check_ports(needed)
    assert [line.split(": ")[1].split()[1] for line in str(caught.value).splitlines()] == [
        "CANDLEFLOW_KAFKA_BOOTSTRAP",
        "CANDLEFLOW_POSTGRES_URL",
    ]


def test_two_processes_on_one_port_are_both_named() -> None:
    port = free_port()
    settings = settings_module.load(dashboard_port=port, simulator_port=port)
    with pytest.raises(StackError, match=f"the simulator and the page can't share port {port}"):
        check_ports([dashboard_port(settings), simulator_port(settings)])


def test_a_port_with_a_connection_in_time_wait_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = server.accept()
            accepted.close()  # the server closes first, so its side stays in TIME_WAIT
    check_ports([NeededPort("Kafka", "CANDLEFLOW_KAFKA_BOOTSTRAP", port)])
