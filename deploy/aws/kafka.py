"""Kafka 4 (KRaft) on three machines, one in each zone, with TLS, SCRAM and encrypted disks.

A disk outlives its machine.
"""

from __future__ import annotations

import base64
import uuid
from pathlib import Path
from typing import Final

import jsii
from aws_cdk import Aws, CfnWaitCondition, CfnWaitConditionHandle, Duration, Size, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_route53 as route53
from aws_cdk import aws_s3_assets as assets
from constructs import Construct, IConstruct

from deploy.aws.acknowledged import acknowledge, acknowledge_lint
from deploy.aws.bundle import BROKER
from deploy.aws.network import BROKER_PORT, Network
from deploy.aws.parameters import ZONES, Parameters
from deploy.aws.retention import removal
from deploy.aws.secrets import Secrets

ZONE_NAME: Final = "candleflow.internal"
_SCRIPT: Final = Path(__file__).parent / "broker" / "start.sh"
_STARTED_SECONDS: Final = 1_800
_DEVICE: Final = "/dev/sdk"
_NAMESPACE: Final = "Candleflow"


@jsii.implements(ec2.IMachineImage)
class _PinnedImage:
    """A machine image with a fixed id. CDK's own classes take the newest one, or need a table of regions."""

    def __init__(self, image_id: str) -> None:
        self._image_id = image_id

    def get_image(self, _scope: Construct) -> ec2.MachineImageConfig:
        return ec2.MachineImageConfig(
            image_id=self._image_id,
            os_type=ec2.OperatingSystemType.LINUX,
            user_data=ec2.UserData.for_linux(),
        )


class KafkaCluster(Construct):
    """The brokers. ``bootstrap`` is their address for programs; ``ready`` waits until all three run."""

    def __init__(
        self,
        scope: Construct,
        name: str,
        network: Network,
        secrets: Secrets,
        parameters: Parameters,
        key: kms.IKey,
    ) -> None:
        super().__init__(scope, name)
        self._network = network
        self._secrets = secrets
        self._parameters = parameters
        self._key = key
        self._bundle = assets.Asset(self, "Bundle", path=str(BROKER))
        self._zone = route53.PrivateHostedZone(self, "Zone", zone_name=ZONE_NAME, vpc=network.vpc)
        handle = CfnWaitConditionHandle(self, "Handle")
        self.instances: list[ec2.Instance] = []
        self.volumes: list[ec2.Volume] = []
        attachments = [self._broker(number, handle) for number in range(1, ZONES + 1)]
        self.ready = CfnWaitCondition(
            self, "Ready", handle=handle.ref, count=ZONES, timeout=str(_STARTED_SECONDS)
        )
        for attachment in attachments:
            self.ready.node.add_dependency(attachment)
        hosts = [f"kafka-{number}.{ZONE_NAME}:{BROKER_PORT}" for number in range(1, ZONES + 1)]
        self.bootstrap = ",".join(hosts)

    def _broker(self, number: int, handle: CfnWaitConditionHandle) -> IConstruct:
        """Make one broker with its disk and DNS name; return the attachment that it needs to start."""
        subnet = self._network.vpc.private_subnets[number - 1]
        volume = self._volume(number, subnet.availability_zone)
        role = self._role(number)
        instance = ec2.Instance(
            self,
            f"Broker{number}",
            vpc=self._network.vpc,
            vpc_subnets=ec2.SubnetSelection(subnets=[subnet]),
            availability_zone=subnet.availability_zone,
            security_group=self._network.brokers,
            instance_type=ec2.InstanceType(self._parameters.sizes.broker_type),
            machine_image=_PinnedImage(self._parameters.broker_ami),
            role=role,
            user_data=self._user_data(number, volume, handle),
            require_imdsv2=True,
            detailed_monitoring=True,
            ebs_optimized=True,
            block_devices=[
                ec2.BlockDevice(
                    device_name="/dev/xvda",
                    volume=ec2.BlockDeviceVolume.ebs(
                        16, encrypted=True, kms_key=self._key, volume_type=ec2.EbsDeviceVolumeType.GP3
                    ),
                )
            ],
        )
        if self.instances:
            # One after the other, so that a change never stops two brokers at once.
            instance.node.add_dependency(self.instances[-1])
        acknowledge(
            instance,
            "EC29",
            "The data is on a volume that stays; termination protection would block `make aws-destroy`.",
        )
        acknowledge_lint(
            instance, "W9010", "The id is a parameter of CDK, so that the brokers keep the image they have."
        )
        self.instances.append(instance)
        route53.ARecord(
            self,
            f"Name{number}",
            zone=self._zone,
            record_name=f"kafka-{number}",
            target=route53.RecordTarget.from_ip_addresses(instance.instance_private_ip),
            ttl=Duration.seconds(30),
        )
        return ec2.CfnVolumeAttachment(
            self,
            f"Attachment{number}",
            instance_id=instance.instance_id,
            volume_id=volume.volume_id,
            device=_DEVICE,
        )

    def _volume(self, number: int, zone: str) -> ec2.Volume:
        volume = ec2.Volume(
            self,
            f"Disk{number}",
            availability_zone=zone,
            size=Size.gibibytes(self._parameters.sizes.broker_disk_gb),
            volume_type=ec2.EbsDeviceVolumeType.GP3,
            encrypted=True,
            encryption_key=self._key,
            removal_policy=removal(self._parameters),
        )
        self.volumes.append(volume)
        return volume

    def _role(self, number: int) -> iam.Role:
        """Make a broker's role: it may read its own secrets; the first broker may also write them."""
        role = iam.Role(
            self,
            f"Role{number}",
            assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"),
            managed_policies=[iam.ManagedPolicy.from_aws_managed_policy_name("AmazonSSMManagedInstanceCore")],
        )
        acknowledge(
            role,
            "IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/AmazonSSMManagedInstanceCore]",
            "AWS's own policy for its agent, which is the only access to the machine, as there is no SSH.",
        )
        role.add_to_policy(
            iam.PolicyStatement(
                actions=["cloudwatch:PutMetricData"],
                resources=["*"],
                conditions={"StringEquals": {"cloudwatch:namespace": _NAMESPACE}},
            )
        )
        acknowledge(role, "IAM5[Resource::*]", "PutMetricData has no resource; the namespace is restricted.")
        self._bundle.grant_read(role)
        for rule in (
            "IAM5[Action::s3:GetBucket*]",
            "IAM5[Action::s3:GetObject*]",
            "IAM5[Action::s3:List*]",
            "IAM5[Resource::arn:<AWS::Partition>:s3:::cdk-hnb659fds-assets-<AWS::AccountId>-<AWS::Region>/*]",
        ):
            acknowledge(role, rule, "As CDK grants reading of what it uploaded itself.")
        secrets = self._secrets
        secrets.authority_key.grant_read(role)
        if number == 1:
            for secret in (secrets.authority_key, secrets.authority):
                secret.grant_write(role)
            for secret in secrets.kafka.values():
                secret.grant_read(role)
            for rule in ("IAM5[Action::kms:GenerateDataKey*]", "IAM5[Action::kms:ReEncrypt*]"):
                acknowledge(role, rule, "As CDK grants the use of one key, for writing two secrets.")
        return role

    def _user_data(
        self, number: int, volume: ec2.Volume, handle: CfnWaitConditionHandle
    ) -> ec2.MultipartUserData:
        """Return start.sh with lines before it that set this broker's variables. None of them is a secret."""
        secrets = self._secrets
        users = ",".join(f"{user}={secret.secret_arn}" for user, secret in secrets.kafka.items())
        known = {
            "NODE_ID": str(number),
            "NODES": str(ZONES),
            "ZONE_NAME": ZONE_NAME,
            "REGION": Aws.REGION,
            "CLUSTER_ID": cluster_id(Stack.of(self).stack_name),
            "HEAP": self._parameters.sizes.broker_heap,
            "VOLUME_ID": volume.volume_id,
            "BUNDLE": self._bundle.s3_object_url,
            "AUTHORITY_KEY": secrets.authority_key.secret_arn,
            "AUTHORITY": secrets.authority.secret_arn,
            "USERS": users,
            "SIGNAL": handle.ref,
        }
        lines = [f"{name}='{value}'" for name, value in known.items()]
        script = ec2.UserData.custom("\n".join(["#!/bin/bash", *lines, _SCRIPT.read_text("utf-8")]))
        # By default cloud-init runs scripts at the first start only; a changed script must run too.
        always = ec2.UserData.custom("#cloud-config\ncloud_final_modules:\n- [scripts-user, always]\n")
        parts = ec2.MultipartUserData()
        parts.add_part(ec2.MultipartBody.from_user_data(always, 'text/cloud-config; charset="utf-8"'))
        parts.add_part(ec2.MultipartBody.from_user_data(script, 'text/x-shellscript; charset="utf-8"'))
        return parts


def cluster_id(stack_name: str) -> str:
    """Return the cluster's id in Kafka's form (16 bytes as URL-safe Base64), the same at every start."""
    made = uuid.uuid5(uuid.NAMESPACE_DNS, f"{stack_name}.{ZONE_NAME}")
    return base64.urlsafe_b64encode(made.bytes).rstrip(b"=").decode()
