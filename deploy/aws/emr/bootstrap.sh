#!/bin/bash
# Prepares a node of the Spark cluster: the processor's code, its jars, and a Python with the packages it imports.
# EMR runs it on each node before Spark starts: bootstrap.sh s3://the/bundle.zip certificate-bundle-url
set -euo pipefail
HOME_DIR=/opt/candleflow

sudo mkdir -p "$HOME_DIR"
aws s3 cp --only-show-errors "$1" /tmp/candleflow.zip
sudo unzip -qo /tmp/candleflow.zip -d "$HOME_DIR"
(cd "$HOME_DIR/jars" && sha256sum --check --quiet ../jars.sha256)
sudo curl --fail --silent --show-error --retry 5 --output "$HOME_DIR/rds.pem" "$2"
openssl x509 -in "$HOME_DIR/rds.pem" -noout
sudo python3.11 -m venv "$HOME_DIR/venv"
sudo "$HOME_DIR/venv/bin/python" -m pip install --quiet --require-hashes -r "$HOME_DIR/requirements.lock"
sudo chmod -R go+rX "$HOME_DIR"
