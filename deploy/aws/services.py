"""The five services and the health watcher on Fargate, each with its own role and passwords.

The page is behind a log-in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from aws_cdk import Duration
from aws_cdk import aws_certificatemanager as acm
from aws_cdk import aws_cognito as cognito
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_elasticloadbalancingv2 as elb
from aws_cdk import aws_elasticloadbalancingv2_actions as actions
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from constructs import Construct, IDependable

from deploy.aws.acknowledged import acknowledge
from deploy.aws.network import HTTPS, PAGE_PORT, Network
from deploy.aws.parameters import Parameters
from deploy.aws.retention import days_kept, removal

DATA_DIR: Final = "/data"
HEALTH_SCRIPT: Final = "/app/health.py"
"""Where deploy/aws/Dockerfile puts the health watcher."""
WATCHER: Final = "health"
HEALTH_COMMAND: Final = ("python", "deploy/healthcheck.py")
PAGE_HEALTH: Final = "/_stcore/health"
SINGLES: Final = ("producer", "alerts", "forecaster", "audit", "health")
"""Services with one task at a time: a second producer or alerter would stop with an error, or work twice."""


@dataclass(frozen=True, slots=True)
class Service:
    """A service's command and settings; ``secrets`` are the settings that are secret."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    secrets: Mapping[str, ecs.Secret] = field(default_factory=dict)


class Services(Construct):
    """The ECS cluster with all services and the load balancer; ``services`` and ``logs`` are by name."""

    def __init__(
        self,
        scope: Construct,
        name: str,
        network: Network,
        parameters: Parameters,
        key: kms.IKey,
        access_logs: s3.IBucket,
        wanted: Sequence[Service],
        ready: IDependable,
    ) -> None:
        super().__init__(scope, name)
        self._network = network
        self._parameters = parameters
        self._key = key
        self._image = image_of(self, parameters.image)
        self.cluster = ecs.Cluster(
            self, "Cluster", vpc=network.vpc, container_insights_v2=ecs.ContainerInsights.ENABLED
        )
        self.services: dict[str, ecs.FargateService] = {}
        self.logs: dict[str, logs.LogGroup] = {}
        for one in wanted:
            service = self._service(one)
            service.node.add_dependency(ready)  # before Kafka runs, services could only wait
            self.services[one.name] = service
        self.balancer = self._balancer(access_logs)
        self.target_group = self._page()

    def _service(self, wanted: Service) -> ecs.FargateService:
        size = self._parameters.sizes
        task = self._task(wanted)
        # A single task ends before its replacement starts; of the page at least one always runs.
        is_single = wanted.name in SINGLES
        return ecs.FargateService(
            self,
            wanted.name.capitalize(),
            cluster=self.cluster,
            task_definition=task,
            desired_count=1 if is_single else size.dashboards,
            min_healthy_percent=0 if is_single else 100,
            max_healthy_percent=100 if is_single else 200,
            circuit_breaker=ecs.DeploymentCircuitBreaker(rollback=True),
            security_groups=[self._network.services[wanted.name]],
            vpc_subnets=ec2.SubnetSelection(subnet_type=ec2.SubnetType.PRIVATE_WITH_EGRESS),
            assign_public_ip=False,
            enable_execute_command=False,
            health_check_grace_period=None if is_single else Duration.seconds(120),
        )

    def _task(self, wanted: Service) -> ecs.FargateTaskDefinition:
        units, memory = self._parameters.sizes.fargate[wanted.name]
        task = ecs.FargateTaskDefinition(
            self,
            f"{wanted.name.capitalize()}Task",
            cpu=units,
            memory_limit_mib=memory,
            runtime_platform=ecs.RuntimePlatform(
                cpu_architecture=ecs.CpuArchitecture.ARM64,
                operating_system_family=ecs.OperatingSystemFamily.LINUX,
            ),
            # The program doesn't use AWS's APIs, so its role has no rights.
            task_role=iam.Role(
                self,
                f"{wanted.name.capitalize()}Role",
                assumed_by=iam.ServicePrincipal("ecs-tasks.amazonaws.com"),
            ),
        )
        for volume in ("data", "tmp"):
            task.add_volume(name=volume)
        container = task.add_container(
            wanted.name,
            image=self._image,
            command=list(wanted.command),
            environment=dict(wanted.environment),
            secrets=dict(wanted.secrets),
            logging=ecs.LogDrivers.aws_logs(stream_prefix=wanted.name, log_group=self._log(wanted.name)),
            readonly_root_filesystem=True,
            stop_timeout=Duration.seconds(30),
            health_check=_health_check(wanted.name),
            linux_parameters=ecs.LinuxParameters(self, f"{wanted.name}Linux", init_process_enabled=True),
        )
        container.add_mount_points(
            ecs.MountPoint(container_path=DATA_DIR, source_volume="data", read_only=False),
            # Private to this container.
            ecs.MountPoint(container_path="/tmp", source_volume="tmp", read_only=False),  # nosec B108 # noqa: S108
        )
        if wanted.name == "dashboard":
            container.add_port_mappings(ecs.PortMapping(container_port=PAGE_PORT))
        self._explain(task)
        return task

    def _explain(self, task: ecs.FargateTaskDefinition) -> None:
        acknowledge(task, "ECS2", "These variables are not secret; secrets come from Secrets Manager.")
        role = task.execution_role
        if role is not None:
            acknowledge(role, "IAM5[Resource::*]", "ecr:GetAuthorizationToken has no resource.")

    def _log(self, name: str) -> logs.LogGroup:
        self.logs[name] = logs.LogGroup(
            self,
            f"{name.capitalize()}Log",
            retention=days_kept(self._parameters.log_days),
            encryption_key=self._key,
            removal_policy=removal(self._parameters),
        )
        return self.logs[name]

    def _balancer(self, access_logs: s3.IBucket) -> elb.ApplicationLoadBalancer:
        balancer = elb.ApplicationLoadBalancer(
            self,
            "Balancer",
            vpc=self._network.vpc,
            internet_facing=True,
            security_group=self._network.balancer,
            vpc_subnets=ec2.SubnetSelection(subnet_type=ec2.SubnetType.PUBLIC),
            drop_invalid_header_fields=True,
            deletion_protection=False,
            idle_timeout=Duration.seconds(120),  # the page's WebSocket sends something each second
        )
        # Set as attributes, because CDK's method needs a known region.
        balancer.set_attribute("access_logs.s3.enabled", "true")
        balancer.set_attribute("access_logs.s3.bucket", access_logs.bucket_name)
        balancer.set_attribute("access_logs.s3.prefix", "balancer")
        if access_logs.policy is not None:
            balancer.node.add_dependency(access_logs.policy)
        return balancer

    def _page(self) -> elb.ApplicationTargetGroup:
        """Serve the page over HTTPS only, and only to users in Cognito."""
        pool, client, domain = self._log_in()
        targets = elb.ApplicationTargetGroup(
            self,
            "Page",
            vpc=self._network.vpc,
            port=PAGE_PORT,
            protocol=elb.ApplicationProtocol.HTTP,
            targets=[self.services["dashboard"]],
            # A viewer's WebSocket and downloads must reach the same server.
            stickiness_cookie_duration=Duration.hours(12),
            deregistration_delay=Duration.seconds(30),
            health_check=elb.HealthCheck(path=PAGE_HEALTH, interval=Duration.seconds(15)),
        )
        self.balancer.add_listener(
            "Https",
            port=HTTPS,
            open=False,
            protocol=elb.ApplicationProtocol.HTTPS,
            certificates=[
                acm.Certificate.from_certificate_arn(self, "Certificate", self._parameters.certificate_arn)
            ],
            ssl_policy=elb.SslPolicy.TLS13_RES,
            default_action=actions.AuthenticateCognitoAction(
                user_pool=pool,
                user_pool_client=client,
                user_pool_domain=domain,
                session_timeout=Duration.hours(12),
                next=elb.ListenerAction.forward([targets]),
            ),
        )
        return targets

    def _log_in(self) -> tuple[cognito.UserPool, cognito.UserPoolClient, cognito.UserPoolDomain]:
        pool = cognito.UserPool(
            self,
            "Viewers",
            self_sign_up_enabled=False,
            sign_in_aliases=cognito.SignInAliases(email=True),
            mfa=cognito.Mfa.REQUIRED,
            mfa_second_factor=cognito.MfaSecondFactor(otp=True, sms=False),
            account_recovery=cognito.AccountRecovery.EMAIL_ONLY,
            password_policy=cognito.PasswordPolicy(
                min_length=14,
                require_digits=True,
                require_lowercase=True,
                require_uppercase=True,
                require_symbols=True,
            ),
            deletion_protection=self._parameters.keep_data,
            removal_policy=removal(self._parameters),
        )
        acknowledge(
            pool,
            "COG8",
            "The plan with threat protection costs more per user; a second factor is required instead.",
        )
        domain = pool.add_domain(
            "LogIn",
            cognito_domain=cognito.CognitoDomainOptions(
                domain_prefix=self._parameters.domain.replace(".", "-")
            ),
        )
        client = pool.add_client(
            "Page",
            generate_secret=True,
            auth_flows=cognito.AuthFlow(user_srp=True),
            o_auth=cognito.OAuthSettings(
                flows=cognito.OAuthFlows(authorization_code_grant=True),
                scopes=[cognito.OAuthScope.OPENID],
                callback_urls=[f"https://{self._parameters.domain}/oauth2/idpresponse"],
            ),
            prevent_user_existence_errors=True,
        )
        return pool, client, domain


def _health_check(name: str) -> ecs.HealthCheck | None:
    """Return the health check of a service, so that ECS replaces a task that hangs.

    It repeats the image's own check, which ECS ignores. None for the health watcher, which has no port:
    if its log lines stop, alarms fire.
    """
    if name == WATCHER:
        return None
    return ecs.HealthCheck(
        command=["CMD", *HEALTH_COMMAND],
        interval=Duration.seconds(30),
        timeout=Duration.seconds(10),
        start_period=Duration.seconds(120),
        retries=3,
    )


def image_of(scope: Construct, address: str) -> ecs.ContainerImage:
    """Return the image at an ECR address, ``registry/name:tag`` or ``registry/name@sha256:...``."""
    registry, _, rest = address.partition("/")
    account, _, _, region, *_ = registry.split(".")
    name, _, digest = rest.partition("@")
    name, _, tag = (name, "", digest) if digest else rest.partition(":")
    repository = ecr.Repository.from_repository_attributes(
        scope,
        "Repository",
        repository_arn=f"arn:aws:ecr:{region}:{account}:repository/{name}",
        repository_name=name,
    )
    return ecs.ContainerImage.from_ecr_repository(repository, tag)
