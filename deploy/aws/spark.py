"""Spark on EMR: a cluster in the private subnets, and the step that runs the processor without end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from aws_cdk import Aws
from aws_cdk import aws_emr as emr
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_s3_assets as assets
from constructs import Construct

from deploy.aws.acknowledged import acknowledge
from deploy.aws.bundle import SPARK, SPARK_LOCK
from deploy.aws.network import Network
from deploy.aws.parameters import Parameters

RELEASE: Final = "emr-spark-8.0.0"
"""Spark 4.0.2 on Java 17, with Python 3.11; standard support until 2027-05-20 (AWS's release notes)."""
HOME_DIR: Final = "/opt/candleflow"
AUTHORITIES_URL: Final = "https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem"
_BOOTSTRAP: Final = Path(__file__).parent / "emr" / "bootstrap.sh"
ATTEMPTS: Final = 100
"""How often YARN restarts the driver within an hour. The driver resumes at PostgreSQL's offsets."""


class SparkCluster(Construct):
    """The cluster and the processor's step.

    ``environment`` has the processor's settings; ``secrets`` maps its secret settings to ARNs.
    """

    def __init__(
        self,
        scope: Construct,
        name: str,
        network: Network,
        parameters: Parameters,
        key: kms.IKey,
        logs: s3.IBucket,
        environment: Mapping[str, str],
        secrets: Mapping[str, str],
    ) -> None:
        super().__init__(scope, name)
        self._parameters = parameters
        self._key = key
        self._logs = logs
        self.bundle = assets.Asset(self, "Bundle", path=str(SPARK))
        bootstrap = assets.Asset(self, "Bootstrap", path=str(_BOOTSTRAP))
        self.node_role = self._node_role(bootstrap)
        profile = iam.CfnInstanceProfile(self, "Profile", roles=[self.node_role.role_name])
        self.cluster = emr.CfnCluster(
            self,
            "Cluster",
            name="candleflow",
            release_label=RELEASE,
            applications=[emr.CfnCluster.ApplicationProperty(name="Spark")],
            service_role=self._service_role(network).role_arn,
            job_flow_role=profile.ref,
            visible_to_all_users=True,
            log_uri=f"s3://{logs.bucket_name}/emr/",
            security_configuration=self._security().ref,
            instances=self._instances(network),
            bootstrap_actions=[
                emr.CfnCluster.BootstrapActionConfigProperty(
                    name="candleflow",
                    script_bootstrap_action=emr.CfnCluster.ScriptBootstrapActionConfigProperty(
                        path=bootstrap.s3_object_url, args=[self.bundle.s3_object_url, AUTHORITIES_URL]
                    ),
                )
            ],
            configurations=_configurations(),
            ebs_root_volume_size=32,
        )
        self._explain()
        self.step = emr.CfnStep(
            self,
            "Processor",
            name="processor",
            job_flow_id=self.cluster.ref,
            action_on_failure="CONTINUE",
            hadoop_jar_step=emr.CfnStep.HadoopJarStepConfigProperty(
                jar="command-runner.jar", args=submission(parameters, environment, secrets)
            ),
        )

    def _explain(self) -> None:
        for rule, reason in {
            "EMR4": "Local disks are encrypted; the rule doesn't look into EncryptionConfiguration.",
            "EMR5": "Spark encrypts its traffic by spark.network.crypto; Kafka and PostgreSQL use TLS.",
            "EMR6": "There is no log-in to a node: no key pair, and no open SSH port.",
        }.items():
            acknowledge(self.cluster, rule, reason)

    def _instances(self, network: Network) -> emr.CfnCluster.JobFlowInstancesConfigProperty:
        size = self._parameters.sizes
        return emr.CfnCluster.JobFlowInstancesConfigProperty(
            ec2_subnet_id=network.vpc.private_subnets[0].subnet_id,
            emr_managed_master_security_group=network.spark.security_group_id,
            emr_managed_slave_security_group=network.spark.security_group_id,
            service_access_security_group=network.spark_access.security_group_id,
            keep_job_flow_alive_when_no_steps=True,
            termination_protected=False,
            unhealthy_node_replacement=True,
            master_instance_group=_group("master", size.spark_master_type, 1),
            core_instance_group=_group("core", size.spark_core_type, size.spark_cores),
        )

    def _security(self) -> emr.CfnSecurityConfiguration:
        return emr.CfnSecurityConfiguration(
            self,
            "Security",
            security_configuration={
                "EncryptionConfiguration": {
                    "EnableInTransitEncryption": False,
                    "EnableAtRestEncryption": True,
                    "AtRestEncryptionConfiguration": {
                        "S3EncryptionConfiguration": {"EncryptionMode": "SSE-S3"},
                        "LocalDiskEncryptionConfiguration": {
                            "EncryptionKeyProviderType": "AwsKms",
                            "AwsKmsKey": self._key.key_arn,
                            "EnableEbsEncryption": True,
                        },
                    },
                },
                "InstanceMetadataServiceConfiguration": {
                    "MinimumInstanceMetadataServiceVersion": 2,
                    "HttpPutResponseHopLimit": 1,
                },
            },
        )

    def _service_role(self, network: Network) -> iam.Role:
        role = iam.Role(
            self,
            "ServiceRole",
            assumed_by=iam.ServicePrincipal(
                "elasticmapreduce.amazonaws.com",
                conditions={"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}},
            ),
            managed_policies=[
                iam.ManagedPolicy.from_aws_managed_policy_name("service-role/AmazonEMRServicePolicy_v2")
            ],
        )
        acknowledge(
            role,
            "IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/service-role/AmazonEMRServicePolicy_v2]",
            "AWS's own policy for EMR, restricted to resources with its tag.",
        )
        role.add_to_policy(iam.PolicyStatement(actions=["iam:PassRole"], resources=[self.node_role.role_arn]))
        self._key.grant_encrypt_decrypt(role)
        self._key.grant(role, "kms:CreateGrant", "kms:DescribeKey")
        for rule in ("IAM5[Action::kms:GenerateDataKey*]", "IAM5[Action::kms:ReEncrypt*]"):
            acknowledge(role, rule, "As CDK grants the use of one key, for the nodes' disks.")
        return role

    def _node_role(self, bootstrap: assets.Asset) -> iam.Role:
        """Make a node's role, which may read the code and write logs. The stack grants the passwords."""
        role = iam.Role(self, "NodeRole", assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"))
        self.bundle.grant_read(role)
        bootstrap.grant_read(role)
        self._logs.grant_put(role, "emr/*")
        self._key.grant_encrypt_decrypt(role)
        for rule in (
            "IAM5[Action::s3:GetBucket*]",
            "IAM5[Action::s3:GetObject*]",
            "IAM5[Action::s3:List*]",
            "IAM5[Action::s3:Abort*]",
            "IAM5[Resource::arn:<AWS::Partition>:s3:::cdk-hnb659fds-assets-<AWS::AccountId>-<AWS::Region>/*]",
            "IAM5[Resource::<Logs6819BB44.Arn>/emr/*]",
            "IAM5[Action::kms:GenerateDataKey*]",
            "IAM5[Action::kms:ReEncrypt*]",
        ):
            acknowledge(role, rule, "As CDK grants reading its own upload, writing logs and using one key.")
        return role


def _group(name: str, instance_type: str, count: int) -> emr.CfnCluster.InstanceGroupConfigProperty:
    disk = emr.CfnCluster.VolumeSpecificationProperty(volume_type="gp3", size_in_gb=64)
    return emr.CfnCluster.InstanceGroupConfigProperty(
        name=name,
        instance_type=instance_type,
        instance_count=count,
        market="ON_DEMAND",
        ebs_configuration=emr.CfnCluster.EbsConfigurationProperty(
            ebs_optimized=True,
            ebs_block_device_configs=[
                emr.CfnCluster.EbsBlockDeviceConfigProperty(volume_specification=disk, volumes_per_instance=1)
            ],
        ),
    )


def _configurations() -> list[emr.CfnCluster.ConfigurationProperty]:
    return [
        emr.CfnCluster.ConfigurationProperty(
            classification="yarn-site",
            configuration_properties={"yarn.resourcemanager.am.max-attempts": str(ATTEMPTS)},
        )
    ]


def submission(
    parameters: Parameters, environment: Mapping[str, str], secrets: Mapping[str, str]
) -> list[str]:
    """Return spark-submit's arguments. The driver runs on the cluster, so that YARN can restart it."""
    size = parameters.sizes
    configuration = {
        "spark.pyspark.python": f"{HOME_DIR}/venv/bin/python",
        "spark.yarn.appMasterEnv.PYTHONPATH": HOME_DIR,
        "spark.yarn.maxAppAttempts": str(ATTEMPTS),
        "spark.yarn.am.attemptFailuresValidityInterval": "1h",
        "spark.yarn.executor.failuresValidityInterval": "1h",
        "spark.dynamicAllocation.enabled": "false",
        "spark.executor.instances": str(size.executors),
        "spark.executor.cores": str(size.executor_cores),
        "spark.executor.memory": size.executor_memory,
        "spark.driver.memory": size.driver_memory,
        # The same options as in candleflow/engine/session.py, which gives the reasons.
        "spark.driver.extraJavaOptions": "-Duser.timezone=UTC -Xss16m",
        "spark.executor.extraJavaOptions": "-Duser.timezone=UTC",
        # Between nodes: connections are authenticated and encrypted.
        "spark.authenticate": "true",
        "spark.network.crypto.enabled": "true",
        "spark.io.encryption.enabled": "true",
    }
    arguments = ["spark-submit", "--master", "yarn", "--deploy-mode", "cluster"]
    arguments += ["--name", "candleflow-processor"]
    # "local:": the jars are on each node already. EMR's own class path does not change.
    arguments += ["--jars", ",".join(f"local:{HOME_DIR}/jars/{name}" for name in spark_jars())]
    for name, value in configuration.items():
        arguments += ["--conf", f"{name}={value}"]
    for name, value in environment.items():
        arguments += ["--conf", f"spark.yarn.appMasterEnv.{name}={value}"]
    arguments += [f"{HOME_DIR}/launch.py", "--region", Aws.REGION]
    for name, arn in secrets.items():
        arguments += ["--secret", f"{name}={arn}"]
    return arguments


def spark_jars() -> list[str]:
    """Return the file names of the jars in the lock."""
    rows = (line.split() for line in SPARK_LOCK.read_text("utf-8").splitlines() if line.startswith("spark "))
    return [row[3].rpartition("/")[2] for row in rows]
