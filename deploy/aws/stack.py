"""The whole deployment in one stack: its parts, and the settings that connect them."""

from __future__ import annotations

from typing import Any, Final

from aws_cdk import Aws, CfnOutput, Duration, Stack
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from constructs import Construct

from deploy.aws.acknowledged import acknowledge
from deploy.aws.alarms import Alarms
from deploy.aws.database import DATABASE, OWNER, Database
from deploy.aws.kafka import KafkaCluster
from deploy.aws.network import PAGE_PORT, Network
from deploy.aws.parameters import ZONES, Parameters
from deploy.aws.retention import removal
from deploy.aws.secrets import ROLES, Secrets
from deploy.aws.services import DATA_DIR, HEALTH_SCRIPT, Service, Services
from deploy.aws.spark import HOME_DIR, SparkCluster

IMAGE_AUTHORITIES: Final = "/opt/candleflow/rds.pem"
"""Certificates of the authorities that sign RDS's certificates, where deploy/aws/Dockerfile puts them."""

_POSTGRES_ROLES: Final = {
    "dashboard": ("reader", "editor"),
    "alerts": ("alerter",),
    "forecaster": ("forecaster",),
    "audit": ("reader", "auditor"),
    "health": ("reader",),
}
"""The PostgreSQL roles whose passwords each service gets."""


class CandleflowStack(Stack):
    """Network, Kafka, Spark, PostgreSQL, services and alarms."""

    def __init__(self, scope: Construct, name: str, parameters: Parameters, **more: Any) -> None:
        super().__init__(scope, name, **more)
        self._parameters = parameters
        self.key = self._make_key()
        self.logs = self._make_log_bucket()
        self.network = Network(self, "Network", parameters, self.key)
        self.secrets = Secrets(self, "Secrets", parameters, self.key)
        self.database = Database(self, "Database", self.network, parameters, self.key)
        self.kafka = KafkaCluster(self, "Kafka", self.network, self.secrets, parameters, self.key)
        self.spark = self._make_spark()
        self.services = Services(
            self,
            "Services",
            self.network,
            parameters,
            self.key,
            self.logs,
            [self._service(name) for name in self.network.services],
            self.kafka.ready,
        )
        self.alarms = Alarms(
            self, "Alarms", parameters, self.key, self.kafka, self.spark, self.database, self.services
        )
        self._add_outputs()

    def _make_key(self) -> kms.Key:
        key = kms.Key(self, "Key", enable_key_rotation=True, removal_policy=removal(self._parameters))
        key.grant_encrypt_decrypt(iam.ServicePrincipal("cloudwatch.amazonaws.com"))
        logs = iam.ServicePrincipal(f"logs.{Aws.REGION}.amazonaws.com")
        key.grant_encrypt_decrypt(logs)
        return key

    def _make_log_bucket(self) -> s3.Bucket:
        """Make the bucket for the logs of the load balancer and EMR.

        AWS encrypts it with its own key, because the load balancer can't write to one with a customer's key.
        """
        bucket = s3.Bucket(
            self,
            "Logs",
            encryption=s3.BucketEncryption.S3_MANAGED,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            enforce_ssl=True,
            lifecycle_rules=[s3.LifecycleRule(expiration=Duration.days(self._parameters.log_days))],
            removal_policy=removal(self._parameters),
        )
        bucket.grant_put(
            iam.ServicePrincipal("logdelivery.elasticloadbalancing.amazonaws.com"), "balancer/AWSLogs/*"
        )
        acknowledge(bucket, "S1", "It holds logs itself; CloudTrail records who read them.")
        return bucket

    def _make_spark(self) -> SparkCluster:
        arns = {
            "CANDLEFLOW_POSTGRES_PASSWORD": f"{self.database.secret.secret_arn}#password",
            "CANDLEFLOW_KAFKA_SASL_PASSWORD": self.secrets.kafka["processor"].secret_arn,
            "CANDLEFLOW_KAFKA_SSL_CA": self.secrets.authority.secret_arn,
        }
        # The processor applies the schema, which sets every role's password.
        arns |= {_password(role): self.secrets.postgres[role].secret_arn for role in ROLES}
        environment = self._environment("processor", f"{HOME_DIR}/rds.pem") | {
            "CANDLEFLOW_SPARK_MASTER": "spark-submit",
            "CANDLEFLOW_DATA_DIR": "/tmp/candleflow",  # nosec B108 # noqa: S108 - in the processor's own YARN container
        }
        spark = SparkCluster(
            self, "Spark", self.network, self._parameters, self.key, self.logs, environment, arns
        )
        role = spark.node_role
        for secret in (
            self.database.secret,
            self.secrets.kafka["processor"],
            self.secrets.authority,
            *self.secrets.postgres.values(),
        ):
            secret.grant_read(role)
        spark.step.node.add_dependency(self.kafka.ready)
        return spark

    def _environment(self, user: str, authorities: str) -> dict[str, str]:
        """Return the settings for Kafka and PostgreSQL: TLS only, with the server's name verified."""
        parameters = self._parameters
        instance = self.database.instance
        return {
            "CANDLEFLOW_SYMBOLS": parameters.symbols,
            "CANDLEFLOW_EXCHANGE": parameters.exchange,
            "CANDLEFLOW_DATA_DIR": DATA_DIR,
            "CANDLEFLOW_KAFKA_BOOTSTRAP": self.kafka.bootstrap,
            "CANDLEFLOW_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "CANDLEFLOW_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
            "CANDLEFLOW_KAFKA_SASL_USERNAME": user,
            "CANDLEFLOW_KAFKA_REPLICATION": str(ZONES),
            "CANDLEFLOW_KAFKA_PARTITIONS": str(parameters.sizes.partitions),
            "CANDLEFLOW_KAFKA_RETENTION_HOURS": str(parameters.sizes.retention_hours),
            "CANDLEFLOW_POSTGRES_URL": (
                f"postgresql://{OWNER}@{instance.db_instance_endpoint_address}:5432/{DATABASE}"
            ),
            "CANDLEFLOW_POSTGRES_SSLMODE": "verify-full",
            "CANDLEFLOW_POSTGRES_SSLROOTCERT": authorities,
        }

    def _service(self, name: str) -> Service:
        environment = self._environment(name, IMAGE_AUTHORITIES)
        if name not in self.secrets.kafka:
            environment = {key: value for key, value in environment.items() if "_KAFKA_" not in key}
        if name not in _POSTGRES_ROLES:
            environment = {key: value for key, value in environment.items() if "_POSTGRES_" not in key}
        command = ["python", "-m", "candleflow", name]
        if name == "health":
            command = ["python", HEALTH_SCRIPT]
        if name == "dashboard":
            # The load balancer connects from outside the container; browsers use the page's host name.
            environment |= {
                "STREAMLIT_SERVER_ADDRESS": "0.0.0.0",  # nosec B104 # noqa: S104
                "STREAMLIT_SERVER_ALLOWED_HOSTS": self._parameters.domain,
                "STREAMLIT_BROWSER_SERVER_ADDRESS": self._parameters.domain,
                "CANDLEFLOW_DASHBOARD_PORT": str(PAGE_PORT),
            }
        if name == "alerts":
            environment["CANDLEFLOW_ALERT_PAGE_URL"] = f"https://{self._parameters.domain}"
        return Service(name, command, environment, self._secrets_of(name))

    def _secrets_of(self, name: str) -> dict[str, ecs.Secret]:
        found = {
            _password(role): ecs.Secret.from_secrets_manager(self.secrets.postgres[role])
            for role in _POSTGRES_ROLES.get(name, ())
        }
        if name in self.secrets.kafka:
            own = self.secrets.kafka[name]
            found["CANDLEFLOW_KAFKA_SASL_PASSWORD"] = ecs.Secret.from_secrets_manager(own)
            found["CANDLEFLOW_KAFKA_SSL_CA"] = ecs.Secret.from_secrets_manager(self.secrets.authority)
        if name == "alerts":
            channels = ecs.Secret.from_secrets_manager(self.secrets.alert_channels, "channels")
            found["CANDLEFLOW_ALERT_CHANNELS"] = channels
        return found

    def _add_outputs(self) -> None:
        for name, value in {
            "LoadBalancer": self.services.balancer.load_balancer_dns_name,
            "BrokerAmi": self._parameters.broker_ami,
            "KafkaBootstrap": self.kafka.bootstrap,
            "Database": self.database.instance.db_instance_endpoint_address,
            "SparkCluster": self.spark.cluster.ref,
            "AlarmTopic": self.alarms.topic.topic_arn,
            "AlertChannels": self.secrets.alert_channels.secret_arn,
        }.items():
            CfnOutput(self, f"{name}Output", value=value).override_logical_id(f"{name}Output")


def _password(role: str) -> str:
    return f"CANDLEFLOW_POSTGRES_{role.upper()}_PASSWORD"
