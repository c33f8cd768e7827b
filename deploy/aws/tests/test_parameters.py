"""A wrong parameter is reported by name before anything is created."""

from __future__ import annotations

import pytest

from deploy.aws.parameters import ParameterError, parameters_of
from deploy.aws.tests.conftest import SAMPLE

GIVEN = {
    "image": SAMPLE.image,
    "certificate_arn": SAMPLE.certificate_arn,
    "domain": SAMPLE.domain,
    "broker_ami": SAMPLE.broker_ami,
}


def test_defaults_fill_in_the_rest() -> None:
    found = parameters_of((GIVEN | {"multi_zone_database": "true", "log_days": "7"}).get)
    assert (found.size, found.log_days, found.is_multi_zone, found.keep_data) == ("small", 7, True, True)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ParameterError, match="certificate_arn, domain"):
        parameters_of({"image": SAMPLE.image, "broker_ami": SAMPLE.broker_ami}.get)


def test_symbols_may_be_of_any_alphabet() -> None:
    assert parameters_of((GIVEN | {"symbols": "BTCUSDT,币安人生USDT"}).get).symbols == "BTCUSDT,币安人生USDT"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", "huge"),
        ("image", "candleflow:latest"),
        ("domain", "https://candles.example.org"),
        ("broker_ami", "ami-newest"),
        ("symbols", "btcusdt"),
        ("exchange", "kraken"),
        ("log_days", "31"),
        ("keep_data", "yes"),
        ("visitors", "everybody"),
        ("alarm_email", "someone"),
    ],
)
def test_what_is_wrong_is_named(name: str, value: str) -> None:
    with pytest.raises(ParameterError, match=f"{name}='"):
        parameters_of((GIVEN | {name: value}).get)
