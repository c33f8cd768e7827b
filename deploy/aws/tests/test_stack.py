"""The template: who may connect to whom, what is encrypted, what is kept, and that it has no secret."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aws_cdk import Stack
from aws_cdk import aws_sns as sns
from aws_cdk.assertions import Match, Template

from deploy.aws import bundle
from deploy.aws.app import STACK, make_app
from deploy.aws.kafka import cluster_id
from deploy.aws.network import SERVICES
from deploy.aws.parameters import SIZES
from deploy.aws.services import WATCHER
from deploy.aws.spark import AUTHORITIES_URL
from deploy.aws.tests.conftest import SAMPLE

LINT = Path(sys.executable).parent / "cfn-lint"
KNOWN = ("NODE_ID", "ZONE_NAME", "CLUSTER_ID", "VOLUME_ID", "BUNDLE", "AUTHORITY", "USERS", "SIGNAL")


def resources(template: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    return {name: one for name, one in template["Resources"].items() if one["Type"] == kind}


def one(template: dict[str, Any], kind: str) -> dict[str, Any]:
    (found,) = resources(template, kind).values()
    return found


@pytest.mark.parametrize("size", SIZES)
def test_the_template_is_lint_free(size: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(f"{size}_folder")
    done = subprocess.run(
        [LINT, "--format", "parseable", str(folder / f"{STACK}.template.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("size", SIZES)
def test_a_finding_without_a_reason_ends_the_synthesis(size: str, tmp_path: Path) -> None:
    """This shows that cdk-nag runs: the template of the other tests passed it when it was made."""
    app = make_app(replace(SAMPLE, size=size), str(tmp_path))
    stack = app.node.find_child(STACK)
    assert isinstance(stack, Stack)
    sns.Topic(stack, "Unexplained")
    with pytest.raises(RuntimeError, match="ValidationFailed"):
        app.synth()
    report = (tmp_path / "validation-report.json").read_text()
    assert "AwsSolutions-SNS3" in report
    assert f"{STACK}/Unexplained/Resource" in report


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
        assert len(text) < 16_000  # AWS's limit for user data


def test_the_cluster_id_is_one_of_kafkas() -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{22}", cluster_id("Candleflow"))


# Who may connect to whom -----------------------------------------------------------------------------------


def doors(template: dict[str, Any]) -> set[tuple[str, str, int]]:
    """Return source, target and port of each ingress rule between groups, by the groups' names in Network."""

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


@pytest.mark.parametrize("size", SIZES)
def test_postgres_is_encrypted_by_our_key_where_no_way_leads_out(
    size: str, request: pytest.FixtureRequest
) -> None:
    template: dict[str, Any] = request.getfixturevalue(size)
    instance = one(template, "AWS::RDS::DBInstance")["Properties"]
    (key,) = resources(template, "AWS::KMS::Key")
    assert instance["StorageEncrypted"] is True
    assert instance["KmsKeyId"] == {"Fn::GetAtt": [key, "Arn"]}
    assert instance["PubliclyAccessible"] is False
    group = one(template, "AWS::RDS::DBSubnetGroup")["Properties"]
    subnets = {subnet["Ref"] for subnet in group["SubnetIds"]}
    assert len(subnets) == 3
    led_out = {
        json.dumps(route["Properties"]["RouteTableId"])
        for route in resources(template, "AWS::EC2::Route").values()
    }
    tables = {
        json.dumps(joined["Properties"]["RouteTableId"])
        for joined in resources(template, "AWS::EC2::SubnetRouteTableAssociation").values()
        if joined["Properties"]["SubnetId"]["Ref"] in subnets
    }
    assert len(tables) == 3
    assert not tables & led_out


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


def readable(template: dict[str, Any]) -> dict[str, set[str]]:
    """Return the secrets that each role may read, both by their names in the code."""

    def name(reference: Any) -> str:
        (made,) = re.findall(
            r'"(?:Secrets|Services|Database)?([A-Za-z0-9]+?)[0-9A-F]{8}"', json.dumps(reference)
        )
        return str(made)

    found: dict[str, set[str]] = {}
    for policy in resources(template, "AWS::IAM::Policy").values():
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            if "secretsmanager:GetSecretValue" in actions or {"*", "secretsmanager:*"} & set(actions):
                for role in policy["Properties"]["Roles"]:
                    found.setdefault(name(role), set()).add(name(statement["Resource"]))
    return found


@pytest.mark.parametrize("size", SIZES)
def test_each_role_may_read_its_own_secrets_only(size: str, request: pytest.FixtureRequest) -> None:
    postgres = {
        f"Postgres{role}" for role in ("Reader", "Auditor", "Forecaster", "Alerter", "Editor", "Writer")
    }
    assert readable(request.getfixturevalue(size)) == {
        "ProducerTaskExecutionRole": {"KafkaProducer", "KafkaAuthority"},
        "DashboardTaskExecutionRole": {"PostgresReader", "PostgresEditor"},
        "AlertsTaskExecutionRole": {"PostgresAlerter", "AlertChannels"},
        "ForecasterTaskExecutionRole": {"PostgresForecaster"},
        "AuditTaskExecutionRole": {"KafkaAudit", "KafkaAuthority", "PostgresReader", "PostgresAuditor"},
        "HealthTaskExecutionRole": {"PostgresReader"},
        # The processor applies the schema, which sets every role's password (docs/guides/aws.md).
        "SparkNodeRole": {"OwnerAttachment", "KafkaProcessor", "KafkaAuthority", *postgres},
        # The first broker creates Kafka's users; the others only sign their certificates.
        "KafkaRole1": {"KafkaAuthorityKey", "KafkaProducer", "KafkaProcessor", "KafkaAudit"},
        "KafkaRole2": {"KafkaAuthorityKey"},
        "KafkaRole3": {"KafkaAuthorityKey"},
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


def test_ecs_asks_for_the_health_as_docker_does(small: dict[str, Any]) -> None:
    """ECS ignores the image's HEALTHCHECK, so the task must repeat it."""
    text = (bundle.ROOT / "Dockerfile").read_text()
    (line,) = re.findall(r"^HEALTHCHECK .*$", text, re.MULTILINE)
    wanted = {
        "Command": ["CMD", *json.loads(line.partition(" CMD ")[2])],
        "Interval": int(re.findall(r"--interval=(\d+)s", line)[0]),
        "Timeout": int(re.findall(r"--timeout=(\d+)s", line)[0]),
        "StartPeriod": int(re.findall(r"--start-period=(\d+)s", line)[0]),
        "Retries": int(re.findall(r"--retries=(\d+)", line)[0]),
    }
    found = {name: container.get("HealthCheck") for name, container in containers(small).items()}
    assert found == {name: None if name == WATCHER else wanted for name in SERVICES}


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


def test_yarn_restarts_the_driver_as_often_as_spark_asks(small: dict[str, Any]) -> None:
    cluster = one(small, "AWS::EMR::Cluster")["Properties"]
    (yarn,) = [found for found in cluster["Configurations"] if found["Classification"] == "yarn-site"]
    assert yarn["ConfigurationProperties"] == {"yarn.resourcemanager.am.max-attempts": "100"}
    step = one(small, "AWS::EMR::Step")["Properties"]
    assert step["ActionOnFailure"] == "CONTINUE"  # the cluster stays for the next step
    assert "spark.yarn.maxAppAttempts=100" in step["HadoopJarStep"]["Args"]
    assert cluster["Instances"]["KeepJobFlowAliveWhenNoSteps"] is True


def test_nodes_take_code_and_jars_from_the_stacks_own_upload(small: dict[str, Any]) -> None:
    (action,) = one(small, "AWS::EMR::Cluster")["Properties"]["BootstrapActions"]
    uploads = r"s3://cdk-hnb659fds-assets-\$\{AWS::AccountId\}-\$\{AWS::Region\}/[0-9a-f]{64}"
    script = action["ScriptBootstrapAction"]
    code, authorities = script["Args"]
    assert re.fullmatch(rf"{uploads}\.sh", script["Path"]["Fn::Sub"])
    assert re.fullmatch(rf"{uploads}\.zip", code["Fn::Sub"])
    assert authorities == AUTHORITIES_URL


# What stays, and the outputs --------------------------------------------------------------------------

DATA = (
    "AWS::EC2::Volume",
    "AWS::RDS::DBInstance",
    "AWS::SecretsManager::Secret",
    "AWS::KMS::Key",
    "AWS::S3::Bucket",
    "AWS::Cognito::UserPool",
    "AWS::Logs::LogGroup",
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


def alarm_on(template: dict[str, Any], metric: str) -> dict[str, Any]:
    (found,) = [
        alarm["Properties"]
        for alarm in resources(template, "AWS::CloudWatch::Alarm").values()
        if alarm["Properties"].get("MetricName") == metric
    ]
    return dict(found)


@pytest.mark.parametrize(("field", "seconds"), [("merged_age_seconds", 60), ("trade_age_seconds", 120)])
def test_an_alarm_looks_at_each_figure_of_the_watcher(
    small: dict[str, Any], field: str, seconds: int
) -> None:
    (figure,) = [
        found["Properties"]
        for found in resources(small, "AWS::Logs::MetricFilter").values()
        if found["Properties"]["FilterPattern"] == f'{{ $.{field} = "*" }}'
    ]
    assert f'found["{field}"]' in (bundle.HERE / "health.py").read_text()
    assert "HealthLog" in figure["LogGroupName"]["Ref"]
    (made,) = figure["MetricTransformations"]
    assert made["MetricValue"] == f"$.{field}"
    alarm = alarm_on(small, made["MetricName"])
    assert (alarm["Namespace"], alarm["Threshold"]) == (made["MetricNamespace"], seconds)
    assert alarm["ComparisonOperator"] == "GreaterThanThreshold"
    assert alarm["TreatMissingData"] == "breaching"


def test_an_alarm_says_that_no_step_runs_any_more(small: dict[str, Any]) -> None:
    """Nothing restarts it automatically: docs/guides/aws.md has the steps to do it by hand."""
    alarm = alarm_on(small, "AppsRunning")
    (cluster,) = resources(small, "AWS::EMR::Cluster")
    assert alarm["Namespace"] == "AWS/ElasticMapReduce"
    assert alarm["Dimensions"] == [{"Name": "JobFlowId", "Value": {"Ref": cluster}}]
    assert (alarm["ComparisonOperator"], alarm["Threshold"]) == ("LessThanThreshold", 1)
    assert alarm["TreatMissingData"] == "breaching"
    assert alarm["Period"] * alarm["EvaluationPeriods"] == 15 * 60


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
