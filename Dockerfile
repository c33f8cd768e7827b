# One image for all Candleflow processes; docker-compose.yml gives each service its command. To pin the base image,
# build with PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:<its digest>.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
COPY deploy/uv.txt requirements.txt ./
# pip and uv install only what the two files list, and verify each package's hash.
RUN python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes -r uv.txt \
    && uv venv /opt/venv \
    && uv pip install --no-cache --python /opt/venv/bin/python --compile-bytecode --require-hashes -r requirements.txt
# Download Spark's connectors and verify their SHA-256. Only the modules that the download needs are copied, so a change
# elsewhere in the code doesn't invalidate this layer.
COPY candleflow/__init__.py candleflow/backoff.py candleflow/command.py candleflow/errors.py candleflow/proxies.py candleflow/
COPY candleflow/stack/__init__.py candleflow/stack/jar_lock.py candleflow/stack/jars.py candleflow/stack/jar_download.py candleflow/stack/jars.lock candleflow/stack/
ARG MAVEN_URL=https://repo1.maven.org/maven2
RUN /opt/venv/bin/python -c "import sys; from pathlib import Path; from candleflow.stack.jars import ensure_jars; ensure_jars('spark', Path('/opt/cache'), maven_url=sys.argv[1])" "${MAVEN_URL}"

FROM ${PYTHON_IMAGE}
# Spark's JVM. No version is pinned, because Debian removes the old one as soon as it publishes a newer one.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends openjdk-17-jre-headless \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --shell /usr/sbin/nologin candleflow \
    && install --directory --owner=candleflow --group=candleflow /data /opt/cache/cds
COPY --from=build /opt/venv /opt/venv
# Each start verifies the jars. Spark's class-data archives (CDS) are written beside them, into /opt/cache/cds, which is a
# volume in docker-compose.yml.
COPY --from=build --chown=candleflow:candleflow /opt/cache /opt/cache
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    CANDLEFLOW_DATA_DIR=/data \
    CANDLEFLOW_CACHE_DIR=/opt/cache \
    CANDLEFLOW_METRICS_PORT=9464
WORKDIR /app
COPY LICENSE producer.py processor.py dashboard.py alerts.py forecaster.py ./
COPY .streamlit .streamlit
COPY deploy/healthcheck.py deploy/
COPY candleflow candleflow
# Fail the build if the installed Java can't run Spark.
RUN python -m compileall -q candleflow \
    && python -c "from pathlib import Path; from candleflow.stack.java import is_suitable; raise SystemExit(not any(map(is_suitable, Path('/usr/lib/jvm').iterdir())))"
USER 10001:10001
VOLUME /data
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 CMD ["python", "deploy/healthcheck.py"]
CMD ["python", "-m", "candleflow", "--help"]
