"""The template as it would be deployed, made once per session without an account or network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aws_cdk.assertions import Template
from moto import mock_aws

from deploy.aws import bundle
from deploy.aws.app import STACK, make_app
from deploy.aws.parameters import Parameters

SAMPLE = Parameters(
    image="123456789012.dkr.ecr.eu-central-1.amazonaws.com/candleflow:1",
    certificate_arn="arn:aws:acm:eu-central-1:123456789012:certificate/11111111-2222-3333-4444-555555555555",
    domain="candles.example.org",
    broker_ami="ami-0123456789abcdef0",
    alarm_email="someone@example.org",
)


REGION = "eu-central-1"


def synthesize(parameters: Parameters, folder: Path) -> Path:
    """Write the template to a folder. cdk-nag raises if it has a finding that is not accepted."""
    make_app(parameters, str(folder)).synth()
    return folder


def template_in(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{STACK}.template.json").read_text())
    return found


@pytest.fixture(scope="session", autouse=True)
def _bundles() -> None:
    """Make the bundle again: an older one may be out of date."""
    bundle.bundle()


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesize(SAMPLE, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def small(small_folder: Path) -> dict[str, Any]:
    return template_in(small_folder)


@pytest.fixture(scope="session")
def large_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template of the large size with keep_data=false: everything that a parameter changes."""
    parameters = replace(SAMPLE, size="large", keep_data=False, visitors="203.0.113.0/24", alarm_email="")
    return synthesize(parameters, tmp_path_factory.mktemp("large"))


@pytest.fixture(scope="session")
def large(large_folder: Path) -> dict[str, Any]:
    return template_in(large_folder)


@pytest.fixture(scope="session")
def template(small: dict[str, Any]) -> Template:
    return Template.from_json(small)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Replace AWS by moto: nothing leaves this machine."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "made-up",
        "AWS_SECRET_ACCESS_KEY": "made-up",
        "AWS_DEFAULT_REGION": REGION,
    }.items():
        monkeypatch.setenv(name, value)
    with mock_aws():
        yield
