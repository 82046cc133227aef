"""The runtime around a connection: fork, threads, other loops, garbage collection and interpreter exit."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pg_wired
from pg_wired import AsyncConn, Outcome, PgWireError, UsageError
from pg_wired.protocol import messages as m
from rig.checks import answers, ends_clean, outcome_of
from rig.postgres import Server

pytestmark = pytest.mark.both_loops

HERE = str(Path(pg_wired.__file__).parents[1])
# The beginning of each script. It runs with asyncio or uvloop, and warnings are errors.
PRELUDE = """
import asyncio, gc, os, sys, threading, time
from pg_wired import *
# The first connect loads them: without bytecode that may take longer than debug mode lets a callback take.
import pg_wired.connect.connector, pg_wired.auth.handshake, pg_wired.auth.saslprep, pg_wired.auth.scram
from pg_wired.protocol import messages as m
if sys.argv[2] == "uvloop":
    import uvloop
    def run(main): return asyncio.Runner(loop_factory=uvloop.new_event_loop).run(main)
else:
    run = asyncio.run
dsn = sys.argv[1]
async def numbered(conn):
    for n in range(300):
        assert list(await conn.exec_query("select $1::int4", (str(n),))) == [(b"%d" % n,)]
def refuses(call):
    try:
        call()
    except UsageError as error:
        assert error.outcome is Outcome.NOT_SENT
        return str(error)
    raise AssertionError("not refused")
"""


def kind_of_loop() -> str:
    return "uvloop" if "uvloop" in type(asyncio.get_running_loop()).__module__ else "asyncio"


async def script(server: Server, text: str, *flags: str, error: str = "", code: int = 0) -> str:
    """Run the text in a new interpreter and return its stdout; stderr has to contain `error` ("..." allows any)."""
    command = [sys.executable, *flags, "-c", PRELUDE + textwrap.dedent(text), server.dsn, kind_of_loop()]
    environment = {**os.environ, "PYTHONPATH": HERE}
    ran = await asyncio.to_thread(subprocess.run, command, env=environment, capture_output=True, text=True, timeout=20)
    assert ran.returncode == code, ran.stderr
    assert error == "..." or (bool(ran.stderr) == bool(error) and error in ran.stderr), ran.stderr
    return ran.stdout


# ---- fork


@pytest.mark.parametrize("kind", ["postgres", "tls_server"])
@pytest.mark.parametrize("leaves", ["os._exit(0)", "sys.exit(0)", "os.execv('/bin/true', ['true'])", "pass"])
@ends_clean(60)
async def test_a_forked_child_is_refused_and_does_not_disturb_the_parent(
    request: pytest.FixtureRequest, kind: str, leaves: str
) -> None:
    """However the child ends, the parent's connections work on; the child sends no TLS close_notify on them."""
    server: Server = request.getfixturevalue(kind)
    if leaves == "sys.exit(0)" and kind_of_loop() == "uvloop":
        return  # after any getaddrinfo() of uvloop's a forked child crashes in its finalization, without us too
    said = await script(
        server,
        f"""
        loop = asyncio.new_event_loop() if sys.argv[2] == "asyncio" else uvloop.new_event_loop()
        conn = loop.run_until_complete(AsyncConn.connect(dsn))
        wire = loop.run_until_complete(WireConn.connect(dsn))
        loop.run_until_complete(numbered(conn))
        child = os.fork()
        if child == 0:
            for use in (
                lambda: conn.exec_query("select 1"),
                lambda: conn.simple_query("select 1"),
                lambda: conn.describe("select 1"),
                lambda: conn.submit(m.encode(m.Sync())),
                conn.clear_statement_cache,
                lambda: conn.close().send(None),
                lambda: wire.send(m.Sync()).send(None),
                lambda: wire.close().send(None),
            ):
                assert "forked" in refuses(use)
            if {leaves == "pass"}:
                conn.abort()
                wire.abort()
                del conn, wire
                gc.collect()
                os._exit(0)
            {leaves}
        assert os.waitpid(child, 0)[1] == 0
        loop.run_until_complete(numbered(conn))
        loop.run_until_complete(wire.send(m.Query("select 1")))
        loop.run_until_complete(wire.drain_until_ready())
        loop.run_until_complete(conn.close())
        loop.run_until_complete(wire.close())
        print("parent goes on")
        """,
    )
    assert said == "parent goes on\n"


@ends_clean(60)
async def test_a_forked_child_that_does_not_use_the_connection_does_no_harm(postgres: Server) -> None:
    said = await script(
        postgres,
        """
        async def main():
            async with await AsyncConn.connect(dsn) as conn:
                waiting = conn.exec_query("select pg_sleep(0.2), 1")
                child = os.fork()
                if child == 0:
                    gc.collect()
                    os._exit(0)
                os.waitpid(child, 0)
                assert list(await waiting) == [(b"", b"1")]
                await numbered(conn)
                print("parent goes on")
        run(main())
        """,
    )
    assert said == "parent goes on\n"


@ends_clean(60)
async def test_a_forked_child_can_connect_for_itself(postgres: Server) -> None:
    said = await script(
        postgres,
        """
        async def own():
            async with await AsyncConn.connect(dsn) as conn:
                await numbered(conn)
        async def parent():
            async with await AsyncConn.connect(dsn) as conn:
                await numbered(conn)
        run(parent())
        child = os.fork()
        if child == 0:
            run(own())
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        run(parent())
        print("both")
        """,
    )
    assert said == "both\n"


# ---- threads and loops


@ends_clean()
async def test_another_thread_is_refused(postgres: Server) -> None:
    async with await AsyncConn.connect(postgres.dsn) as conn:

        def elsewhere() -> list[Any]:
            uses: list[Callable[[], Any]] = [
                lambda: conn.exec_query("select 1"),
                lambda: conn.simple_query("select 1"),
                lambda: conn.describe("select 1"),
                lambda: conn.submit(m.encode(m.Sync())),
                lambda: conn.submit_batch([]),
                conn.clear_statement_cache,
                lambda: conn.invalidate_statement("select 1"),
            ]
            refused = []
            for use in uses:
                try:
                    refused.append(use())
                except PgWireError as error:
                    refused.append(error)
            return refused

        for refused in await asyncio.to_thread(elsewhere):
            assert isinstance(refused, UsageError) and refused.outcome is Outcome.NOT_SENT
        await answers(conn)


@ends_clean()
async def test_another_loop_is_refused(postgres: Server) -> None:
    async with await AsyncConn.connect(postgres.dsn) as conn:

        async def ask() -> Any:
            return await conn.exec_query("select 1")

        def in_a_loop_of_its_own() -> Any:
            return asyncio.run(outcome_of(ask()))

        refused = await asyncio.to_thread(in_a_loop_of_its_own)
        assert isinstance(refused, UsageError) and "another event loop" in str(refused)
        await answers(conn)


@ends_clean(60)
async def test_a_connection_of_an_earlier_loop_is_refused_and_a_new_one_works(postgres: Server) -> None:
    said = await script(
        postgres,
        """
        kept = []
        async def first():
            kept.append(await AsyncConn.connect(dsn))
            await numbered(kept[0])
        async def second():
            assert "another event loop" in refuses(lambda: kept[0].exec_query("select 1"))
            try:
                await kept[0].close()
            except UsageError:
                pass
            kept[0].abort()
            async with await AsyncConn.connect(dsn) as conn:
                await numbered(conn)
        run(first())
        run(second())
        kept.clear()
        gc.collect()
        print("done")
        """,
    )
    assert said == "done\n"


# ---- the end of the program, and garbage collection


@ends_clean(60)
async def test_an_interpreter_with_open_connections_ends_at_once_and_silently(postgres: Server) -> None:
    """With open connections, requests in flight and waiting tasks: the exit code is the program's."""
    await script(
        postgres,
        """
        async def main():
            kept = [await AsyncConn.connect(dsn) for _ in range(3)]
            await numbered(kept[0])
            waiting = [asyncio.ensure_future(kept[1].exec_query("select pg_sleep(30)")) for _ in range(3)]
            await asyncio.sleep(0.05)
            global forever
            forever = kept
            sys.exit(7)
        begin = time.monotonic()
        try:
            run(main())
        finally:
            assert time.monotonic() - begin < 10
        """,
        code=7,
    )


@ends_clean(60)
async def test_dropped_connections_warn_in_development_mode(postgres: Server) -> None:
    await script(
        postgres,
        """
        async def main():
            conn = await AsyncConn.connect(dsn)
            await numbered(conn)
            waiting = conn.exec_query("select pg_sleep(30)")
            await asyncio.sleep(0.05)
        run(main())
        gc.collect()
        """,
        "-X",
        "dev",
        error="ResourceWarning: unclosed <AsyncConn",
    )


@ends_clean(60)
async def test_development_mode_reports_nothing(postgres: Server) -> None:
    said = await script(
        postgres,
        """
        async def main():
            async with await AsyncConn.connect(dsn) as conn:
                await numbered(conn)
                replies = [conn.exec_query("select 1") for _ in range(100)]
                for reply in replies[::2]:
                    reply.cancel()
                await asyncio.gather(*replies, return_exceptions=True)
                slow = conn.exec_query("select pg_sleep(30)")
                await asyncio.sleep(0.05)
                slow.cancel()
                await numbered(conn)
            print("done")
        run(main())
        """,
        "-X",
        "dev",
        "-W",
        "error",
    )
    assert said == "done\n"


@ends_clean(60)
async def test_ctrl_c_at_any_moment_interrupts_the_program(postgres: Server) -> None:
    """Up to the interrupt, every answer is correct."""
    said = await script(
        postgres,
        """
        import random, signal
        async def main():
            async with await AsyncConn.connect(dsn) as conn:
                signal.setitimer(signal.ITIMER_REAL, random.random() * 0.05)
                while True:
                    replies = [conn.exec_query("select $1::int4", (str(n),)) for n in range(50)]
                    assert [rows[0][0] for rows in await asyncio.gather(*replies)] == [b"%d" % n for n in range(50)]
        signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have it ignored in the background
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
        for _ in range(20):
            try:
                run(main())
            except KeyboardInterrupt:
                print("interrupted")
        """,
        error="...",  # an interrupt may hit the middle of a callback, which the loop reports
    )
    assert said == "interrupted\n" * 20


@ends_clean()
async def test_a_closed_connection_can_be_collected(postgres: Server) -> None:
    """Nothing keeps a closed connection alive."""
    async with await AsyncConn.connect(postgres.dsn) as conn:
        await asyncio.gather(*[conn.exec_query("select 1", timeout=60) for _ in range(10)])
    dropped = weakref.ref(conn)
    del conn
    gc.collect()
    assert dropped() is None
