"""Settings: a wrong one is named, with its value unless it is secret, and with what is accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from candleflow import settings as module
from candleflow.errors import SettingError
from candleflow.settings import Exchange, Venue, describe, load, unknown_names


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in module.FIELDS:
        monkeypatch.delenv(f"CANDLEFLOW_{name.upper()}", raising=False)
    monkeypatch.chdir(tmp_path)  # so that no .env file is found


WRONG = [
    # variable, value, what the message must say beside the variable's name
    ("SYMBOLS", "", "must be names such as BTCUSDT"),
    ("SYMBOLS", "BTCUSDT,,ETHUSDT", "must be names such as BTCUSDT"),
    ("SYMBOLS", "BTCUSDT'; DROP TABLE candles;--", "must be names such as BTCUSDT"),
    ("SYMBOLS", "../../etc/passwd", "must be names such as BTCUSDT"),
    ("SYMBOLS", "BTC%USDT", "must be names such as BTCUSDT"),
    ("SYMBOLS", "\u202eBTCUSDT", "must be names such as BTCUSDT"),
    ("SYMBOLS", "A" * 10_000, "must be names such as BTCUSDT"),
    ("SHARD", "", "must be a shard such as 2/4, from 1/1 to 64/64"),
    ("SHARD", "x", "must be a shard such as 2/4"),
    ("SHARD", "5/4", "must be a shard such as 2/4"),
    ("SHARD", "0/2", "must be a shard such as 2/4"),
    ("SHARD", "1/0", "must be a shard such as 2/4"),
    ("SHARD", "1/65", "must be a shard such as 2/4"),
    ("EXCHANGE", "kraken", "'auto', 'binance', 'binance-vision', 'binance-us' or 'simulator'"),
    ("EXCHANGE_WS_URL", "127.0.0.1:9443", "must be an address such as ws://127.0.0.1:9443"),
    ("EXCHANGE_WS_URL", "http://127.0.0.1:9443", "must be an address such as ws://127.0.0.1:9443"),
    ("EXCHANGE_WS_URL", "ws://127.0.0.1:99999", "must be an address such as ws://127.0.0.1:9443"),
    ("EXCHANGE_WS_URL", "ws://example.com", "must be wss:// unless the host is this machine"),
    ("EXCHANGE_WS_URL", "ws://127.example.com", "must be wss:// unless the host is this machine"),
    ("EXCHANGE_REST_URL", "ftp://127.0.0.1", "must be an address such as http://127.0.0.1:9443"),
    ("EXCHANGE_REST_URL", "http://example.com", "must be https:// unless the host is this machine"),
    ("EXCHANGE_SILENCE_SECONDS", "0", "(accepted: from 0.1 to 3,600)"),
    ("EXCHANGE_SILENCE_SECONDS", "soon", "valid number"),
    ("EXCHANGE_LIFETIME_MINUTES", "0", "(accepted: above 0 to 1,440)"),
    ("EXCHANGE_LIFETIME_MINUTES", "1441", "(accepted: above 0 to 1,440)"),
    ("EXCHANGE_MAX_STREAMS", "1025", "(accepted: from 1 to 1,024)"),
    ("MAX_FUTURE_SECONDS", "nan", "(accepted: from 1 to 86,400)"),
    ("MAX_FUTURE_SECONDS", "inf", "(accepted: from 1 to 86,400)"),
    ("MAX_IN_FLIGHT", "5", "(accepted: from 100 to 10,000,000)"),
    ("KAFKA_BOOTSTRAP", "localhost", "must be host:port"),
    ("KAFKA_BOOTSTRAP", "localhost:0", "must be host:port"),
    ("KAFKA_BOOTSTRAP", "localhost:9092,", "must be host:port"),
    ("KAFKA_BOOTSTRAP", "localhost:65536", "must be host:port"),
    ("KAFKA_SECURITY_PROTOCOL", "SASL_PLAINTEXT", "'PLAINTEXT', 'SSL' or 'SASL_SSL'"),
    ("KAFKA_SASL_MECHANISM", "PLAIN", "'SCRAM-SHA-512' or 'SCRAM-SHA-256'"),
    ("POSTGRES_SSLMODE", "prefer", "'disable', 'require', 'verify-ca' or 'verify-full'"),
    ("POSTGRES_SSLROOTCERT", "/nowhere/ca.pem", "can't be read: No such file"),
    ("KAFKA_PARTITIONS", "0", "(accepted: from 1 to 1,024)"),
    ("KAFKA_RETENTION_HOURS", "-1", "(accepted: from 1 to 87,600)"),
    ("POSTGRES_URL", "mysql://a@127.0.0.1/b", "must be an address such as postgresql://"),
    ("POSTGRES_URL", "postgresql://127.0.0.1", "must name a database"),
    ("POSTGRES_URL", "postgresql://a@127.0.0.1/b;drop", "must name a database"),
    ("POSTGRES_URL", "postgresql://A'--@127.0.0.1/b", "must name a user"),
    ("POSTGRES_URL", "postgresql://a@127.0.0.1:99999/b", "must be an address such as postgresql://"),
    ("DASHBOARD_PORT", "0", "(accepted: from 1 to 65,535)"),
    ("DASHBOARD_PORT", "65536", "(accepted: from 1 to 65,535)"),
    ("DASHBOARD_PORT", "http", "valid integer"),
    ("DASHBOARD_PUBLIC_URL", "candles.example.com", "must be an address such as https://candles.example.com"),
    (
        "DASHBOARD_PUBLIC_URL",
        "ws://candles.example.com",
        "must be an address such as https://candles.example.com",
    ),
    ("DASHBOARD_PUBLIC_URL", "https://", "must be an address such as https://candles.example.com"),
    ("DASHBOARD_PUBLIC_URL", "https://*", "must be an address such as https://candles.example.com"),
    (
        "DASHBOARD_PUBLIC_URL",
        "https://*.example.com",
        "must be an address such as https://candles.example.com",
    ),
    (
        "DASHBOARD_PUBLIC_URL",
        "https://candles.example.com/page",
        "must be an address such as https://candles.example.com",
    ),
    (
        "DASHBOARD_PUBLIC_URL",
        "https://candles.example.com?a",
        "must be an address such as https://candles.example.com",
    ),
    (
        "DASHBOARD_PUBLIC_URL",
        "https://me:secret@candles.example.com",
        "must be an address such as https://candles.example.com",
    ),
    (
        "DASHBOARD_PUBLIC_URL",
        "https://candles.example.com:0",
        "must be an address such as https://candles.example.com",
    ),
    (
        "DASHBOARD_PUBLIC_URL",
        "https://bücher.example",
        "must be an address such as https://candles.example.com",
    ),
    ("WINDOW_SECONDS", "0", "must be one of 1, 2, 3"),
    ("WINDOW_SECONDS", "7", "must be one of 1, 2, 3"),
    ("WINDOW_SECONDS", "5.5", "valid integer"),
    ("SLIDE_SECONDS", "2", "must divide CANDLEFLOW_WINDOW_SECONDS (5)"),
    ("SLIDE_SECONDS", "10", "must divide CANDLEFLOW_WINDOW_SECONDS (5)"),
    ("SLIDE_SECONDS", "0", "must divide CANDLEFLOW_WINDOW_SECONDS (5)"),
    ("TRIGGER_MILLISECONDS", "-1", "(accepted: from 0 to 60,000)"),
    ("MAX_OFFSETS_PER_TRIGGER", "1", "(accepted: from 1,000 to 5,000,000)"),
    ("ALERT_PICTURES", "perhaps", "valid boolean"),
    ("SPARK_MASTER", "", "at least 1 character"),
    ("SPARK_MEMORY", "lots", "should match pattern"),
    ("SIMULATOR_RATE", "0", "(accepted: above 0 to 1,000,000)"),
    ("SIMULATOR_SEED", "-1", "accepted: from 0"),
    ("LOG_LEVEL", "CHATTY", "'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
    ("LOG_FORMAT", "xml", "'text' or 'json'"),
    ("METRICS_PORT", "-1", "(accepted: from 0 to 65,530)"),
    ("METRICS_PORT", "65531", "(accepted: from 0 to 65,530)"),
    ("METRICS_HOST", "http://127.0.0.1", "should match pattern"),
]


@pytest.mark.parametrize(("name", "value", "says"), WRONG)
def test_a_wrong_setting_is_named_with_what_is_accepted(
    name: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"CANDLEFLOW_{name}", value)
    with pytest.raises(SettingError) as caught:
        load()
    message = str(caught.value)
    assert message.startswith(f"CANDLEFLOW_{name}")
    assert says in message
    assert len(message) < 600
    if name != "POSTGRES_URL":
        assert f"={value[:20]!r}"[:-1] in message


def test_every_wrong_setting_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANDLEFLOW_WINDOW_SECONDS", "7")
    monkeypatch.setenv("CANDLEFLOW_DASHBOARD_PORT", "0")
    with pytest.raises(
        SettingError, match=r"(?s)DASHBOARD_PORT.*WINDOW_SECONDS|WINDOW_SECONDS.*DASHBOARD_PORT"
    ):
        load()


@pytest.mark.parametrize("url", ["mysql://a:canary@127.0.0.1/b", "postgresql://a:canary@127.0.0.1:99999/b"])
def test_a_wrong_secret_is_never_shown(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANDLEFLOW_POSTGRES_URL", url)
    with pytest.raises(SettingError) as caught:
        load()
    assert "canary" not in str(caught.value)


def test_no_secret_shows_in_a_description_or_a_repr() -> None:
    settings = load(
        postgres_url="postgresql://a:canary@127.0.0.1/b",
        postgres_password="canary",
        postgres_writer_password="canary",
        postgres_reader_password="canary",
        postgres_auditor_password="canary",
        postgres_forecaster_password="canary",
    )
    assert settings.postgres.owner_password == "canary"
    assert "canary" not in f"{settings!r}{settings.database!r}{describe(settings)}"


def test_symbols_are_upper_cased_trimmed_and_named_once() -> None:
    given = " btcusdt, ETHUSDT,BTCUSDT,币安人生usdt "
    assert load(symbols=given).symbols == ("BTCUSDT", "ETHUSDT", "币安人生USDT")


def test_without_a_shard_the_producer_has_every_symbol_and_its_old_name() -> None:
    settings = load(symbols="BTCUSDT,ETHUSDT", metrics_port=9_464)
    assert settings.own_symbols == ("BTCUSDT", "ETHUSDT")
    assert settings.producer_name == "producer"
    assert settings.metrics_port_of("producer") == 9_464


def test_a_shard_has_its_own_symbols_name_and_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANDLEFLOW_SHARD", "2/2")
    settings = load(symbols="BTCUSDT,ETHUSDT", metrics_port=9_464)
    assert settings.own_symbols == ("ETHUSDT",)
    assert settings.symbols == ("BTCUSDT", "ETHUSDT"), "the other processes follow all symbols"
    assert settings.producer_name == "producer-2-of-2"
    assert settings.metrics_port_of("producer") == 9_470, "a port above those of all other processes"
    assert settings.metrics_port_of("audit") == 9_466
    assert ("CANDLEFLOW_SHARD", "2/2") in [row[:2] for row in describe(settings)]
    assert load(symbols="BTCUSDT", shard="2/2").own_symbols == ()


def test_an_impossible_port_of_a_shard_is_named() -> None:
    with pytest.raises(
        SettingError, match=r"^CANDLEFLOW_METRICS_PORT='65530': too high: the producer of shard 2/2"
    ):
        load(metrics_port=65_530, shard="2/2")
    assert load(metrics_port=65_530).metrics.port == 65_530


def test_a_dotenv_file_is_read_and_the_environment_overrides_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("CANDLEFLOW_WINDOW_SECONDS=10\nCANDLEFLOW_DASHBOARD_PORT=9000\n")
    monkeypatch.setenv("CANDLEFLOW_DASHBOARD_PORT", "9001")
    settings = load()
    assert (settings.window_seconds, settings.dashboard.port) == (10, 9_001)


def test_a_name_alone_in_the_dotenv_file_sets_nothing(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CANDLEFLOW_WINDOW_SECONDS\nCANDLEFLOW_DASHBOARD_PORT=9000\n")
    settings = load()
    assert (settings.window_seconds, settings.dashboard.port) == (5, 9_000)


def test_a_wrong_value_in_the_dotenv_file_is_shown(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CANDLEFLOW_WINDOW_SECONDS=7\n")
    with pytest.raises(SettingError, match="CANDLEFLOW_WINDOW_SECONDS='7'"):
        load()


def test_a_mistyped_name_is_pointed_out_with_the_nearest_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANDLEFLOW_SYMBOL", "BTCUSDT")
    assert unknown_names() == ["CANDLEFLOW_SYMBOL is not a setting; did you mean CANDLEFLOW_SYMBOLS?"]


@pytest.mark.parametrize(
    ("given", "venue", "topic", "database"),
    [
        ({}, Venue.MAIN, "trades", "candleflow"),
        ({"exchange": Exchange.BINANCE_VISION}, Venue.MAIN, "trades", "candleflow"),
        ({"exchange": Exchange.BINANCE_US}, Venue.US, "trades.binance-us", "candleflow_binance_us"),
        ({"exchange": Exchange.SIMULATOR}, Venue.SIMULATED, "trades.simulated", "candleflow_simulated"),
        ({"exchange_ws_url": "ws://127.0.0.1:1"}, Venue.MAIN, "trades", "candleflow"),
        (
            {"exchange": Exchange.SIMULATOR, "exchange_ws_url": "ws://127.0.0.1:1"},
            Venue.SIMULATED,
            "trades.simulated",
            "candleflow_simulated",
        ),
    ],
)
def test_each_venue_has_a_topic_a_database_and_a_folder_of_its_own(
    given: dict[str, object], venue: Venue, topic: str, database: str
) -> None:
    settings = load(**given)
    assert (settings.exchange.venue, settings.topic, settings.database.name) == (venue, topic, database)
    assert settings.rejected_topic == f"{topic}.rejected"
    assert settings.venue_dir == (settings.stack.data_path / venue if venue else settings.stack.data_path)


def test_the_defaults_are_those_of_the_contract() -> None:
    settings = load()
    assert settings.symbols == ("BTCUSDT",)
    assert settings.kafka.bootstrap == "127.0.0.1:9092"
    assert repr(settings.database) == "postgresql://candleflow@127.0.0.1:5432/candleflow"
    assert settings.dashboard.port == 8_501
    assert settings.windows.interval == "5s"
    assert load(slide_seconds=1).windows.interval == "5s/1s"


TOGETHER = [
    ({"kafka_security_protocol": "SASL_SSL", "kafka_sasl_password": "canary"}, "KAFKA_SASL_USERNAME"),
    ({"kafka_security_protocol": "SASL_SSL", "kafka_sasl_username": "me"}, "KAFKA_SASL_PASSWORD"),
    ({"kafka_sasl_username": "me", "kafka_sasl_password": "canary"}, "KAFKA_SASL_USERNAME: must be unset"),
    (
        {"kafka_security_protocol": "SSL", "kafka_sasl_password": "canary"},
        "KAFKA_SASL_PASSWORD: must be unset",
    ),
    ({"postgres_sslmode": "verify-full"}, "POSTGRES_SSLROOTCERT"),
]


@pytest.mark.parametrize(("given", "said"), TOGETHER)
def test_contradicting_tls_settings_are_named(given: dict[str, str], said: str) -> None:
    with pytest.raises(SettingError) as caught:
        load(**given)
    assert f"CANDLEFLOW_{said}" in str(caught.value)
    assert "canary" not in str(caught.value)


def test_the_address_of_kafka_carries_its_security_and_shows_no_password() -> None:
    given = {
        "kafka_security_protocol": "SASL_SSL",
        "kafka_sasl_username": "me",
        "kafka_sasl_password": "canary",
    }
    found = load(**given)
    address = found.kafka.bootstrap
    assert isinstance(address, module.KafkaAddress)
    assert (address, address.security.password) == ("127.0.0.1:9092", "canary")
    assert "canary" not in f"{address} {address!r} {address.security!r} {found!r} {describe(found)}"


def test_the_tls_settings_override_the_address() -> None:
    url = "postgresql://me@127.0.0.1:5432/mine?sslmode=disable&application_name=x"
    found = load(postgres_url=url, postgres_sslmode="require")
    assert found.database.parameters == "sslmode=require&application_name=x"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("/nowhere/ca.pem", "can't be read: No such file"),
        ("-----BEGIN CERTIFICATE-----\ncanary", "must be PEM certificates, but the text has none"),
        ("-----BEGIN PRIVATE KEY-----\ncanary", "the text has a private key"),
    ],
)
def test_an_invalid_ca_file_is_named_and_its_content_not_shown(value: str, said: str) -> None:
    with pytest.raises(SettingError, match="CANDLEFLOW_KAFKA_SSL_CA") as caught:
        load(kafka_security_protocol="SSL", kafka_ssl_ca=value)
    assert said in str(caught.value)
    assert "canary" not in str(caught.value)


ENV_FILES = [
    ("utf-8", True),
    ("utf-8-sig", True),  # Notepad, and PowerShell's Out-File
    ("utf-16", True),  # PowerShell's >
    ("utf-16-le", False),
    ("latin-1", False),
]


@pytest.mark.parametrize(("encoding", "is_read"), ENV_FILES)
def test_an_env_file_is_read_or_refused_by_its_encoding(encoding: str, *, is_read: bool) -> None:
    text = "CANDLEFLOW_SYMBOLS=ETHUSDT\r\nCANDLEFLOW_KAFKA_SASL_USERNAMES=Zoë\r\n"
    Path(".env").write_bytes(text.encode(encoding))
    if is_read:
        assert load().symbols == ("ETHUSDT",)
        assert unknown_names() == [
            "CANDLEFLOW_KAFKA_SASL_USERNAMES is not a setting; did you mean CANDLEFLOW_KAFKA_SASL_USERNAME?"
        ]
    else:
        with pytest.raises(
            SettingError, match=r"^\S+\.env is neither UTF-8 nor UTF-16 text: save it as UTF-8$"
        ):
            load()


FOLDERS = [
    # value of CANDLEFLOW_CACHE_DIR and CANDLEFLOW_DATA_DIR, the message about each
    ("/a b/josé,c\\d%&'\"", "", ""),
    ("relative", "", ""),
    ("/a:b", "must not contain ':'", ""),
    ("/a\nb", "control character", "control character"),
    ("/jos\udce9", "must be UTF-8", "must be UTF-8"),
    ("~/candles", "set HOME", "set HOME"),
    ("~no-such-user/candles", "set HOME", "set HOME"),
]


@pytest.mark.parametrize(("folder", "cache_says", "data_says"), FOLDERS)
def test_a_folder_that_a_server_cannot_use_is_named_with_its_setting(
    folder: str, cache_says: str, data_says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_entry(_: object) -> None:
        raise KeyError("a user id without a name")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", no_entry)
    settings = load(cache_dir=folder, data_dir=folder)
    for name, says in (("cache", cache_says), ("data", data_says)):
        if says:
            with pytest.raises(SettingError, match=rf"^CANDLEFLOW_{name.upper()}_DIR=.*{says}"):
                getattr(settings.stack, f"{name}_path")
        else:
            assert getattr(settings.stack, f"{name}_path") == Path(folder).absolute()


@pytest.mark.parametrize(
    ("given_settings", "page_url"),
    [
        ({"dashboard_port": 1234}, "http://localhost:1234"),
        ({"dashboard_public_url": ""}, "http://localhost:8501"),
        ({"dashboard_public_url": "https://candles.example.com:8443/"}, "https://candles.example.com:8443"),
        (
            {"dashboard_public_url": "https://a.example", "alert_page_url": "https://b.example/page"},
            "https://b.example/page",
        ),
    ],
)
def test_alerts_link_to_the_pages_public_address(given_settings: dict[str, Any], page_url: str) -> None:
    assert load(**given_settings).page_url == page_url
