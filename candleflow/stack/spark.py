"""Run ``processor`` and ``backfill`` with the local files that Spark needs: Java, jars, class-data archive.

The packages ``processor`` and ``history`` don't know where these files are. They get ``spark_files`` as a
parameter and call it when they are ready to start Spark.
"""

from __future__ import annotations

import argparse
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from candleflow.engine.session import SparkFiles
from candleflow.history import backfill
from candleflow.processor import process as processor
from candleflow.settings import SPARK_SUBMIT, Settings
from candleflow.stack import process
from candleflow.stack.class_archive import ClassArchive, spark_archive
from candleflow.stack.jars import ensure_jars
from candleflow.stack.java import find_java
from candleflow.stack.work_folder import work_folder

_log = logging.getLogger(__name__)

_END_SECONDS = 2.0
"""How long to wait at the end for a killed JVM that was making an archive, so that it doesn't become a
zombie."""


def run_processor(settings: Settings) -> int:
    """Run the processor and return its exit status."""
    return processor.run(settings, partial(spark_files, settings, processor.NAME))


def run_backfill(settings: Settings, arguments: argparse.Namespace) -> int:
    """Run ``backfill`` and return its exit status."""
    # In the data folder: the downloaded archive may be too large for /tmp.
    folder = partial(work_folder, "backfill-", settings.stack.data_path)
    return backfill.run(settings, arguments, folder, partial(spark_files, settings, "backfill"))


@contextmanager
def spark_files(settings: Settings, name: str) -> Iterator[SparkFiles]:
    """Provide Java, the jars and a work folder for Spark. Downloads what is missing.

    Under spark-submit only the work folder is needed. Raises StackError if Java or a jar can't be found or
    downloaded.
    """
    # In the temporary folder: Spark splits this path at commas, which the data folder's path may have.
    with work_folder(f"candleflow-{name}-") as work_dir:
        if settings.spark.master == SPARK_SUBMIT:
            yield SparkFiles(work_dir)
            return
        java_home = find_java(settings.stack.cache_path)
        jars = ensure_jars("spark", settings.stack.cache_path)
        archive = spark_archive(settings.stack.cache_path, java_home, jars)
        listing = work_dir / "classes.txt"
        options = archive.java_options(listing)
        making = threading.Lock()
        try:
            archive_classes = partial(_archive_classes, archive, listing, making)
            yield SparkFiles(work_dir, java_home, jars, options, archive_classes)
        finally:
            process.kill_runs()
            making.acquire(timeout=_END_SECONDS)


def _archive_classes(archive: ClassArchive, listing: Path, making: threading.Lock, class_path: str) -> None:
    """Make the archive for the next start if the running JVM found none. Raises StackError if that fails."""
    began_at = time.monotonic()
    with making:
        if listing.exists() and archive.make(listing, class_path):
            seconds = time.monotonic() - began_at
            _log.info("archived Spark's classes in %.0f s: the next start is faster", seconds)
