"""Passwords, each a separate secret in Secrets Manager, so that a role may read only its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aws_cdk import aws_kms as kms
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from deploy.aws.acknowledged import acknowledge
from deploy.aws.parameters import Parameters
from deploy.aws.retention import removal

ROLES: Final = ("writer", "reader", "auditor", "forecaster", "alerter", "editor")
"""PostgreSQL's roles beside the owner, as in ``candleflow.store.credentials``."""
KAFKA_USERS: Final = ("producer", "processor", "audit")


class Secrets(Construct):
    """All secrets: ``postgres`` by role, ``kafka`` by user, Kafka's certificate authority, alert channels."""

    def __init__(self, scope: Construct, name: str, parameters: Parameters, key: kms.IKey) -> None:
        super().__init__(scope, name)
        self._parameters = parameters
        self._key = key
        self.postgres: Mapping[str, secretsmanager.Secret] = {
            role: self._secret(f"Postgres{role.capitalize()}", f"PostgreSQL's password of the {role}")
            for role in ROLES
        }
        self.kafka: Mapping[str, secretsmanager.Secret] = {
            user: self._secret(f"Kafka{user.capitalize()}", f"Kafka's password of the {user}")
            for user in KAFKA_USERS
        }
        # Both start as random text; the first broker replaces it by the key and certificate that it makes.
        self.authority_key = self._secret("KafkaAuthorityKey", "key and certificate that sign the brokers'")
        self.authority = self._secret("KafkaAuthority", "the certificate that programs know the brokers by")
        # Not generated: the operator enters addresses such as phone=tgram://...
        self.alert_channels = self._channels()

    def _secret(self, name: str, description: str) -> secretsmanager.Secret:
        secret = secretsmanager.Secret(
            self,
            name,
            description=f"Candleflow: {description}",
            encryption_key=self._key,
            removal_policy=removal(self._parameters),
            generate_secret_string=secretsmanager.SecretStringGenerator(
                password_length=40, exclude_punctuation=True
            ),
        )
        acknowledge(
            secret,
            "SMG4",
            "A new password needs a restart of the program; docs/guides/aws.md has the steps.",
        )
        return secret

    def _channels(self) -> secretsmanager.Secret:
        """Make a JSON secret, {"channels": "", "made_up": "..."}: Secrets Manager accepts no empty text."""
        secret = secretsmanager.Secret(
            self,
            "AlertChannels",
            description="Candleflow: where alerts go, as CANDLEFLOW_ALERT_CHANNELS, under the key channels",
            encryption_key=self._key,
            removal_policy=removal(self._parameters),
            generate_secret_string=secretsmanager.SecretStringGenerator(
                secret_string_template='{"channels": ""}',  # nosec B106 # noqa: S106 - none yet
                generate_string_key="made_up",
            ),
        )
        acknowledge(secret, "SMG4", "The messengers issue these tokens; AWS can't rotate them there.")
        return secret
