"""The page behind a reverse proxy: the setting alone, and with the example configurations of the docs."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

import httpx2 as httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from candleflow.settings import load
from candleflow.stack.process import free_port, wait_for
from tests.dashboard.server import PageServer, page_server
from tests.security.certificates import Authority

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = (ROOT / "docs" / "guides" / "reverse-proxy.md").read_text()
HOST: Final = "candles.example.com"
FETCHED: Final = ROOT / ".venv-checkers" / "debian" / "usr"
"""The folder into which deploy/checkers unpacks Debian packages."""
PASSWORD: Final = "let-me-in"
SECONDS: Final = 20.0


def program(name: str) -> str | None:
    places = os.environ.get("PATH", ""), "/usr/sbin", str(FETCHED / "sbin"), str(FETCHED / "bin")
    return shutil.which(name, path=os.pathsep.join(places))


def needs(name: str) -> pytest.MarkDecorator:
    reason = f"no {name} here: deploy/checkers fetches it on Debian"
    return pytest.mark.skipif(program(name) is None, reason=reason)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """The page's server, without a database: its WebSocket needs none."""
    settings = load(
        dashboard_public_url=f"https://{HOST}",
        data_dir=tmp_path_factory.mktemp("data"),
        postgres_url=f"postgresql://candleflow@127.0.0.1:{free_port()}/candleflow",
        postgres_password="made-up",
    )
    with page_server(settings) as server:
        yield server


def status(
    port: int,
    host: str,
    origin: str,
    *,
    tls: ssl.SSLContext | None = None,
    headers: Mapping[str, str] | None = None,
) -> int:
    """Return the HTTP status of a WebSocket request with this Host and Origin, as a browser sends it."""
    there = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
    try:
        scheme = "ws" if tls is None else "wss"
        with connect(
            f"{scheme}://{host}/_stcore/stream",
            sock=there,
            origin=Origin(origin),
            ssl=tls,
            additional_headers=headers,
        ) as connection:
            assert connection.response is not None
            return connection.response.status_code
    except InvalidStatus as refused:
        return refused.response.status_code
    finally:
        there.close()


@pytest.mark.parametrize(
    ("host", "origin", "expected"),
    [
        (HOST, f"https://{HOST}", 101),
        (f"{HOST}:8443", f"https://{HOST}:8443", 101),
        ("127.0.0.1:{port}", "http://127.0.0.1:{port}", 101),
        ("localhost:{port}", "http://localhost:{port}", 101),
        (HOST, "https://evil.example", 403),
        (HOST, f"https://{HOST}.evil.example", 403),
        (HOST, f"https://evil.{HOST}", 403),
        ("evil.example", "https://evil.example", 403),
        (f"evil.{HOST}", f"https://evil.{HOST}", 403),
        ("127.0.0.1:{port}", "https://evil.example", 403),
    ],
)
def test_only_the_public_name_is_accepted(page: PageServer, host: str, origin: str, expected: int) -> None:
    assert status(page.port, host.format(port=page.port), origin.format(port=page.port)) == expected


def test_still_nothing_listens_off_this_machine(page: PageServer) -> None:
    listening = [c for c in page.process.net_connections() if c.status == "LISTEN"]
    assert [(c.laddr.ip, c.laddr.port) for c in listening] == [("127.0.0.1", page.port)]


def example(language: str, **replaced: str) -> str:
    """Return the docs' example configuration with the test's ports, certificates and passwords."""
    (text,) = re.findall(rf"^```{language}\n(.*?)^```$", DOCS, re.DOTALL | re.MULTILINE)
    for old, new in replaced.items():
        assert text.count(old) == 1, f"{old!r} in the docs' example"
        text = text.replace(old, new)
    return str(text)


@contextmanager
def started(command: Sequence[str | Path], folder: Path, port: int) -> Iterator[None]:
    log = folder / "proxy.log"
    environment = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
    try:
        assert wait_for(lambda: process.poll() is not None or answers(port), SECONDS), log.read_text()
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.terminate()
        process.wait(SECONDS)


def answers(port: int) -> bool:
    """Return whether the port answers with TLS: Caddy listens before it has its certificate."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as client:
            any_certificate().wrap_socket(client, server_hostname=HOST).close()
    except OSError:
        return False
    return True


def any_certificate() -> ssl.SSLContext:
    """Return a TLS context that accepts the test's self-signed certificates."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@contextmanager
def nginx(page: PageServer, folder: Path, port: int) -> Iterator[None]:
    certificate = Authority(folder).certificate("server", f"DNS:{HOST}")
    users = folder / "users"
    users.write_text(f"viewer:{{PLAIN}}{PASSWORD}\n")
    server = example(
        "nginx",
        **{
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            "/etc/ssl/certs/candles.example.com.pem": str(certificate.certificate),
            "/etc/ssl/private/candles.example.com.key": str(certificate.key),
            "/etc/nginx/candleflow.htpasswd": str(users),
            "127.0.0.1:8501": f"127.0.0.1:{page.port}",
        },
    )
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    main = f"daemon off;\npid {folder}/pid;\nerror_log stderr;\nuser root;\nevents {{}}\n"
    if os.getuid() != 0:
        main = main.replace("user root;\n", "")
    file = folder / "nginx.conf"
    file.write_text(f"{main}http {{\naccess_log off;\n{temporary}{server}}}\n")
    with started([program("nginx") or "", "-e", "stderr", "-p", folder, "-c", file], folder, port):
        yield


@contextmanager
def caddy(page: PageServer, folder: Path, port: int) -> Iterator[None]:
    caddy = program("caddy") or ""
    hashed = subprocess.run(
        [caddy, "hash-password", "--plaintext", PASSWORD], check=True, capture_output=True, text=True
    ).stdout.strip()
    site = example("caddyfile", PASSWORD_HASH=hashed, **{"127.0.0.1:8501": f"127.0.0.1:{page.port}"})
    options = (
        "{\nadmin off\nlocal_certs\nskip_install_trust\nauto_https disable_redirects\n"
        f"default_bind 127.0.0.1\nhttps_port {port}\n}}\n"
    )
    file = folder / "Caddyfile"
    file.write_text(options + site)
    with started([caddy, "run", "--adapter", "caddyfile", "--config", file], folder, port):
        yield


@pytest.mark.parametrize(
    "proxy", [pytest.param(nginx, marks=needs("nginx")), pytest.param(caddy, marks=needs("caddy"))]
)
def test_with_the_docs_configuration_a_page_and_its_websocket_work_for_who_has_the_password(
    page: PageServer, proxy: Callable[[PageServer, Path, int], AbstractContextManager[None]], tmp_path: Path
) -> None:
    port = free_port()
    tls = any_certificate()
    public = f"{HOST}:{port}"
    log_in = {"Authorization": f"Basic {b64encode(f'viewer:{PASSWORD}'.encode()).decode()}"}
    with proxy(page, tmp_path, port), httpx.Client(verify=tls, trust_env=False) as client:

        def got(path: str, **headers: str) -> int:
            return client.get(
                f"https://127.0.0.1:{port}{path}",
                headers={"Host": public, **headers},
                extensions={"sni_hostname": HOST},
            ).status_code

        assert got("/") == got("/_stcore/health") == 401
        assert got("/", **log_in) == got("/_stcore/health", **log_in) == got("/healthz", **log_in) == 200
        assert status(port, public, f"https://{public}", tls=tls) == 401
        assert status(port, public, f"https://{public}", tls=tls, headers=log_in) == 101
        assert status(port, public, "https://evil.example", tls=tls, headers=log_in) == 403
