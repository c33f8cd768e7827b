"""What the template promises: who may speak to whom, what is encrypted, what is kept, and no secret
anywhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aws_cdk.assertions import Match, Template

from deploy.aws.app import STACK
from deploy.aws.kafka import cluster_id
from deploy.aws.network import SERVICES

LINT = Path(sys.executable).parent / "cfn-lint"
KNOWN = ("NODE_ID", "ZONE_NAME", "CLUSTER_ID", "VOLUME_ID", "BUNDLE", "AUTHORITY", "USERS", "SIGNAL")


def resources(template: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    return {name: one for name, one in template["Resources"].items() if one["Type"] == kind}


def one(template: dict[str, Any], kind: str) -> dict[str, Any]:
    (found,) = resources(template, kind).values()
    return found


def test_the_template_is_lint_free(small_folder: Path) -> None:
    done = subprocess.run(
        [LINT, "--format", "parseable", str(small_folder / f"{STACK}.template.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_it_fits_any_account_and_region(small: dict[str, Any]) -> None:
    text = json.dumps(small)
    image = "123456789012.dkr.ecr.eu-central-1"
    certificate = "arn:aws:acm:eu-central-1:123456789012"
    assert "123456789012" not in text.replace(image, "").replace(certificate, "").replace(
        "arn:aws:ecr:eu-central-1:123456789012:repository/candleflow", ""
    )


# Kafka -------------------------------------------------------------------------------------------------


def test_three_brokers_stand_in_three_zones(small: dict[str, Any]) -> None:
    brokers = resources(small, "AWS::EC2::Instance").values()
    zones = [json.dumps(broker["Properties"]["AvailabilityZone"]) for broker in brokers]
    assert len(zones) == len(set(zones)) == 3


def test_brokers_are_changed_one_after_another(small: dict[str, Any]) -> None:
    brokers = resources(small, "AWS::EC2::Instance")
    first, second, third = sorted(brokers)
    assert first in brokers[second]["DependsOn"]
    assert second in brokers[third]["DependsOn"]


def test_every_disk_is_encrypted_and_fast_enough(small: dict[str, Any]) -> None:
    disks = [disk["Properties"] for disk in resources(small, "AWS::EC2::Volume").values()]
    roots = [
        mapping["Ebs"]
        for broker in resources(small, "AWS::EC2::Instance").values()
        for mapping in broker["Properties"]["BlockDeviceMappings"]
    ]
    assert len(disks) == len(roots) == 3
    assert all(disk["Encrypted"] and disk["VolumeType"] == "gp3" for disk in [*disks, *roots])


def test_a_broker_takes_its_token_by_imds_v2_only(template: Template) -> None:
    template.has_resource_properties(
        "AWS::EC2::LaunchTemplate",
        {"LaunchTemplateData": {"MetadataOptions": Match.object_like({"HttpTokens": "required"})}},
    )


def test_a_broker_on_failed_hardware_is_recovered(small: dict[str, Any]) -> None:
    alarms = [
        alarm["Properties"]
        for alarm in resources(small, "AWS::CloudWatch::Alarm").values()
        if alarm["Properties"].get("MetricName") == "StatusCheckFailed_System"
    ]
    assert len(alarms) == 3
    assert all("ec2:recover" in json.dumps(alarm["AlarmActions"]) for alarm in alarms)


def test_user_data_is_the_file_and_holds_no_secret(small: dict[str, Any]) -> None:
    for broker in resources(small, "AWS::EC2::Instance").values():
        text = json.dumps(broker["Properties"]["UserData"])
        assert "Makes this machine one of the three brokers" in text
        assert "resolve:secretsmanager" not in text
        assert all(f"{name}='" in text for name in KNOWN)
        assert len(text) < 16_000  # what AWS takes


def test_the_cluster_id_is_one_of_kafkas() -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{22}", cluster_id("Candleflow"))


# Who may speak to whom -----------------------------------------------------------------------------------


def doors(template: dict[str, Any]) -> set[tuple[str, str, int]]:
    """Source, target and port of each way in between groups, by the groups' names in the network."""

    def name(reference: Any) -> str:
        (made,) = re.findall(r"Network([A-Za-z]+)[0-9A-F]{8}", json.dumps(reference))
        return str(made)

    return {
        (name(rule["SourceSecurityGroupId"]), name(rule["GroupId"]), rule.get("FromPort", 0))
        for rule in (
            found["Properties"] for found in resources(template, "AWS::EC2::SecurityGroupIngress").values()
        )
    }


def test_only_what_the_flow_needs_is_let_in(small: dict[str, Any]) -> None:
    assert doors(small) == {
        *((program, "Brokers", 9094) for program in ("Producer", "Audit", "Spark")),
        ("Brokers", "Brokers", 9092),
        ("Brokers", "Brokers", 9093),
        *(
            (program, "Database", 5432)
            for program in ("Spark", "Dashboard", "Alerts", "Forecaster", "Audit", "Health")
        ),
        ("Balancer", "Dashboard", 8501),
        ("Spark", "Spark", 0),
        ("Spark", "SparkAccess", 9443),
        ("SparkAccess", "Spark", 8443),
    }


def test_from_outside_only_https_to_the_balancer(small: dict[str, Any], large: dict[str, Any]) -> None:
    for template, visitors in ((small, "0.0.0.0/0"), (large, "203.0.113.0/24")):
        rules = [
            rule
            for group in resources(template, "AWS::EC2::SecurityGroup").values()
            for rule in group["Properties"].get("SecurityGroupIngress", ())
        ]
        assert [(rule["CidrIp"], rule["FromPort"]) for rule in rules] == [(visitors, 443)]


def test_nothing_but_the_balancer_has_a_public_address(small: dict[str, Any]) -> None:
    for service in resources(small, "AWS::ECS::Service").values():
        configuration = service["Properties"]["NetworkConfiguration"]["AwsvpcConfiguration"]
        assert configuration["AssignPublicIp"] == "DISABLED"
    for subnet in resources(small, "AWS::EC2::Subnet").values():
        assert subnet["Properties"]["MapPublicIpOnLaunch"] is False


# PostgreSQL --------------------------------------------------------------------------------------------


def test_postgres_takes_tls_only_and_is_private(template: Template) -> None:
    template.has_resource_properties(
        "AWS::RDS::DBParameterGroup", {"Parameters": Match.object_like({"rds.force_ssl": "1"})}
    )
    template.has_resource_properties(
        "AWS::RDS::DBInstance", {"StorageEncrypted": True, "PubliclyAccessible": False, "MultiAZ": False}
    )


def test_the_large_size_has_a_standby(large: dict[str, Any]) -> None:
    assert one(large, "AWS::RDS::DBInstance")["Properties"]["MultiAZ"] is True


# The services ------------------------------------------------------------------------------------------


def containers(template: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = {}
    for task in resources(template, "AWS::ECS::TaskDefinition").values():
        (container,) = task["Properties"]["ContainerDefinitions"]
        found[container["Name"]] = container
    return found


def test_each_service_runs_its_command(small: dict[str, Any]) -> None:
    found = containers(small)
    assert found.keys() == set(SERVICES)
    for name in set(SERVICES) - {"health"}:
        assert found[name]["Command"] == ["python", "-m", "candleflow", name]


def test_each_service_has_its_own_passwords_only(small: dict[str, Any]) -> None:
    found = {
        name: {secret["Name"].removeprefix("CANDLEFLOW_") for secret in container.get("Secrets", ())}
        for name, container in containers(small).items()
    }
    kafka = {"KAFKA_SASL_PASSWORD", "KAFKA_SSL_CA"}
    assert found == {
        "producer": kafka,
        "dashboard": {"POSTGRES_READER_PASSWORD", "POSTGRES_EDITOR_PASSWORD"},
        "alerts": {"POSTGRES_ALERTER_PASSWORD", "ALERT_CHANNELS"},
        "forecaster": {"POSTGRES_FORECASTER_PASSWORD"},
        "audit": kafka | {"POSTGRES_READER_PASSWORD", "POSTGRES_AUDITOR_PASSWORD"},
        "health": {"POSTGRES_READER_PASSWORD"},
    }


def test_no_setting_is_a_secret(small: dict[str, Any]) -> None:
    for container in containers(small).values():
        names = {setting["Name"] for setting in container["Environment"]}
        assert not {name for name in names if "PASSWORD" in name or "CHANNELS" in name}


def test_a_task_may_do_nothing_in_aws(small: dict[str, Any]) -> None:
    of_tasks = {
        task["Properties"]["TaskRoleArn"]["Fn::GetAtt"][0]
        for task in resources(small, "AWS::ECS::TaskDefinition").values()
    }
    assert len(of_tasks) == len(SERVICES)
    for policy in resources(small, "AWS::IAM::Policy").values():
        assert not of_tasks & {role["Ref"] for role in policy["Properties"]["Roles"]}
    assert all("ManagedPolicyArns" not in small["Resources"][role]["Properties"] for role in of_tasks)


def test_the_page_is_https_with_a_log_in(small: dict[str, Any]) -> None:
    listener = one(small, "AWS::ElasticLoadBalancingV2::Listener")["Properties"]
    assert (listener["Protocol"], listener["Port"]) == ("HTTPS", 443)
    actions = sorted(listener["DefaultActions"], key=lambda action: action["Order"])
    assert [action["Type"] for action in actions] == ["authenticate-cognito", "forward"]
    pool = one(small, "AWS::Cognito::UserPool")["Properties"]
    assert pool["AdminCreateUserConfig"]["AllowAdminCreateUserOnly"] is True
    assert pool["MfaConfiguration"] == "ON"


def test_only_one_producer_runs_at_a_time(small: dict[str, Any]) -> None:
    for name, service in resources(small, "AWS::ECS::Service").items():
        if "Producer" in name:
            properties = service["Properties"]
            assert properties["DesiredCount"] == 1
            assert properties["DeploymentConfiguration"]["MaximumPercent"] == 100


# Spark -------------------------------------------------------------------------------------------------


def test_the_step_submits_the_processor_without_a_secret(small: dict[str, Any]) -> None:
    arguments = one(small, "AWS::EMR::Step")["Properties"]["HadoopJarStep"]["Args"]
    texts = [argument for argument in arguments if isinstance(argument, str)]
    assert texts[:5] == ["spark-submit", "--master", "yarn", "--deploy-mode", "cluster"]
    assert "spark.yarn.maxAppAttempts=100" in texts
    assert "resolve:secretsmanager" not in json.dumps(arguments)
    assert one(small, "AWS::EMR::Cluster")["Properties"]["ReleaseLabel"] == "emr-spark-8.0.0"


# What stays, and what is told --------------------------------------------------------------------------

DATA = (
    "AWS::EC2::Volume",
    "AWS::RDS::DBInstance",
    "AWS::SecretsManager::Secret",
    "AWS::KMS::Key",
    "AWS::S3::Bucket",
    "AWS::Cognito::UserPool",
)


@pytest.mark.parametrize("kind", DATA)
def test_data_outlives_the_stack_unless_asked(
    small: dict[str, Any], large: dict[str, Any], kind: str
) -> None:
    kept = {one.get("DeletionPolicy") for one in resources(small, kind).values()}
    gone = {one.get("DeletionPolicy") for one in resources(large, kind).values()}
    assert kept == {"Retain"}
    assert gone == {"Delete"}


def test_every_alarm_goes_to_the_topic(small: dict[str, Any]) -> None:
    (topic,) = resources(small, "AWS::SNS::Topic")
    alarms = resources(small, "AWS::CloudWatch::Alarm")
    assert all({"Ref": topic} in alarm["Properties"]["AlarmActions"] for alarm in alarms.values())
    names = " ".join(alarms)
    for what in ("Lag", "NoTrades", "ProducerTasks", "PageUnhealthy", "Disk", "Credit", "ProcessorRuns"):
        assert what in names
    assert one(small, "AWS::SNS::Subscription")["Properties"]["Endpoint"] == "someone@example.org"


def test_the_large_size_has_no_credits_to_watch(large: dict[str, Any]) -> None:
    assert not [name for name in resources(large, "AWS::CloudWatch::Alarm") if "Credit" in name]


def test_every_acknowledged_rule_has_a_reason(small: dict[str, Any]) -> None:
    reasons = [
        rule["reason"]
        for found in small["Resources"].values()
        for rule in found.get("Metadata", {}).get("cdk_nag", {}).get("rules_to_suppress", ())
    ]
    assert len(reasons) > 10
    assert all(len(reason) > 30 for reason in reasons)
