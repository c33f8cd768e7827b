"""``make aws-deploy`` and ``make aws-destroy``: build and push the image, and run CDK.

Account and region come from the environment (AWS_PROFILE, AWS_REGION, ...), as for AWS's own tools.
"""

from __future__ import annotations

import argparse
import base64
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import boto3
from botocore.exceptions import ClientError, WaiterError

from deploy.aws import bundle
from deploy.aws.parameters import ParameterError, parameters_of

STACK: Final = "Candleflow"
REPOSITORY: Final = "candleflow"
NEWEST_IMAGE: Final = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64"
MADE_HERE: Final = {
    "image": "000000000000.dkr.ecr.eu-central-1.amazonaws.com/candleflow:1",
    "broker_ami": "ami-00000000",
}
"""Placeholders for the parameters that ``deploy`` finds out itself, used to check the others first."""
_HERE: Final = Path(__file__).parent
_CDK: Final = _HERE / "node_modules" / "aws-cdk" / "bin" / "cdk"
_NPM: Final = "npm"


def ensure_repository(registry: Any) -> str:
    """Return the ECR repository's address; create the repository if needed.

    Images are scanned at each push, and tags can't be moved.
    """
    try:
        found = registry.describe_repositories(repositoryNames=[REPOSITORY])["repositories"][0]
    except registry.exceptions.RepositoryNotFoundException:
        found = registry.create_repository(
            repositoryName=REPOSITORY,
            imageTagMutability="IMMUTABLE",
            imageScanningConfiguration={"scanOnPush": True},
            encryptionConfiguration={"encryptionType": "AES256"},
        )["repository"]
    return str(found["repositoryUri"])


def broker_image(formation: Any, parameters: Any) -> str:
    """Return the machine image that the brokers have; at the first deployment, the newest one."""
    try:
        (stack,) = formation.describe_stacks(StackName=STACK)["Stacks"]
    except ClientError:
        stack = {}
    for output in stack.get("Outputs", ()):
        if output["OutputKey"] == "BrokerAmiOutput":
            return str(output["OutputValue"])
    return str(parameters.get_parameter(Name=NEWEST_IMAGE)["Parameter"]["Value"])


def push(address: str, registry: Any) -> str:
    """Build the project's image and the AWS image on it, for arm64; push it with its content hash as tag."""
    token = registry.get_authorization_token()["authorizationData"][0]
    user, _, password = base64.b64decode(token["authorizationToken"]).decode().partition(":")
    login = ["docker", "login", "--username", user, "--password-stdin", token["proxyEndpoint"]]
    subprocess.run(login, input=password, text=True, check=True)
    _run("docker", "build", "--platform", "linux/arm64", "--tag", "candleflow:aws-base", str(bundle.ROOT))
    _run(
        "docker", "build", "--platform", "linux/arm64", "--build-arg", "BASE=candleflow:aws-base",
        "--tag", "candleflow:aws", str(_HERE),
    )  # fmt: skip
    made = ["docker", "image", "inspect", "--format", "{{.Id}}", "candleflow:aws"]
    content = subprocess.run(made, check=True, capture_output=True, text=True).stdout.strip()
    image = f"{address}:{content.removeprefix('sha256:')[:20]}"
    _run("docker", "tag", "candleflow:aws", image)
    _run("docker", "push", image)
    return image


def deploy(arguments: Sequence[str]) -> None:
    check(arguments)
    registry = boto3.client("ecr")
    image = push(ensure_repository(registry), registry)
    ami = broker_image(boto3.client("cloudformation"), boto3.client("ssm"))
    _run(sys.executable.replace(".venv-aws", ".venv"), "-m", "deploy.aws.bundle", "--jars")
    _cdk("bootstrap")
    _cdk("deploy", STACK, "--require-approval", "broadening", "-c", f"image={image}",
         "-c", f"broker_ami={ami}", *arguments)  # fmt: skip


def check(arguments: Sequence[str]) -> None:
    """Exit with the reason if a parameter is wrong or missing, before anything is built or created."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-c", "--context", action="append", default=[])
    given, _ = parser.parse_known_args(arguments)
    context = {name: value for name, _, value in (pair.partition("=") for pair in given.context)}
    try:
        parameters_of((MADE_HERE | context).get)
    except ParameterError as error:
        sys.exit(str(error))


def destroy(arguments: Sequence[str]) -> None:
    """Delete the stack. Resources with data stay and are listed, unless deployed with keep_data=false."""
    if arguments:
        sys.exit(f"destroy takes no arguments, not {' '.join(arguments)}: set keep_data by deploy")
    formation = boto3.client("cloudformation")
    try:
        stays = kept(formation)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ValidationError":
            raise
        sys.exit(f"there is no stack {STACK} in this account and region")
    _say(f"{STACK} is being deleted")
    held = _delete(formation, is_data_kept=bool(stays))
    _say_list("These stay and still cost money, because they were deployed with keep_data=true:", stays)
    _say_list("These stay too, because the resources above need them:", held)
    _say(
        f"Not part of the stack, so they stay: the images of {REPOSITORY} in ECR, and CDK's stack CDKToolkit"
    )


def kept(formation: Any) -> list[str]:
    """List what stays after the stack is deleted, from the deployed template: type and AWS's name of each."""
    template = formation.get_template(StackName=STACK)["TemplateBody"]
    policies = {name: one.get("DeletionPolicy") for name, one in template["Resources"].items()}
    return [
        f"{one['ResourceType']} {one['PhysicalResourceId']}"
        for one in _resources(formation)
        if policies.get(one["LogicalResourceId"]) == "Retain"
    ]


def _delete(formation: Any, *, is_data_kept: bool) -> list[str]:
    """Delete the stack and return the resources that AWS refused to delete.

    A kept database keeps its network, which AWS then refuses to delete, so the network is retained too. Exits
    with AWS's reasons if a deletion fails although no data is kept, or if it fails again.
    """
    left: dict[str, str] = {}
    while True:
        more = {"RetainResources": sorted(left)} if left else {}
        formation.delete_stack(StackName=STACK, **more)
        try:
            formation.get_waiter("stack_delete_complete").wait(StackName=STACK)
        except WaiterError:
            failed = [one for one in _resources(formation) if one["ResourceStatus"] == "DELETE_FAILED"]
            new = [one for one in failed if one["LogicalResourceId"] not in left]
            if not (is_data_kept and new):
                reasons = [f"{one['LogicalResourceId']}: {one['ResourceStatusReason']}" for one in failed]
                sys.exit("\n  ".join([f"{STACK} was not deleted:", *reasons]))
            left |= {
                one["LogicalResourceId"]: f"{one['ResourceType']} {one['PhysicalResourceId']}" for one in new
            }
        else:
            return list(left.values())


def _resources(formation: Any) -> list[dict[str, Any]]:
    pages = formation.get_paginator("list_stack_resources").paginate(StackName=STACK)
    return [one for page in pages for one in page["StackResourceSummaries"]]


def _say_list(title: str, found: Sequence[str]) -> None:
    if found:
        _say("\n  ".join([title, *sorted(found)]))


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _cdk(*arguments: str) -> None:
    if not _CDK.exists():
        _run(_NPM, "ci", "--prefix", str(_HERE), "--ignore-scripts", "--no-audit", "--no-fund")
    app = f"{sys.executable} -m deploy.aws.app"
    node = Path(sys.executable).with_name("node")
    _run(str(node), str(_CDK), *arguments, "--app", app, "--output", "cdk.out")


def _run(*command: str) -> None:
    _say(f"$ {' '.join(command)}")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    subprocess.run(command, check=True, cwd=bundle.ROOT, env=os.environ | {"PATH": path})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("deploy", "destroy"))
    given, rest = parser.parse_known_args()
    try:
        (deploy if given.what == "deploy" else destroy)(rest)
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.cmd[0]} ended with status {error.returncode}")


if __name__ == "__main__":
    main()
