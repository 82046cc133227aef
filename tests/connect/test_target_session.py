"""`target_session_attrs`: which servers are accepted, by the settings they report or by their answers."""

from __future__ import annotations

import pytest

from pg_wired import IoError, Outcome, PgError, PgWireError, WireConn
from pg_wired.protocol import messages as m
from pg_wired.testing import Peer, error
from rig.checks import ends_clean, outcome_of
from rig.hosts import Hosts, server, whatever_comes
from rig.postgres import free_port

pytestmark = pytest.mark.both_loops

WRITABLE = {"in_hot_standby": "off", "default_transaction_read_only": "off"}
READ_ONLY = {"in_hot_standby": "off", "default_transaction_read_only": "on"}
STANDBY = {"in_hot_standby": "on", "default_transaction_read_only": "off"}


@pytest.mark.parametrize(
    ("wanted", "order", "met"),
    [
        ("any", "spr", "standby"),
        ("read-write", "srp", "primary"),
        ("read-only", "psr", "standby"),
        ("read-only", "prs", "read only"),
        ("primary", "sr", "read only"),
        ("standby", "prs", "standby"),
        ("prefer-standby", "prs", "standby"),
        ("prefer-standby", "pr", "primary"),
        ("read-write", "sr", "session is read-only"),
        ("read-only", "p", "session is not read-only"),
        ("primary", "ss", "server is in hot standby mode"),
        ("standby", "pr", "server is not in hot standby mode"),
    ],
)
@pytest.mark.parametrize("reports", [True, False], ids=["reported", "asked for"])
@ends_clean()
async def test_each_target_session_attrs_value_chooses_a_fitting_host_or_fails(
    wanted: str, order: str, met: str, reports: bool
) -> None:
    kinds = {"p": ("primary", WRITABLE), "r": ("read only", READ_ONLY), "s": ("standby", STANDBY)}
    if not reports:  # a server before 14, or a pooler: it has to be asked what it is
        if "r" in order:
            return
        kinds = {letter: (name, {}) for letter, (name, _) in kinds.items()}
    async with Hosts(*[server(name, **reported) for name, reported in map(kinds.__getitem__, order)]) as hosts:
        got = await hosts.connect(target_session_attrs=wanted)
        if isinstance(got, str):
            assert got == met
        else:
            assert isinstance(got, IoError)
            assert f"{met} (target_session_attrs={wanted})" in str(got)
            assert "\n".join([str(got), *getattr(got, "__notes__", [])]).count("port") >= len(order)


@pytest.mark.parametrize("severity", ["ERROR", "FATAL", "end", "nonsense"])
@ends_clean()
async def test_a_host_that_does_not_answer_what_it_is_is_skipped(severity: str) -> None:
    """PgBouncer accepts the login, then answers with an error when its server cannot be reached."""

    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.expect(m.Query)
        if severity == "nonsense":
            await peer.send(m.CommandComplete("SHOW"), m.ReadyForQuery("I"))
        elif severity != "end":
            await peer.send(error("08P01", "server login failed", severity))
            if severity == "ERROR":
                await peer.send(m.ReadyForQuery("I"))
        peer.close()

    async with Hosts(whatever_comes(script), server("primary")) as hosts:
        assert await hosts.connect(target_session_attrs="read-write") == "primary"
    async with Hosts(whatever_comes(script)) as hosts:
        ended = await outcome_of(WireConn.connect(**hosts.options(target_session_attrs="read-write")))
    assert isinstance(ended, PgWireError) and ended.outcome is Outcome.NOT_SENT
    if severity in ("ERROR", "FATAL"):
        assert type(ended.__cause__) is PgError
        assert "asking for target_session_attrs=read-write failed" in str(ended) and "login failed" in str(ended)


@ends_clean()
async def test_prefer_standby_accepts_a_primary_when_a_host_is_unreachable() -> None:
    async with Hosts(server("primary", **WRITABLE)) as hosts:
        assert await hosts.connect(free_port(), target_session_attrs="prefer-standby") == "primary"
