"""Start the processor on EMR: read its passwords from Secrets Manager, then run it.

This is the program that spark-submit runs. It reads the passwords itself, because everybody who may look at
the cluster can see a step's arguments, Spark's configuration and YARN's environment. ``--secret NAME=ARN``
names a setting and its secret. Settings that are not secret are in the environment already.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from typing import Any


def read_secrets(pairs: Iterable[str], client: Any) -> dict[str, str]:
    """Return the settings by name. ``ARN#key`` means that key of the secret's JSON."""
    import json

    found = {}
    for pair in pairs:
        name, _, place = pair.partition("=")
        arn, _, key = place.partition("#")
        text = client.get_secret_value(SecretId=arn)["SecretString"]
        found[name] = str(json.loads(text)[key]) if key else text
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--region", required=True)
    parser.add_argument("--secret", action="append", default=[])
    given = parser.parse_args()
    import boto3

    client = boto3.client("secretsmanager", region_name=given.region)
    os.environ.update(read_secrets(given.secret, client))
    from candleflow import settings
    from candleflow.processor import process as processor

    return processor.run(settings.load())


if __name__ == "__main__":
    sys.exit(main())
