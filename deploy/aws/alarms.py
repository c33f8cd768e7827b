"""CloudWatch alarms, all sent to one SNS topic: lag, no trades, failed tasks, full disks, low CPU credits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct

from deploy.aws.database import Database
from deploy.aws.kafka import KafkaCluster
from deploy.aws.parameters import Parameters
from deploy.aws.services import Services
from deploy.aws.spark import SparkCluster

LAG_SECONDS: Final = 60
SILENCE_SECONDS: Final = 120
DISK_PERCENT: Final = 75
CREDITS: Final = 50
_NAMESPACE: Final = "Candleflow"
_MINUTE: Final = Duration.minutes(1)
_MISSING_IS_BAD: Final = cloudwatch.TreatMissingData.BREACHING
_MISSING_IS_FINE: Final = cloudwatch.TreatMissingData.NOT_BREACHING


class Alarms(Construct):
    """The SNS topic, and the alarms on every part of the stack."""

    def __init__(
        self,
        scope: Construct,
        name: str,
        parameters: Parameters,
        key: kms.IKey,
        kafka: KafkaCluster,
        spark: SparkCluster,
        database: Database,
        services: Services,
    ) -> None:
        super().__init__(scope, name)
        self._parameters = parameters
        self.topic = sns.Topic(self, "Topic", master_key=key, enforce_ssl=True)
        if parameters.alarm_email:
            self.topic.add_subscription(subscriptions.EmailSubscription(parameters.alarm_email))
        self._flow(services.logs["health"])
        self._services(services)
        self._brokers(kafka)
        self._database(database)
        self._spark(spark)

    def _alarm(
        self,
        name: str,
        what: str,
        metric: cloudwatch.IMetric,
        threshold: float,
        *,
        minutes: int = 3,
        below: bool = False,
        missing: cloudwatch.TreatMissingData = _MISSING_IS_BAD,
    ) -> cloudwatch.Alarm:
        operators = cloudwatch.ComparisonOperator
        alarm = cloudwatch.Alarm(
            self,
            name,
            alarm_description=f"Candleflow: {what}",
            metric=metric,
            threshold=threshold,
            evaluation_periods=minutes,
            comparison_operator=operators.LESS_THAN_THRESHOLD if below else operators.GREATER_THAN_THRESHOLD,
            treat_missing_data=missing,
        )
        alarm.add_alarm_action(actions.SnsAction(self.topic))
        alarm.add_ok_action(actions.SnsAction(self.topic))
        return alarm

    def _flow(self, log: logs.ILogGroup) -> None:
        for name, field, seconds, what in (
            ("Lag", "merged_age_seconds", LAG_SECONDS, "the candles lag behind Kafka"),
            ("NoTrades", "trade_age_seconds", SILENCE_SECONDS, "no trade of any symbol has come"),
        ):
            logs.MetricFilter(
                self,
                f"{name}Filter",
                log_group=log,
                filter_pattern=logs.FilterPattern.exists(f"$.{field}"),
                metric_namespace=_NAMESPACE,
                metric_name=field,
                metric_value=f"$.{field}",
            )
            metric = cloudwatch.Metric(
                namespace=_NAMESPACE, metric_name=field, statistic="Maximum", period=_MINUTE
            )
            self._alarm(name, what, metric, seconds)

    def _services(self, services: Services) -> None:
        for name, service in services.services.items():
            metric = cloudwatch.Metric(
                namespace="ECS/ContainerInsights",
                metric_name="RunningTaskCount",
                dimensions_map={
                    "ClusterName": services.cluster.cluster_name,
                    "ServiceName": service.service_name,
                },
                statistic="Minimum",
                period=_MINUTE,
            )
            self._alarm(f"{name.capitalize()}Tasks", f"no {name} runs", metric, 1, minutes=5, below=True)
        page = services.target_group.metrics.unhealthy_host_count(statistic="Maximum", period=_MINUTE)
        self._alarm("PageUnhealthy", "a server of the page doesn't answer", page, 0)

    def _brokers(self, kafka: KafkaCluster) -> None:
        for number, instance in enumerate(kafka.instances, start=1):
            of_instance = {"InstanceId": instance.instance_id}
            failed = self._alarm(
                f"Broker{number}System",
                f"the hardware of broker {number} failed, and AWS moves it",
                _ec2_metric("StatusCheckFailed_System", of_instance),
                0,
                minutes=2,
                missing=_MISSING_IS_FINE,
            )
            failed.add_alarm_action(actions.Ec2Action(actions.Ec2InstanceAction.RECOVER))
            self._alarm(
                f"Broker{number}Instance",
                f"broker {number} doesn't answer",
                _ec2_metric("StatusCheckFailed_Instance", of_instance),
                0,
            )
            disk = cloudwatch.Metric(
                namespace=_NAMESPACE,
                metric_name="disk_used_percent",
                dimensions_map=of_instance,
                statistic="Maximum",
                period=_MINUTE,
            )
            self._alarm(f"Broker{number}Disk", f"the disk of broker {number} fills", disk, DISK_PERCENT)
            if _has_credits(self._parameters.sizes.broker_type):
                credit = _ec2_metric("CPUCreditBalance", of_instance, "Minimum", Duration.minutes(5))
                self._alarm(
                    f"Broker{number}Credit",
                    f"broker {number} has little CPU credit left",
                    credit,
                    CREDITS,
                    below=True,
                )

    def _database(self, database: Database) -> None:
        instance = database.instance
        least = 0.25 * self._parameters.sizes.database_disk_gb * 2**30
        free = instance.metric_free_storage_space(statistic="Minimum", period=_MINUTE)
        self._alarm("DatabaseDisk", "PostgreSQL's disk fills", free, least, below=True)
        busy = instance.metric_cpu_utilization(statistic="Average", period=_MINUTE)
        self._alarm("DatabaseBusy", "PostgreSQL's processor is busy", busy, 85, minutes=15)
        if _has_credits(self._parameters.sizes.database_type):
            credit = instance.metric("CPUCreditBalance", statistic="Minimum", period=Duration.minutes(5))
            self._alarm(
                "DatabaseCredit", "PostgreSQL has little CPU credit left", credit, CREDITS, below=True
            )

    def _spark(self, spark: SparkCluster) -> None:
        running = cloudwatch.Metric(
            namespace="AWS/ElasticMapReduce",
            metric_name="AppsRunning",
            dimensions_map={"JobFlowId": spark.cluster.ref},
            statistic="Minimum",
            period=Duration.minutes(5),
        )
        self._alarm("ProcessorRuns", "the processor doesn't run on the Spark cluster", running, 1, below=True)


def _ec2_metric(
    name: str, dimensions: Mapping[str, str], statistic: str = "Maximum", period: Duration = _MINUTE
) -> cloudwatch.Metric:
    return cloudwatch.Metric(
        namespace="AWS/EC2",
        metric_name=name,
        dimensions_map=dict(dimensions),
        statistic=statistic,
        period=period,
    )


def _has_credits(instance_type: str) -> bool:
    return ec2.InstanceType(instance_type).is_burstable()
