"""The files that run on AWS machines have valid syntax there."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from deploy.aws import bundle
from deploy.aws.emr.launch import read_secrets

HERE = Path(bundle.__file__).parent


@pytest.mark.parametrize("script", ["broker/start.sh", "emr/bootstrap.sh"])
def test_scripts_are_sound(script: str) -> None:
    done = subprocess.run(["bash", "-n", str(HERE / script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_bundles_hold_what_the_scripts_name() -> None:
    bundle.bundle()
    assert {file.name for file in bundle.BROKER.iterdir()} >= {
        "users.py", "server.properties", "log4j2.xml", "requirements.lock", "jars.sha256"
    }  # fmt: skip
    assert {file.name for file in bundle.SPARK.iterdir()} >= {
        "launch.py", "candleflow", "requirements.lock", "jars.sha256"
    }  # fmt: skip
    assert "kafka_2.13-4" in (bundle.BROKER / "jars.sha256").read_text()
    assert "spark-sql-kafka-0-10_2.13-4.0" in (bundle.SPARK / "jars.sha256").read_text()


class SecretsManager:
    """Stands in for boto3's client, as far as launch.py uses it."""

    def get_secret_value(self, **asked: str) -> dict[str, str]:
        return {"SecretString": {"plain": "one", "owner": json.dumps({"password": "two"})}[asked["SecretId"]]}


def test_the_launcher_reads_whole_secrets_and_keys() -> None:
    assert read_secrets(["A=plain", "B=owner#password"], SecretsManager()) == {"A": "one", "B": "two"}
