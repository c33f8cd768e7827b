"""Accept a finding of cdk-nag or CloudFormation's checks, with the reason."""

from __future__ import annotations

from aws_cdk import Acknowledgment, Validations
from constructs import IConstruct


def acknowledge_lint(construct: IConstruct, rule: str, reason: str) -> None:
    """Accept a finding of CloudFormation's checks, which CDK runs too; ``rule`` is such as ``W9010``."""
    Validations.of(construct).acknowledge(
        Acknowledgment(id=f"CloudFormation-Validate::{rule}", reason=reason)
    )


def acknowledge(construct: IConstruct, rule: str, reason: str) -> None:
    """Accept a finding of the pack AwsSolutions; ``rule`` is such as ``EC29`` or ``IAM5[Resource::*]``."""
    Validations.of(construct).acknowledge(Acknowledgment(id=f"AwsSolutions-{rule}", reason=reason))
