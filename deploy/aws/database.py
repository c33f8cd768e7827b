"""PostgreSQL on RDS: encrypted, in subnets without internet access, TLS only, with backups."""

from __future__ import annotations

from typing import Final

from aws_cdk import Duration
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_kms as kms
from aws_cdk import aws_rds as rds
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from deploy.aws.acknowledged import acknowledge
from deploy.aws.network import Network
from deploy.aws.parameters import Parameters
from deploy.aws.retention import removal

OWNER: Final = "candleflow"
DATABASE: Final = "candleflow"
_NOT_IN_PASSWORDS: Final = " %+~`#$&*()|[]{}:;<>?!'/@\"\\^,="
_VERSION: Final = rds.PostgresEngineVersion.VER_18_3


class Database(Construct):
    """One database instance, or two in two zones; ``secret`` has the owner's name and password."""

    def __init__(
        self, scope: Construct, name: str, network: Network, parameters: Parameters, key: kms.IKey
    ) -> None:
        super().__init__(scope, name)
        size = parameters.sizes
        engine = rds.DatabaseInstanceEngine.postgres(version=_VERSION)
        self.instance = rds.DatabaseInstance(
            self,
            "Instance",
            engine=engine,
            instance_type=ec2.InstanceType(size.database_type),
            vpc=network.vpc,
            vpc_subnets=ec2.SubnetSelection(subnet_type=ec2.SubnetType.PRIVATE_ISOLATED),
            security_groups=[network.database],
            publicly_accessible=False,
            multi_az=parameters.is_multi_zone,
            database_name=DATABASE,
            credentials=rds.Credentials.from_secret(self._owner(parameters, key), OWNER),
            parameter_group=self._parameter_group(engine),
            ca_certificate=rds.CaCertificate.RDS_CA_RSA4096_G1,
            storage_type=rds.StorageType.GP3,
            allocated_storage=size.database_disk_gb,
            max_allocated_storage=size.database_disk_most_gb,
            storage_encrypted=True,
            storage_encryption_key=key,
            backup_retention=Duration.days(size.backup_days),
            copy_tags_to_snapshot=True,
            auto_minor_version_upgrade=True,
            cloudwatch_logs_exports=["postgresql", "upgrade"],
            deletion_protection=parameters.keep_data,
            delete_automated_backups=not parameters.keep_data,
            removal_policy=removal(parameters),
        )
        self._explain(parameters)

    @property
    def secret(self) -> secretsmanager.ISecret:
        """The owner's name and password."""
        secret = self.instance.secret
        if secret is None:
            raise RuntimeError("the database instance has no secret")
        return secret

    def _owner(self, parameters: Parameters, key: kms.IKey) -> rds.DatabaseSecret:
        """Make the owner's secret in the stack, so that it is kept or deleted together with the database."""
        secret = rds.DatabaseSecret(
            self, "Owner", username=OWNER, encryption_key=key, exclude_characters=_NOT_IN_PASSWORDS
        )
        secret.apply_removal_policy(removal(parameters))
        acknowledge(
            secret,
            "SMG4",
            "A new password needs a restart of the processor; docs/guides/aws.md has the steps.",
        )
        return secret

    def _parameter_group(self, engine: rds.IInstanceEngine) -> rds.ParameterGroup:
        return rds.ParameterGroup(
            self,
            "Parameters",
            engine=engine,
            description="Candleflow: TLS only",
            parameters={
                "rds.force_ssl": "1",
                "password_encryption": "scram-sha-256",  # nosec B105 # a method's name
                "timezone": "UTC",
                "log_timezone": "UTC",
                "jit": "0",
                # If the processor's connection is cut, its lock on the topic is released within a second.
                "client_connection_check_interval": "1000",
            },
        )

    def _explain(self, parameters: Parameters) -> None:
        instance = self.instance
        acknowledge(
            instance,
            "RDS11",
            "Security groups and passwords decide who gets in; another port would hide nothing.",
        )
        if not parameters.is_multi_zone:
            acknowledge(
                instance, "RDS3", "The small size has one instance; multi_zone_database=true has two."
            )
        if not parameters.keep_data:
            acknowledge(
                instance, "RDS10", "keep_data=false means that the database is deleted with the stack."
            )
