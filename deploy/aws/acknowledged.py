"""What cdk-nag would have otherwise, each with the reason why it is as it is."""

from __future__ import annotations

from aws_cdk import Acknowledgment, Validations
from constructs import IConstruct


def acknowledge_lint(construct: IConstruct, rule: str, reason: str) -> None:
    """Of CloudFormation's own checks, which CDK carries out too: ``rule`` such as ``W9010``."""
    Validations.of(construct).acknowledge(
        Acknowledgment(id=f"CloudFormation-Validate::{rule}", reason=reason)
    )


def acknowledge(construct: IConstruct, rule: str, reason: str) -> None:
    """Of the pack AwsSolutions: ``rule`` such as ``EC29`` or ``IAM5[Resource::*]``."""
    Validations.of(construct).acknowledge(Acknowledgment(id=f"AwsSolutions-{rule}", reason=reason))
