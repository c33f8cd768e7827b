"""Write candleflow/stack/jars.lock (`make lock-jars`). Needs mvn; users of the lock don't.

Maven resolves the dependencies of each bundle. The `spark` bundle leaves out the jars that pyspark ships.
Maven verifies each download against the repository's checksum; the SHA-256 is computed from that file.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from importlib import util
from pathlib import Path

LOCK = Path(__file__).parent.parent / "candleflow" / "stack" / "jars.lock"
BUNDLES = {
    "kafka": [
        ("org.apache.kafka", "kafka_2.13", "4.4.0"),
        # Kafka depends on slf4j 1.7 but ships no binding, without which it logs nothing.
        ("org.apache.logging.log4j", "log4j-slf4j-impl", "2.25.5"),
    ],
    "spark": [
        ("org.apache.spark", "spark-sql-kafka-0-10_2.13", "4.2.0"),
        ("org.postgresql", "postgresql", "42.7.14"),
        # Hadoop's own local file system forks a process for each file operation. This one doesn't.
        ("com.globalmentor", "hadoop-bare-naked-local-fs", "0.1.0"),
    ],
}
# These jars contain only annotations, which no class needs at run time.
NEEDLESS = {"checker-qual"}


def main() -> None:
    shipped = {_artifact(path.name) for path in _pyspark_jars()}
    lines = ["# bundle, bytes, SHA-256, path on Maven Central. Made by deploy/lock_jars.py."]
    for bundle, wanted in BUNDLES.items():
        leave_out = NEEDLESS | (shipped if bundle == "spark" else set())
        lines += [
            f"{bundle} {path.stat().st_size} {hashlib.sha256(path.read_bytes()).hexdigest()} {coordinates}"
            for coordinates, path in _resolve(wanted)
            if _artifact(path.name) not in leave_out
        ]
    LOCK.write_text("\n".join(lines) + "\n")
    sys.stdout.write(f"{LOCK.name}: {len(lines) - 1} jars\n")


def _resolve(wanted: list[tuple[str, str, str]]) -> list[tuple[str, Path]]:
    """Return the path on Maven Central and the local file of each jar needed at run time, sorted."""
    dependencies = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version></dependency>"
        for group, name, version in wanted
    )
    with tempfile.TemporaryDirectory() as folder:
        project, listing = Path(folder, "pom.xml"), Path(folder, "list.txt")
        project.write_text(
            "<project><modelVersion>4.0.0</modelVersion><groupId>candleflow</groupId><artifactId>jars</artifactId>"
            f"<version>1</version><dependencies>{dependencies}</dependencies></project>"
        )
        arguments = [
            "-DincludeScope=runtime",
            "-DoutputAbsoluteArtifactFilename=true",
            f"-DoutputFile={listing}",
        ]
        command = ["mvn", "-q", "-B", "-f", str(project), "dependency:list", *arguments]
        subprocess.run(command, check=True)
        found = re.findall(
            r"^\s+([\w.\-]+):([\w.\-]+):jar:([\w.\-]+):\w+:(\S+\.jar)", listing.read_text(), re.MULTILINE
        )
    return sorted(
        (f"{group.replace('.', '/')}/{name}/{version}/{Path(file).name}", Path(file))
        for group, name, version, file in found
    )


def _pyspark_jars() -> list[Path]:
    spec = util.find_spec("pyspark")
    if spec is None or spec.origin is None:
        sys.exit("pyspark is not installed: its jars must be known, to leave them out of the lock")
    return list((Path(spec.origin).parent / "jars").glob("*.jar"))


def _artifact(file_name: str) -> str:
    """Return ``kafka-clients`` for ``kafka-clients-3.9.2.jar``."""
    return re.sub(r"-\d[\w.\-]*\.jar$", "", file_name)


if __name__ == "__main__":
    main()
