"""`make aws-deploy` and `make aws-destroy`, step by step.

Commands are recorded instead of run; AWS is replaced by moto or botocore's Stubber.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import boto3
import pytest
from botocore.stub import Stubber

from deploy.aws import bundle
from deploy.aws import deploy as commands
from deploy.aws.app import STACK
from deploy.aws.parameters import parameters_of
from deploy.aws.tests.conftest import REGION, SAMPLE

pytestmark = pytest.mark.usefixtures("aws")

GIVEN: Final = ["-c", f"domain={SAMPLE.domain}", "-c", f"certificate_arn={SAMPLE.certificate_arn}"]
CONTENT: Final = "ab" * 32
"""The invented id of the image that Docker built."""


class Ran(list[list[str]]):
    """The recorded commands, in order; ``typed`` is what they got on their standard input."""

    typed: str = ""

    def run(self, command: Sequence[str], **how: Any) -> subprocess.CompletedProcess[str]:
        self.append([*command])
        self.typed += how.get("input") or ""
        return subprocess.CompletedProcess(command, 0, stdout=f"sha256:{CONTENT}\n")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Ran:
    found = Ran()
    monkeypatch.setattr(subprocess, "run", found.run)
    return found


@pytest.fixture
def cdk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return where CDK's command is once npm has installed it."""
    monkeypatch.setattr(commands, "_CDK", tmp_path / "cdk")
    return tmp_path / "cdk"


def by_cdk(cdk: Path, *words: str) -> list[str]:
    """Return CDK's command with these arguments, as run by the Node.js of the environment."""
    here = f"{sys.executable} -m deploy.aws.app"
    node = str(Path(sys.executable).with_name("node"))
    return [node, str(cdk), *words, "--app", here, "--output", "cdk.out"]


# Deploy ------------------------------------------------------------------------------------------------


def test_deploy_builds_pushes_bundles_and_calls_cdk(ran: Ran, cdk: Path) -> None:
    cdk.touch()
    commands.deploy([*GIVEN, "-c", "size=large"])
    registry = f"123456789012.dkr.ecr.{REGION}.amazonaws.com"
    image = f"{registry}/candleflow:{CONTENT[:20]}"
    for_arm = ["docker", "build", "--platform", "linux/arm64"]
    (ami,) = [word for word in ran[-1] if word.startswith("broker_ami=")]
    assert ran == [
        ["docker", "login", "--username", "AWS", "--password-stdin", f"https://{registry}"],
        [*for_arm, "--tag", "candleflow:aws-base", str(bundle.ROOT)],
        [*for_arm, "--build-arg", "BASE=candleflow:aws-base", "--tag", "candleflow:aws", str(bundle.HERE)],
        ["docker", "image", "inspect", "--format", "{{.Id}}", "candleflow:aws"],
        ["docker", "tag", "candleflow:aws", image],
        ["docker", "push", image],
        [sys.executable.replace(".venv-aws", ".venv"), "-m", "deploy.aws.bundle", "--jars"],
        by_cdk(cdk, "bootstrap"),
        by_cdk(
            cdk, "deploy", STACK, "--require-approval", "broadening",
            "-c", f"image={image}", "-c", ami, *GIVEN, "-c", "size=large",
        ),
    ]  # fmt: skip
    context = dict(word.split("=", 1) for before, word in pairwise(ran[-1]) if before == "-c")
    assert parameters_of(context.get).sizes.partitions == 12


def test_the_registrys_password_is_in_no_command(ran: Ran, cdk: Path) -> None:
    cdk.touch()
    commands.deploy(GIVEN)
    assert ran.typed
    assert not [word for command in ran for word in command if ran.typed in word]


def test_cdk_is_brought_by_its_lock_where_it_is_not_there(ran: Ran, cdk: Path) -> None:
    commands.deploy(GIVEN)
    installs = [number for number, command in enumerate(ran) if command[0] == "npm"]
    assert ran[installs[0]][1:4] == ["ci", "--prefix", str(bundle.HERE)]
    assert "--ignore-scripts" in ran[installs[0]]
    assert ran[installs[0] + 1] == by_cdk(cdk, "bootstrap")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "parameters are missing: certificate_arn, domain"),
        ([*GIVEN, "-c", "size=huge"], "size='huge': must be small or large"),
        ([*GIVEN, "--context", "log_days=31"], "log_days='31': must be one of 1, 3"),
        ([*GIVEN, "--context=symbols=btcusdt"], "symbols='btcusdt': must be names"),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_is_made(
    ran: Ran, arguments: list[str], words: str
) -> None:
    with pytest.raises(SystemExit, match=words):
        commands.deploy(arguments)
    assert ran == []
    assert boto3.client("ecr").describe_repositories()["repositories"] == []


def test_a_command_that_fails_ends_it_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(command: list[str], **_: Any) -> None:
        raise subprocess.CalledProcessError(17, command)

    monkeypatch.setattr(subprocess, "run", fail)
    monkeypatch.setattr(sys, "argv", ["deploy", "deploy", *GIVEN])
    with pytest.raises(SystemExit, match=r"^docker ended with status 17$"):
        commands.main()


# Destroy -----------------------------------------------------------------------------------------------


def test_destroy_names_what_stays(capsys: pytest.CaptureFixture[str]) -> None:
    records = {"Type": "AWS::S3::Bucket", "DeletionPolicy": "Retain", "Properties": {"BucketName": "records"}}
    passing = {"Type": "AWS::S3::Bucket", "DeletionPolicy": "Delete", "Properties": {"BucketName": "passing"}}
    formation = boto3.client("cloudformation")
    template = {"Resources": {"Records": records, "Passing": passing}}
    formation.create_stack(StackName=STACK, TemplateBody=json.dumps(template))
    commands.destroy([])
    assert capsys.readouterr().out.splitlines() == [
        "Candleflow is being deleted",
        "These stay and still cost money, because they were deployed with keep_data=true:",
        "  AWS::S3::Bucket records",
        "Not part of the stack, so they stay: the images of candleflow in ECR, and CDK's stack CDKToolkit",
    ]
    assert formation.describe_stacks()["Stacks"] == []


def test_destroy_refuses_what_it_does_not_understand() -> None:
    with pytest.raises(SystemExit, match="destroy takes no arguments, not -c keep_data=false"):
        commands.destroy(["-c", "keep_data=false"])


def test_destroy_says_that_there_is_nothing() -> None:
    with pytest.raises(SystemExit, match="there is no stack Candleflow in this account and region"):
        commands.destroy([])


@pytest.fixture
def formation(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubber]:
    """A CloudFormation client that gives only the answers that a test adds, in that order."""
    client = boto3.client("cloudformation")
    monkeypatch.setattr(boto3, "client", lambda _: client)
    with Stubber(client) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


def has(formation: Stubber, template: dict[str, Any], failed: dict[str, str] | None = None) -> None:
    """Expect a query for the stack's resources; those in ``failed`` could not be deleted, with the reason."""
    reasons = failed or {}
    formation.add_response(
        "list_stack_resources",
        {
            "StackResourceSummaries": [
                {
                    "LogicalResourceId": name,
                    "PhysicalResourceId": f"{name}-1",
                    "ResourceType": one["Type"],
                    "ResourceStatus": "DELETE_FAILED" if name in reasons else "CREATE_COMPLETE",
                    "ResourceStatusReason": reasons.get(name, ""),
                    "LastUpdatedTimestamp": "2026-11-29T00:00:00Z",
                }
                for name, one in template["Resources"].items()
            ]
        },
        {"StackName": STACK},
    )


def ends(formation: Stubber, status: str, **more: Any) -> None:
    """Expect a deletion that ends with this status."""
    formation.add_response("delete_stack", {}, {"StackName": STACK, **more})
    stack = {"StackName": STACK, "StackStatus": status, "CreationTime": "2026-11-29T00:00:00Z"}
    formation.add_response("describe_stacks", {"Stacks": [stack]}, {"StackName": STACK})


def was_deployed(formation: Stubber, template: dict[str, Any]) -> None:
    formation.add_response("get_template", {"TemplateBody": json.dumps(template)}, {"StackName": STACK})
    has(formation, template)


def test_all_that_the_template_keeps_is_named(
    formation: Stubber, small: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    was_deployed(formation, small)
    ends(formation, "DELETE_COMPLETE")
    commands.destroy([])
    named = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert {kind: named.count(kind) for kind in named} == {
        "AWS::Cognito::UserPool": 1,
        "AWS::EC2::Volume": 3,
        "AWS::KMS::Key": 1,
        "AWS::Logs::LogGroup": 7,
        "AWS::RDS::DBInstance": 1,
        "AWS::RDS::DBSubnetGroup": 1,
        "AWS::S3::Bucket": 1,
        "AWS::SecretsManager::Secret": 13,
    }


def test_without_kept_data_nothing_stays(
    formation: Stubber, large: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    was_deployed(formation, large)
    ends(formation, "DELETE_COMPLETE")
    commands.destroy([])
    assert "These stay" not in capsys.readouterr().out


def test_the_network_that_kept_data_stand_in_stays_with_them(
    formation: Stubber, capsys: pytest.CaptureFixture[str]
) -> None:
    database = {"Type": "AWS::RDS::DBInstance", "DeletionPolicy": "Retain"}
    template = {
        "Resources": {"Db": database, "Net": {"Type": "AWS::EC2::Subnet"}, "Vpc": {"Type": "AWS::EC2::VPC"}}
    }
    was_deployed(formation, template)
    ends(formation, "DELETE_FAILED")
    has(formation, template, {"Net": "has dependencies"})
    ends(formation, "DELETE_FAILED", RetainResources=["Net"])
    has(formation, template, {"Net": "has dependencies", "Vpc": "has dependencies"})
    ends(formation, "DELETE_COMPLETE", RetainResources=["Net", "Vpc"])
    commands.destroy([])
    out = capsys.readouterr().out
    assert "the resources above need them:\n  AWS::EC2::Subnet Net-1\n  AWS::EC2::VPC Vpc-1\n" in out


@pytest.mark.parametrize("policy", ["Delete", "Retain"])
def test_what_will_not_go_is_named_with_the_reason(formation: Stubber, policy: str) -> None:
    template = {
        "Resources": {
            "Db": {"Type": "AWS::RDS::DBInstance", "DeletionPolicy": policy},
            "Net": {"Type": "AWS::EC2::Subnet"},
        }
    }
    was_deployed(formation, template)
    ends(formation, "DELETE_FAILED")
    has(formation, template, {"Net": "has dependencies"})
    if policy == "Retain":  # it was retained once, and the deletion still fails
        ends(formation, "DELETE_FAILED", RetainResources=["Net"])
        has(formation, template, {"Net": "has dependencies"})
    with pytest.raises(SystemExit, match="Candleflow was not deleted:\n  Net: has dependencies"):
        commands.destroy([])
