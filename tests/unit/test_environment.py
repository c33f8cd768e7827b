"""Environment variables for other programs are removed, or refused by a message that names them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import certifi
import pytest

from candleflow import environment
from candleflow.cli import main
from candleflow.engine import session
from candleflow.stack import up
from tests.processes import ROOT

FOREIGN = [
    "PGHOST", "PGSSLMODE", "PGOPTIONS", "PGSERVICE", "PGREQUIREAUTH", "PGTARGETSESSIONATTRS",
    "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH", "LOG4J_CONFIGURATION_FILE",
]  # fmt: skip
KEPT = ["PATH", "HOME", "HTTPS_PROXY", "STREAMLIT_SERVER_ADDRESS", "SPARK_HOME", "JAVA_HOME", "LD_PRELOAD"]


@pytest.fixture(autouse=True)
def _away_from_any_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", FOREIGN)
def test_variables_of_other_programs_are_removed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "require")
    environment.prepare()
    assert name not in os.environ


def test_variables_that_we_use_stay_and_the_locale_is_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    for name in KEPT:
        monkeypatch.setenv(name, "as it was")
    environment.prepare()
    assert {os.environ[name] for name in KEPT} == {"as it was"}
    assert os.environ["LC_ALL"] == ("C.UTF-8" if sys.platform == "linux" else "C")


def test_a_user_id_without_a_name_or_a_home_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise Streamlit ends with a traceback."""

    def no_entry(_: int) -> None:
        raise KeyError

    monkeypatch.setenv("HOME", "")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", no_entry)
    environment.prepare()
    assert os.environ["HOME"] == "/"


REFUSED = [
    ("SSL_CERT_FILE", "/nowhere/ca.pem", "No such file"),
    ("SSL_CERT_FILE", "garbage.pem", "no PEM certificates"),
    ("SSL_CERT_FILE", ".", "directory"),
    ("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem", "No such file"),
    ("CURL_CA_BUNDLE", "/nowhere/ca.pem", "No such file"),
    ("SSLKEYLOGFILE", "/nowhere/keys", "No such file"),
    ("SSLKEYLOGFILE", ".", "directory"),
]


@pytest.mark.parametrize(("name", "value", "reason"), REFUSED)
def test_an_unusable_variable_is_named_in_one_sentence(
    name: str, value: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("garbage.pem").write_text("garbage")
    monkeypatch.setenv(name, value)
    assert main(["settings"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{name}={value!r} can't be ")
    assert reason.casefold() in said.casefold()
    assert said.endswith(f"or unset {name}\n")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SSL_CERT_FILE", certifi.where()),
        ("SSL_CERT_FILE", ""),
        ("REQUESTS_CA_BUNDLE", "."),
        ("SSLKEYLOGFILE", "keys"),
    ],
)
def test_a_usable_variable_is_kept(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    environment.prepare()
    assert os.environ[name] == value


@pytest.mark.parametrize(
    "program",
    [["producer.py"], ["processor.py"], ["alerts.py"], ["forecaster.py"], ["-m", "candleflow", "status"]],
)
def test_every_program_checks_the_environment_first(program: list[str], tmp_path: Path) -> None:
    """Also the programs of the three terminals, before they create a file."""
    done = subprocess.run(
        [sys.executable, *program],
        cwd=ROOT,
        env=os.environ | {"SSL_CERT_FILE": "/nowhere/ca.pem", "CANDLEFLOW_DATA_DIR": str(tmp_path / "data")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("SSL_CERT_FILE='/nowhere/ca.pem' can't be used: ")
    assert not (tmp_path / "data").exists()


def test_streamlits_variables_reach_no_child_of_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would move the page to another path, and ``up`` would wait for its health for ever."""
    monkeypatch.setenv("STREAMLIT_SERVER_BASE_URL_PATH", "candles")
    monkeypatch.setenv("candleflow_exchange", "auto")
    made = up.child_environment({"CANDLEFLOW_EXCHANGE": "simulator"})
    assert "STREAMLIT_SERVER_BASE_URL_PATH" not in made
    assert "candleflow_exchange" not in made
    assert made["CANDLEFLOW_EXCHANGE"] == "simulator"


SPARKS = ["SPARK_HOME", "SPARK_CONF_DIR", "PYSPARK_SUBMIT_ARGS", "PYSPARK_GATEWAY_PORT", "SPARK_REMOTE"]
A_CLUSTERS = ["SPARK_LOCAL_DIRS", "SPARK_SUBMIT_OPTS", "SPARK_USER", "HADOOP_CONF_DIR", "YARN_CONF_DIR"]


@pytest.mark.parametrize(
    ("master", "gone", "kept"),
    [("local[*]", [*SPARKS, *A_CLUSTERS], []), ("spark://10.0.0.1:7077", SPARKS, A_CLUSTERS)],
)
def test_sparks_variables_reach_no_local_session(
    master: str, gone: list[str], kept: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*gone, *kept):
        monkeypatch.setenv(name, "theirs")
    monkeypatch.setenv("JAVA_HOME", "theirs")
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    session._prepare_environment(Path("/ours"), master)
    assert not os.environ.keys() & set(gone)
    assert {os.environ[name] for name in kept} <= {"theirs"}
    assert os.environ["JAVA_HOME"] == "/ours"
