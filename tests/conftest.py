"""Checks and fixtures for all tests: the build under test, the servers, and both event loops."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import trustme
import uvloop

from rig import certificates
from rig.cluster import Cluster
from rig.postgres import FOR_TESTS, SOURCES, LaunchError, Postgres, Server, binaries, find, version

if importlib.util.find_spec("pg_wired") is None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

# No test fails because of its timing, and a failing test prints how to repeat it.
hypothesis.settings.register_profile("tests", deadline=None, print_blob=True)
hypothesis.settings.load_profile("tests")

# Remove the variables that libpq reads; tests set those they need.
for name in [name for name in os.environ if name.startswith("PG") and not name.startswith("PG_WIRED_")]:
    del os.environ[name]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--postgres", choices=list(SOURCES), help="whose PostgreSQL to start (default: the first there is)"
    )


def pytest_sessionstart(session: pytest.Session) -> None:
    """Print which build runs against which server; fail at once if it is not the build in PG_WIRED_EXPECT."""
    spec = importlib.util.find_spec("pg_wired.session.session")
    build = "compiled" if spec and str(spec.origin).endswith(".so") else "interpreted"
    expected = os.environ.get("PG_WIRED_EXPECT")
    if expected and (spec is None or build != expected):
        raise pytest.UsageError(f"PG_WIRED_EXPECT={expected}, but pg_wired is {build}: {spec and spec.origin}")
    try:
        server = next((name for name in FOR_TESTS if os.environ.get(name)), None) or version(
            binaries(session.config.getoption("--postgres"))
        )
    except LaunchError as error:
        raise pytest.UsageError(str(error)) from error
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    assert reporter
    reporter.write_line(f"pg_wired {build}, Python {platform.python_version()}, PostgreSQL {server}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """`make test` runs all tests twice, but those marked `servers` only on the compiled build, if there is one.

    They take longest, so they run first: otherwise the other cores would be idle at the end.
    """
    items.sort(key=lambda item: item.get_closest_marker("servers") is None)
    if os.environ.get("PG_WIRED_EXPECT") != "interpreted" or os.environ.get("PG_WIRED_PURE"):
        return
    left_out = [item for item in items if item.get_closest_marker("servers")]
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
        print(f"{len(left_out)} tests with several servers are left to the compiled build")


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    return loops | {"uvloop": uvloop.new_event_loop} if item.get_closest_marker("both_loops") else loops


@pytest.fixture(scope="session")
def postgres(pytestconfig: pytest.Config) -> Iterator[Server]:
    """The server for all tests that only need its `dsn`: one we start, or the one in PG_WIRED_TEST_DSN."""
    with find(*FOR_TESTS, source=pytestconfig.getoption("--postgres")) as server:
        yield server


@pytest.fixture(scope="session")
def launched(pytestconfig: pytest.Config) -> Iterator[Postgres]:
    """A server that we start, for tests with poolers or faults; a test that stops it starts it again."""
    # A backend whose client has disconnected ends at once, also inside pg_sleep.
    settings: dict[str, Any] = {"restart_after_crash": True, "client_connection_check_interval": "20ms"}
    with Postgres.launch(source=pytestconfig.getoption("--postgres"), **settings) as server:
        yield server


@pytest.fixture(scope="session")
def launched_cluster(pytestconfig: pytest.Config) -> Iterator[Cluster]:
    with Cluster.launch(source=pytestconfig.getoption("--postgres")) as cluster:
        yield cluster


@pytest.fixture
def cluster(launched_cluster: Cluster) -> Cluster:
    """A primary and a standby in step with it, whatever the previous test did to them."""
    if not launched_cluster.is_in_step:
        launched_cluster.rejoin()
    return launched_cluster


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """The authority that issues the certificate of `tls_server`."""
    return trustme.CA()


@pytest.fixture(scope="session")
def tls_server(authority: trustme.CA) -> Iterator[Postgres]:
    """A PostgreSQL with TLS and a certificate for localhost. A test that changes the certificate restores it."""
    with certificates.launch(certificates.issued(authority, certificates.NAME)) as server:
        yield server
