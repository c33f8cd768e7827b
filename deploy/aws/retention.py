"""How long logs are kept, and whether data stays when the stack is deleted."""

from __future__ import annotations

from aws_cdk import RemovalPolicy
from aws_cdk import aws_logs as logs

from deploy.aws.parameters import Parameters

_DAYS = {
    1: logs.RetentionDays.ONE_DAY,
    3: logs.RetentionDays.THREE_DAYS,
    5: logs.RetentionDays.FIVE_DAYS,
    7: logs.RetentionDays.ONE_WEEK,
    14: logs.RetentionDays.TWO_WEEKS,
    30: logs.RetentionDays.ONE_MONTH,
    60: logs.RetentionDays.TWO_MONTHS,
    90: logs.RetentionDays.THREE_MONTHS,
}


def days_kept(days: int) -> logs.RetentionDays:
    """Return CDK's constant for this number of days."""
    return _DAYS[days]


def removal(parameters: Parameters) -> RemovalPolicy:
    """Return what happens to data when its resource is removed from the stack."""
    return RemovalPolicy.RETAIN if parameters.keep_data else RemovalPolicy.DESTROY
