"""A network link that goes dead silently: socket options end busy and idle connections. And a machine without a free
local port."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pg_wired
from rig.checks import SOON
from rig.dead_link import COUNT, IDLE, INTERVAL, USER_TIMEOUT

pytestmark = pytest.mark.servers

NAMESPACE = ["unshare", "--net"]  # in it, loopback can be switched off without affecting others
EARLY = 0.5  # seconds by which the kernel's coarse timers may be early


@pytest.fixture(scope="module")
def told(pytestconfig: pytest.Config) -> dict[str, tuple[str, str, str, float]]:
    if subprocess.run([*NAMESPACE, "ip", "link"], capture_output=True).returncode:
        pytest.skip("no network namespace can be made here: that needs root, unshare and ip")
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{Path(pg_wired.__file__).parents[1]}:{root}"}
    source = [name] if (name := pytestconfig.getoption("--postgres")) else []
    command = [*NAMESPACE, sys.executable, "-m", "rig.dead_link", *source]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert not done.returncode, done.stderr
    found: dict[str, tuple[str, str, str, float]] = json.loads(done.stdout)
    return found


def test_tcp_user_timeout_ends_a_request_that_is_not_acknowledged(told: dict[str, tuple[str, str, str, float]]) -> None:
    kind, text, outcome, seconds = told["busy"]
    assert (kind, outcome) == ("IoError", "UNKNOWN") and "timed out" in text
    assert USER_TIMEOUT / 1000 - EARLY < seconds < SOON


def test_keepalives_end_an_idle_connection(told: dict[str, tuple[str, str, str, float]]) -> None:
    kind, text, outcome, seconds = told["idle"]
    assert (kind, outcome) == ("IoError", "NOT_SENT") and "timed out" in text
    assert IDLE + INTERVAL * COUNT - EARLY < seconds < SOON


def test_a_connect_without_a_free_local_port_raises_io_error(told: dict[str, tuple[str, str, str, float]]) -> None:
    kind, text, outcome, seconds = told["ports"]
    assert (kind, outcome) == ("IoError", "NOT_SENT") and "Cannot assign requested address" in text
    assert seconds < SOON
