"""Create Kafka's users with their access rights (ACLs) and passwords.

The passwords come from Secrets Manager and are hashed before they are sent to Kafka. Runs on the first
broker, which authenticates by its certificate. Running it again is safe.
"""

from __future__ import annotations

import argparse
import ssl
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from kafka import errors
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    KafkaAdminClient,
    ResourcePattern,
    ResourceType,
    UserScramCredentialUpsertion,
)
from kafka.admin import ACLResourcePatternType as PatternType

MECHANISM: Final = "SCRAM-SHA-512"
ITERATIONS: Final = 8_192
PATIENCE_SECONDS: Final = 300.0
"""How long to wait for the other brokers: two of three must run."""

_MAKES: Final = [
    (ResourceType.TOPIC, "trades", operation)
    for operation in (ACLOperation.CREATE, ACLOperation.DESCRIBE, ACLOperation.DESCRIBE_CONFIGS)
]
_READS: Final = (ResourceType.TOPIC, "trades", ACLOperation.READ)
_WRITES: Final = (ResourceType.TOPIC, "trades", ACLOperation.WRITE)

RIGHTS: Final[Mapping[str, Sequence[tuple[ResourceType, str, ACLOperation]]]] = {
    # All topics' names begin with "trades". The group is the producers' lease.
    "producer": [
        *_MAKES,
        _READS,
        _WRITES,
        *((ResourceType.GROUP, "candleflow-", one) for one in (ACLOperation.READ, ACLOperation.DESCRIBE)),
    ],
    "processor": [
        *_MAKES,
        _READS,
        (ResourceType.TOPIC, "trades.rejected", ACLOperation.WRITE),
        (ResourceType.TOPIC, "trades.binance-us.rejected", ACLOperation.WRITE),
        (ResourceType.GROUP, "spark-kafka-", ACLOperation.READ),
    ],
    "audit": [
        (ResourceType.TOPIC, "trades", ACLOperation.DESCRIBE),
        _READS,
        (ResourceType.TOPIC, "trades.gaps", ACLOperation.WRITE),
        (ResourceType.TOPIC, "trades.binance-us.gaps", ACLOperation.WRITE),
    ],
}
"""Each user's rights: kind of resource, prefix of its name, operation."""


def apply(admin: KafkaAdminClient, passwords: Mapping[str, str]) -> None:
    """Give each user its password and rights. Raises RuntimeError if Kafka refuses one."""
    unknown = passwords.keys() - RIGHTS.keys()
    if unknown:
        raise RuntimeError(f"no rights are declared for these users: {', '.join(sorted(unknown))}")
    credentials = [
        UserScramCredentialUpsertion(user, MECHANISM, password, iterations=ITERATIONS)
        for user, password in passwords.items()
    ]
    refused = {user: why for user, why in admin.alter_user_scram_credentials(credentials).items() if why}
    if refused:
        raise RuntimeError(f"Kafka refused to set passwords: {refused}")
    made = admin.create_acls([_acl(user, *right) for user in passwords for right in RIGHTS[user]])
    if made["failed"]:
        raise RuntimeError(f"Kafka refused to set rights: {made['failed']}")


def _acl(user: str, kind: ResourceType, prefix: str, operation: ACLOperation) -> ACL:
    return ACL(
        principal=f"User:{user}",
        host="*",
        operation=operation,
        permission_type=ACLPermissionType.ALLOW,
        resource_pattern=ResourcePattern(kind, prefix, PatternType.PREFIXED),
    )


def broker_context(authority: str, keystore: str) -> ssl.SSLContext:
    """Make a TLS context that trusts the authority's file and presents the broker's certificate."""
    context = ssl.create_default_context(cafile=authority)
    context.load_cert_chain(keystore)
    return context


def _passwords(users: str, region: str) -> dict[str, str]:
    import boto3  # imported here, because only the broker has it

    client: Any = boto3.client("secretsmanager", region_name=region)
    pairs = (pair.split("=", 1) for pair in users.split(","))
    return {name: client.get_secret_value(SecretId=arn)["SecretString"] for name, arn in pairs}


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("--bootstrap", "--region", "--authority", "--keystore", "--users"):
        parser.add_argument(name, required=True)
    given = parser.parse_args()
    passwords = _passwords(given.users, given.region)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            admin = KafkaAdminClient(
                bootstrap_servers=given.bootstrap,
                security_protocol="SSL",
                ssl_context=broker_context(given.authority, given.keystore),
            )
            apply(admin, passwords)
            admin.close()
            break
        except (errors.KafkaError, OSError) as error:
            if time.monotonic() > deadline:
                sys.exit(f"could not create Kafka's users within {PATIENCE_SECONDS:.0f} s: {error}")
            time.sleep(5)


if __name__ == "__main__":
    main()
