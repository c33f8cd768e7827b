"""The network over three zones, and which process may connect to which. Everything else is closed."""

from __future__ import annotations

from typing import Final

from aws_cdk import Fn
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from constructs import Construct

from deploy.aws.acknowledged import acknowledge
from deploy.aws.parameters import ZONES, Parameters
from deploy.aws.retention import days_kept, removal

BROKER_PORT: Final = 9094
"""Kafka's listener for programs: TLS, with name and password (SCRAM)."""
BETWEEN_BROKERS_PORT: Final = 9092
CONTROLLER_PORT: Final = 9093
POSTGRES_PORT: Final = 5432
PAGE_PORT: Final = 8501
EXCHANGE_PORT: Final = 9443
HTTPS: Final = 443

SERVICES: Final = ("producer", "dashboard", "alerts", "forecaster", "audit", "health")
USES_KAFKA: Final = ("producer", "audit")
USES_POSTGRES: Final = ("dashboard", "alerts", "forecaster", "audit", "health")


class Network(Construct):
    """The VPC, with security groups: ``brokers``, ``database``, ``balancer``, ``spark``, one per service."""

    def __init__(self, scope: Construct, name: str, parameters: Parameters, key: kms.IKey) -> None:
        super().__init__(scope, name)
        self.vpc = ec2.Vpc(
            self,
            "Vpc",
            # Zones by number, so that the template fits any account and region.
            availability_zones=[Fn.select(number, Fn.get_azs()) for number in range(ZONES)],
            nat_gateways=parameters.sizes.nat_gateways,
            restrict_default_security_group=False,  # would need a Lambda; nothing uses the default group
            subnet_configuration=[
                ec2.SubnetConfiguration(
                    name="public",
                    subnet_type=ec2.SubnetType.PUBLIC,
                    cidr_mask=24,
                    map_public_ip_on_launch=False,
                ),
                ec2.SubnetConfiguration(
                    name="private", subnet_type=ec2.SubnetType.PRIVATE_WITH_EGRESS, cidr_mask=22
                ),
                ec2.SubnetConfiguration(
                    name="isolated", subnet_type=ec2.SubnetType.PRIVATE_ISOLATED, cidr_mask=24
                ),
            ],
            gateway_endpoints={
                "S3": ec2.GatewayVpcEndpointOptions(service=ec2.GatewayVpcEndpointAwsService.S3)
            },
        )
        self._log_flows(parameters, key)
        self.brokers = self._group("Brokers", "The three brokers of Kafka")
        self.database = self._group("Database", "PostgreSQL")
        self.balancer = self._group("Balancer", "The load balancer of the page")
        self.spark = self._group("Spark", "nodes of the Spark cluster")
        self.spark_access = self._group("SparkAccess", "how EMR itself reaches the nodes")
        self.services = {
            service: self._group(service.capitalize(), f"Tasks of the service {service}")
            for service in SERVICES
        }
        self._open_connections(parameters)

    def _group(self, name: str, description: str) -> ec2.SecurityGroup:
        return ec2.SecurityGroup(self, name, vpc=self.vpc, description=description, allow_all_outbound=False)

    def _log_flows(self, parameters: Parameters, key: kms.IKey) -> None:
        role = iam.Role(self, "FlowLogRole", assumed_by=iam.ServicePrincipal("vpc-flow-logs.amazonaws.com"))
        group = logs.LogGroup(
            self,
            "FlowLog",
            retention=days_kept(parameters.log_days),
            encryption_key=key,
            removal_policy=removal(parameters),
        )
        self.vpc.add_flow_log(
            "Flows",
            destination=ec2.FlowLogDestination.to_cloud_watch_logs(group, role),
            traffic_type=ec2.FlowLogTrafficType.REJECT,
        )

    def _open_connections(self, parameters: Parameters) -> None:
        kafka = [self.spark, *(self.services[name] for name in USES_KAFKA)]
        for group in kafka:
            self._open(group, self.brokers, BROKER_PORT, "programs to Kafka")
        for port in (BETWEEN_BROKERS_PORT, CONTROLLER_PORT):
            self._open(self.brokers, self.brokers, port, "brokers among themselves")
        for group in [self.spark, *(self.services[name] for name in USES_POSTGRES)]:
            self._open(group, self.database, POSTGRES_PORT, "programs to PostgreSQL")
        self._open(self.balancer, self.services["dashboard"], PAGE_PORT, "the load balancer to the page")
        acknowledge(
            self.balancer,
            "EC23",
            "The log-in is open to all addresses by default; the parameter visitors restricts them.",
        )
        self.balancer.add_ingress_rule(
            ec2.Peer.ipv4(parameters.visitors), ec2.Port.tcp(HTTPS), "visitors, who must log in"
        )
        # To the internet: AWS's APIs and the exchange's.
        for group in (self.brokers, self.spark, self.balancer, *self.services.values()):
            group.add_egress_rule(ec2.Peer.any_ipv4(), ec2.Port.tcp(HTTPS), "AWS, the exchange, messengers")
        for name in ("producer", "audit"):
            self.services[name].add_egress_rule(
                ec2.Peer.any_ipv4(), ec2.Port.tcp(EXCHANGE_PORT), "the exchange's WebSocket"
            )
        self._open_spark_connections()

    def _open_spark_connections(self) -> None:
        """Open what EMR needs in a private subnet (its guide, "Amazon EMR-managed security groups")."""
        nodes = self.spark
        nodes.connections.allow_internally(ec2.Port.all_traffic(), "nodes among themselves")
        self._open(nodes, self.spark_access, 9443, "nodes to EMR")
        self._open(self.spark_access, nodes, 8443, "EMR to nodes")

    @staticmethod
    def _open(source: ec2.SecurityGroup, target: ec2.SecurityGroup, port: int, what: str) -> None:
        target.connections.allow_from(source, ec2.Port.tcp(port), what)
