# One image for all Candleflow processes; docker-compose.yml gives each service its command. It needs BuildKit.
#
# PYTHON_IMAGE replaces the base image. Its default is the stage "pinned", because Dependabot updates FROM, not ARG.
ARG PYTHON_IMAGE=pinned
FROM python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b AS pinned

# Spark's JVM without what no server needs: 55 MB instead of 260. No version is pinned, because Debian removes the old
# one as soon as it publishes a newer one.
FROM ${PYTHON_IMAGE} AS java
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends openjdk-17-jdk-headless \
    && rm -rf /var/lib/apt/lists/* \
    && jlink --output /opt/java --compress 2 --strip-java-debug-attributes --no-header-files --no-man-pages \
        --add-modules java.se,jdk.charsets,jdk.crypto.cryptoki,jdk.crypto.ec,jdk.incubator.vector,jdk.jfr,jdk.localedata,jdk.management.jfr,jdk.naming.dns,jdk.net,jdk.security.auth,jdk.security.jgss,jdk.unsupported,jdk.zipfs \
        --include-locales en

FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
COPY deploy/uv.txt requirements.txt deploy/slim_image.py ./
# pip and uv install only what the two files list, and verify each package's hash.
RUN python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes -r uv.txt \
    && uv venv /opt/venv \
    && uv pip install --no-cache --python /opt/venv/bin/python --compile-bytecode --require-hashes -r requirements.txt \
    && python slim_image.py /opt/venv
# Download Spark's connectors and verify their SHA-256. Only the modules that the download needs are copied, so a change
# elsewhere in the code doesn't invalidate this layer.
COPY candleflow/__init__.py candleflow/backoff.py candleflow/command.py candleflow/errors.py candleflow/proxies.py candleflow/
COPY candleflow/stack/__init__.py candleflow/stack/jar_lock.py candleflow/stack/jars.py candleflow/stack/jar_download.py candleflow/stack/jars.lock candleflow/stack/
ARG MAVEN_URL=https://repo1.maven.org/maven2
RUN /opt/venv/bin/python -c "import sys; from pathlib import Path; from candleflow.stack.jars import ensure_jars; ensure_jars('spark', Path('/opt/cache'), maven_url=sys.argv[1])" "${MAVEN_URL}"

FROM ${PYTHON_IMAGE}
# Spark's class-data archive (CDS) is written to /opt/cache/cds, nothing else but /data and /tmp.
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin candleflow \
    && install --directory --owner=candleflow --group=candleflow /data /opt/cache/cds
COPY --from=java /opt/java /opt/java
COPY --from=build /opt/venv /opt/venv
# Each start verifies the jars.
COPY --from=build /opt/cache /opt/cache
ENV PATH=/opt/venv/bin:$PATH \
    JAVA_HOME=/opt/java \
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
# Fail the build if Java lacks a library of the base image.
RUN python -m compileall -q candleflow \
    && /opt/java/bin/java -version
USER 10001:10001
VOLUME /data
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 CMD ["python", "deploy/healthcheck.py"]
CMD ["python", "-m", "candleflow", "--help"]
