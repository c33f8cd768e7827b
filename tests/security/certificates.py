"""Make certificates for the tests' servers with the openssl command."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@dataclass(frozen=True)
class Certificate:
    """Files: the key, the certificate, and both together, as Kafka's PEM keystore needs them."""

    key: Path
    certificate: Path
    both: Path


class Authority:
    """A certificate authority for servers on this machine."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._name = name
        self.file = folder / f"{name}.pem"
        _openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "2", "-subj", f"/CN={name}", "-keyout", folder / f"{name}.key", "-out", self.file,
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign",
        )  # fmt: skip

    def certificate(
        self, who: str, names: str, *, common_name: str = "server", is_expired: bool = False
    ) -> Certificate:
        """Make a certificate for ``names`` (``IP:127.0.0.1,DNS:localhost``), valid for a day or expired."""
        key, request, signed = (self._folder / f"{who}.{kind}" for kind in ("key", "csr", "crt"))
        extensions = self._folder / f"{who}.ext"
        extensions.write_text(f"subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\n")
        _openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-subj", f"/CN={common_name}", "-keyout", key, "-out", request,
        )  # fmt: skip
        past = ["-startdate", "20200101000000Z", "-enddate", "20200201000000Z"]
        times = past if is_expired else ["-days", "1"]
        self._sign(request, extensions, signed, times)
        both = self._folder / f"{who}.pem"
        both.write_text(key.read_text() + signed.read_text())
        return Certificate(key, signed, both)

    def _sign(self, request: Path, extensions: Path, signed: Path, times: list[str]) -> None:
        """Sign with `openssl ca`, because `openssl x509` can't set past dates before version 3.4."""
        index, configuration = self._folder / "index.txt", self._folder / "ca.cnf"
        index.write_text("")
        configuration.write_text(
            "[ca]\ndefault_ca=one\n[one]\npolicy=any\ndefault_md=sha256\n"
            f"database={index}\nrand_serial=yes\n[any]\ncommonName=supplied\n"
        )
        _openssl(
            "ca", "-batch", "-notext", "-config", configuration, "-in", request, "-out", signed,
            "-cert", self.file, "-keyfile", self._folder / f"{self._name}.key", "-extfile", extensions,
            "-outdir", self._folder, *times,
        )  # fmt: skip
