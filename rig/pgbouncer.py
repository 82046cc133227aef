"""A PgBouncer of a given version in front of a PostgreSQL, which always ends with its block. Does not use pg_wired.

The binaries are those that `rig/pgbouncer.sh` unpacks, or the system's if it has the same version.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, TypeAlias

from .postgres import (
    DEADLINE,
    POLL,
    TAIL,
    TRIES,
    Identity,
    LaunchError,
    Postgres,
    Server,
    Setting,
    free_port,
    is_open,
    link_or_copy,
    new_folder,
    watch_over,
)

PoolMode: TypeAlias = Literal["session", "transaction", "statement"]

# 1.18 does not support prepared statements across transactions (new in 1.21), 1.24 does.
VERSIONS = ["1.18", "1.24"]
ROOT = Path(__file__).parents[1]
ADMIN = "pgbouncer"  # the name of its console database


def binary(version: str) -> Path | None:
    """The path of this version of PgBouncer; None if there is none here, and `missing` gives the reason."""
    unpacked = ROOT / f"build/pgbouncer-{version}/pgbouncer"
    found = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin")
    for path in (unpacked, *([Path(found)] if found else [])):
        if path.exists() and _version(path).startswith(f"{version}."):
            return path
    return None


def missing(version: str) -> str | None:
    """The reason why `rig/pgbouncer.sh` could not get it; None if that did not run."""
    with suppress(FileNotFoundError):
        return (ROOT / f"build/pgbouncer-{version}/missing").read_text().strip()
    return None


def _version(path: Path) -> str:
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    return said.split()[1]


class PgBouncer(Server):
    """One pooler; `dsn` connects through it to the server's database, `admin_dsn` to its console (simple_query)."""

    def __init__(self, path: Path, target: Postgres, settings: Mapping[str, Setting], files: Mapping[str, str]) -> None:
        super().__init__("")
        self.target = target
        self.port = 0
        self.admin_dsn = ""
        self._settings = settings
        self._files = files
        self._process: subprocess.Popen[bytes] | None = None
        self._identity = Identity.choose()
        self.folder = new_folder()
        self._watchdog = watch_over(self.folder, "pid")
        self._path = path

    @classmethod
    @contextmanager
    def launch(
        cls,
        version: str,
        target: Postgres,
        pool_mode: PoolMode = "transaction",
        *,
        files: Mapping[str, str] | None = None,
        **settings: Setting,
    ) -> Iterator[PgBouncer]:
        """Start a new pooler with these settings in its [pgbouncer] section. Raises LaunchError.

        `files` are written to its working directory, so settings may name them without a folder.
        """
        path = binary(version)
        if path is None:
            raise LaunchError(missing(version) or f"no PgBouncer {version} here: rig/pgbouncer.sh unpacks it")
        pooler = cls(path, target, {"pool_mode": pool_mode} | settings, files or {})
        try:
            pooler._prepare()
            pooler._start_on_a_free_port()
            yield pooler
        finally:
            pooler.stop()
            pooler._watchdog.communicate(b"\n")

    def start(self) -> None:
        """Start it for the first time or again; return when it accepts connections."""
        before = len(self.log())
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._identity.prefix, self._path, self.folder / "ini"],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._identity.credentials,
            )
        limit = time.monotonic() + DEADLINE
        while "process up" not in self.log()[before:]:
            if self._process.poll() is not None or time.monotonic() > limit:
                self.stop()
                tail = "\n".join(self.log().splitlines()[-TAIL:])
                raise LaunchError(f"PgBouncer did not start; the end of its log:\n{tail}")
            time.sleep(POLL)

    def stop(self) -> None:
        """End it and all its connections at once. Does nothing if it is stopped."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)  # works with every version, and PgBouncer has no data to save
            self._process.wait()
            self._process = None
            (self.folder / "pid").unlink(missing_ok=True)  # the next start would take it for a running PgBouncer

    def log(self) -> str:
        """Its log so far."""
        return (self.folder / "log").read_text(errors="replace")

    def _dsn(self, dbname: str) -> str:
        user, password = self.target.user, self.target.password
        return f"host={self.target.host} port={self.port} user={user} password={password} dbname={dbname}"

    def _start_on_a_free_port(self) -> None:
        for left in reversed(range(TRIES)):
            self.port = free_port()
            self.dsn = self._dsn(self.target.dbname)
            self.admin_dsn = self._dsn(ADMIN)
            self._configure()
            try:
                return self.start()
            except LaunchError as error:
                if not left or "Address already in use" not in str(error):
                    raise

    def _prepare(self) -> None:
        self.folder.chmod(0o711)
        self._identity.own(self.folder)
        if self._identity.credentials and not is_open(self._path):
            shutil.copytree(self._path.parent, self.folder / "bin", symlinks=True, copy_function=link_or_copy)
            self._path = self.folder / "bin" / self._path.name
        self._write("log", "")
        self._write("users", f'"{self.target.user}" "{self.target.password}"\n')
        for name, text in self._files.items():
            self._write(name, text)

    def _configure(self) -> None:
        settings: dict[str, Setting] = {
            "listen_addr": self.target.host,
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": str(self.folder / "users"),
            "admin_users": self.target.user,
            "pidfile": str(self.folder / "pid"),
            "server_login_retry": 1,  # seconds; the default is fifteen, during which all clients are refused
            **self._settings,
        }
        database = f"* = host={self.target.host} port={self.target.port}"
        lines = [f"{name} = {value}" for name, value in settings.items()]
        self._write("ini", "\n".join(["[databases]", database, "[pgbouncer]", *lines, ""]))

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.touch(0o600)
        self._identity.own(path)
        path.write_text(text)
