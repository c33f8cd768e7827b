"""Create the template's resources with moto, which checks references, order and properties.

Types that moto can't create are left out; docs/guides/aws.md says what is not tested because of that.
"""

from __future__ import annotations

import json
from typing import Any, Final

import boto3
import pytest

from deploy.aws.deploy import broker_image, ensure_repository
from deploy.aws.tests.conftest import REGION

pytestmark = pytest.mark.usefixtures("aws")
LEFT_OUT: Final = {
    # moto 5.2.5 does not support these in CloudFormation.
    "AWS::CloudFormation::WaitCondition",
    "AWS::CloudFormation::WaitConditionHandle",
    "AWS::CloudWatch::Alarm",
    "AWS::Cognito::UserPool",
    "AWS::Cognito::UserPoolClient",
    "AWS::Cognito::UserPoolDomain",
    "AWS::EC2::SecurityGroupEgress",
    "AWS::EMR::Step",
    "AWS::Logs::MetricFilter",
    "AWS::S3::BucketPolicy",
    "AWS::SNS::Subscription",
    "AWS::SNS::TopicPolicy",
    "AWS::SecretsManager::Secret",
    "AWS::SecretsManager::SecretTargetAttachment",
    # moto fails on a parameter group that is created in the same template.
    "AWS::RDS::DBInstance",
    # The listener needs the certificate and Cognito's pool.
    "AWS::ElasticLoadBalancingV2::Listener",
}
_ARN: Final = f"arn:aws:secretsmanager:{REGION}:123456789012:secret:"


def without(template: dict[str, Any], kinds: set[str]) -> dict[str, Any]:
    """Return the template without resources of these types; references to them become an invented ARN."""
    gone = {name for name, one in template["Resources"].items() if one["Type"] in kinds}

    def with_arns(value: Any) -> Any:
        if isinstance(value, list):
            return [with_arns(one) for one in value if not (isinstance(one, str) and one in gone)]
        if not isinstance(value, dict):
            return value
        if value.keys() == {"Ref"} and value["Ref"] in gone:
            return f"{_ARN}{value['Ref']}"
        if value.keys() == {"Fn::GetAtt"} and value["Fn::GetAtt"][0] in gone:
            return f"{_ARN}{value['Fn::GetAtt'][0]}"
        return {key: with_arns(one) for key, one in value.items()}

    kept = {name: one for name, one in template["Resources"].items() if name not in gone}
    found: dict[str, Any] = with_arns({**template, "Resources": kept})
    for one in found["Resources"].values():
        if one["Type"] == "AWS::KMS::Key":
            one["Properties"].pop("Tags")  # moto expects the API's form of tags, not CloudFormation's
    return found


def test_the_rest_of_the_template_is_made(small: dict[str, Any]) -> None:
    boto3.client("ssm").put_parameter(Name="/cdk-bootstrap/hnb659fds/version", Value="30", Type="String")
    store = boto3.client("s3")
    store.create_bucket(Bucket="templates", CreateBucketConfiguration={"LocationConstraint": REGION})
    wanted = without(small, LEFT_OUT)
    store.put_object(Bucket="templates", Key="one", Body=json.dumps(wanted))
    formation = boto3.client("cloudformation")
    formation.create_stack(
        StackName="Candleflow",
        TemplateURL=f"https://templates.s3.{REGION}.amazonaws.com/one",
        Capabilities=["CAPABILITY_IAM"],
    )
    (stack,) = formation.describe_stacks(StackName="Candleflow")["Stacks"]
    pages = formation.get_paginator("list_stack_resources").paginate(StackName="Candleflow")
    made = {one["LogicalResourceId"] for page in pages for one in page["StackResourceSummaries"]}
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    # moto lists an e-mail subscription without its name.
    named = {name for name, one in wanted["Resources"].items() if one["Type"] != "AWS::SNS::Subscription"}
    assert made - {""} == named
    assert len(made) > 100


def test_the_repository_is_made_once_with_tags_that_stay() -> None:
    registry = boto3.client("ecr")
    address = ensure_repository(registry)
    assert ensure_repository(registry) == address
    (found,) = registry.describe_repositories()["repositories"]
    assert found["imageTagMutability"] == "IMMUTABLE"
    assert address == f"123456789012.dkr.ecr.{REGION}.amazonaws.com/candleflow"


def test_the_brokers_keep_the_image_they_have() -> None:
    formation = boto3.client("cloudformation")
    newest = broker_image(formation, boto3.client("ssm"))
    assert newest.startswith("ami-")
    template = {
        "Resources": {"Topic": {"Type": "AWS::SNS::Topic"}},
        "Outputs": {"BrokerAmiOutput": {"Value": "ami-0123456789abcdef0"}},
    }
    formation.create_stack(StackName="Candleflow", TemplateBody=json.dumps(template))
    assert broker_image(formation, boto3.client("ssm")) == "ami-0123456789abcdef0"
