"""How long things are kept: logs, and data when the stack goes."""

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
    """CDK's name for so many days."""
    return _DAYS[days]


def removal(parameters: Parameters) -> RemovalPolicy:
    """What becomes of data when its resource leaves the stack."""
    return RemovalPolicy.RETAIN if parameters.keep_data else RemovalPolicy.DESTROY
