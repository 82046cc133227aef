"""Connections through a PgBouncer with TLS: verification, cancel requests, and missing channel binding."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trustme

from pg_wired import AsyncConn, AuthenticationError, IoError, Outcome, PgError, TlsConfig
from rig.certificates import issued, root
from rig.checks import answers, ends_clean, outcome_of, until_sql
from rig.pgbouncer import PgBouncer
from rig.postgres import Postgres
from tests.servers.poolers import NEW, OLD, pooler

pytestmark = [pytest.mark.servers, pytest.mark.both_loops]

TLS = {"client_tls_sslmode": "require", "client_tls_cert_file": "server.crt", "client_tls_key_file": "server.key"}


@pytest.fixture(scope="module", params=[OLD, NEW])
def bouncer(request: pytest.FixtureRequest, launched: Postgres, authority: trustme.CA) -> Iterator[PgBouncer]:
    files = issued(authority, "127.0.0.1").files()
    with pooler(request.param, launched, "session", files=files, **TLS) as found:
        yield found


@ends_clean()
async def test_a_login_is_not_channel_bound_and_channel_binding_require_is_refused(
    bouncer: PgBouncer, authority: trustme.CA
) -> None:
    """PgBouncer offers SCRAM without channel binding: `prefer` accepts that; `require` refuses, sending no password."""
    tls = TlsConfig(roots=root(authority))
    async with await AsyncConn.connect(bouncer.dsn, tls=tls) as conn:
        assert conn.is_tls and not conn.channel_bound and conn.auth_mechanism == "SCRAM-SHA-256"
        await answers(conn)
    refused = await outcome_of(AsyncConn.connect(bouncer.dsn, tls=tls, channel_binding="require"))
    assert type(refused) is AuthenticationError and refused.outcome is Outcome.NOT_SENT
    assert "channel_binding=require" in str(refused)


@ends_clean()
async def test_another_authority_is_not_trusted(bouncer: PgBouncer) -> None:
    refused = await outcome_of(AsyncConn.connect(bouncer.dsn, tls=TlsConfig(roots=root(trustme.CA()))))
    assert type(refused) is IoError and "certificate was refused" in str(refused)


@ends_clean()
async def test_a_cancel_request_through_pgbouncer_works_over_tls(
    bouncer: PgBouncer, launched: Postgres, authority: trustme.CA
) -> None:
    tls = TlsConfig(roots=root(authority))
    async with await AsyncConn.connect(launched.dsn) as admin, await AsyncConn.connect(bouncer.dsn, tls=tls) as conn:
        running = conn.exec_query("select pg_sleep(30) as through_tls")
        await until_sql(
            admin,
            "select count(*) > 0 from pg_stat_activity where query like '%through_tls' and wait_event = 'PgSleep'",
        )
        await conn.cancel_token().cancel()
        error = await outcome_of(running)
        assert isinstance(error, PgError) and error.code == "57014"
        await answers(conn)
