"""The scripted server: libpq accepts it as a server, and it reports clients that deviate from the script."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import generators, pq

from pg_wired.errors import ProtocolError
from pg_wired.protocol import messages as m
from pg_wired.testing import KEY, PID, FakePG, Peer, error
from rig.scram_server import ScramServer

ROWS = [(b"1", b"one"), (b"2", None)]


async def let_in(peer: Peer) -> None:
    await peer.startup()


async def connected(fake: FakePG) -> socket.socket:
    """A connected plain socket, for clients that break the protocol."""
    fields = dict(word.split("=") for word in fake.dsn.split())
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (fields["host"], int(fields["port"])))
    return sock


async def say(sock: socket.socket, *messages: m.Message) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, m.encode(*messages))


async def hear(sock: socket.socket) -> bytes:
    async with asyncio.timeout(5):
        return await asyncio.get_running_loop().sock_recv(sock, 65536)


# ---- libpq


async def result(conn: psycopg.AsyncConnection[Any]) -> pq.abc.PGresult:
    """The answer to the last request sent by libpq. Its blocking calls would block the event loop as well."""
    results: list[pq.abc.PGresult] = await conn.wait(generators.execute(conn.pgconn))
    assert len(results) == 1
    return results[0]


@pytest.mark.parametrize("unix", [False, True])
async def test_psycopg_runs_a_query(unix: bool) -> None:
    async def script(peer: Peer) -> None:
        startup = await peer.startup({"server_version": "17.1", "client_encoding": "UTF8"})
        assert dict(startup.parameters)["user"] == "tester"
        [query] = await peer.answer_rows([(b"1",)], columns=["one"])
        assert query == m.Query("select 1")

    async with (
        FakePG(script, unix=unix) as fake,
        await psycopg.AsyncConnection.connect(fake.dsn, autocommit=True) as conn,
    ):
        assert conn.info.server_version == 170001
        cursor = await conn.execute("select 1")
        assert cursor.description is not None
        assert [column.name for column in cursor.description] == ["one"]
        assert await cursor.fetchall() == [("1",)]


async def test_psycopg_prepares_and_reuses_a_statement() -> None:
    groups: list[list[m.FrontendMessage]] = []

    async def script(peer: Peer) -> None:
        await peer.startup()
        for _ in range(3):
            groups.append(await peer.answer_rows(ROWS))

    async with FakePG(script) as fake, await psycopg.AsyncConnection.connect(fake.dsn, autocommit=True) as conn:
        for _ in range(2):
            cursor = await conn.execute("select %s", ["x"], prepare=True)
            assert await cursor.fetchall() == [("1", "one"), ("2", None)]
    kinds = ["".join(chr(message.tag or 0) for message in group) for group in groups]
    assert kinds == ["PS", "BDES", "BDES"]


async def test_libpq_describes_a_prepared_statement() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.answer_rows([])
        await peer.answer_rows([], columns=["a", "b"])
        await peer.answer_rows([])

    async with FakePG(script) as fake, await psycopg.AsyncConnection.connect(fake.dsn) as conn:
        conn.pgconn.send_prepare(b"s", b"select $1, $2", [23])
        assert (await result(conn)).status == pq.ExecStatus.COMMAND_OK
        conn.pgconn.send_describe_prepared(b"s")
        described = await result(conn)
        assert [described.param_type(number) for number in range(described.nparams)] == [23, 25]
        assert [described.fname(number) for number in range(described.nfields)] == [b"a", b"b"]
        conn.pgconn.send_describe_prepared(b"s")
        assert (await result(conn)).nfields == 0


async def test_result_formats_are_those_of_bind() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.answer_rows([(b"\0", b"\1")])

    async with FakePG(script) as fake, await psycopg.AsyncConnection.connect(fake.dsn) as conn:
        conn.pgconn.send_query_params(b"select", None, result_format=pq.Format.BINARY)
        rows = await result(conn)
        assert [rows.fformat(number) for number in range(rows.nfields)] == [1, 1]


async def test_psycopg_raises_the_error_of_the_script() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.group()
        await peer.send(error("23505", "duplicate key"), m.ReadyForQuery("I"))

    async with FakePG(script) as fake, await psycopg.AsyncConnection.connect(fake.dsn, autocommit=True) as conn:
        with pytest.raises(psycopg.errors.UniqueViolation, match="duplicate key"):
            await conn.execute("insert")


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (m.AuthenticationCleartextPassword(), "hush"),
        # md5(md5("hush" + "tester") + "salt"): the protocol chapter on AuthenticationMD5Password
        (m.AuthenticationMD5Password(b"salt"), "md57d076c0589915a51b66443a513a43e59"),
    ],
    ids=["cleartext", "md5"],
)
async def test_psycopg_sends_the_password_and_the_transcript_hides_it(request_: m.Authentication, answer: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.expect(m.StartupMessage)
        await peer.send(request_)
        await peer.expect(m.PasswordMessage(answer))
        await peer.welcome()

    async with FakePG(script) as fake:
        async with await psycopg.AsyncConnection.connect(fake.dsn, password="hush"):
            pass
        assert "hush" not in fake.transcript()


async def test_psycopg_logs_in_with_scram() -> None:
    async def script(peer: Peer) -> None:
        server = ScramServer(b"hush", b"sixteen bytes...", 4096, b"server")
        await peer.expect(m.StartupMessage)
        await peer.send(m.AuthenticationSASL(("SCRAM-SHA-256",)))
        [initial] = await peer.expect(m.SASLInitialResponse)
        await peer.send(m.AuthenticationSASLContinue(server.first(initial.response)))
        [response] = await peer.expect(m.SASLResponse)
        await peer.send(m.AuthenticationSASLFinal(server.final(response.data)))
        await peer.welcome()

    async with FakePG(script) as fake, await psycopg.AsyncConnection.connect(fake.dsn, password="hush"):
        pass


async def test_an_sslrequest_is_answered_with_n() -> None:
    async with FakePG(let_in) as fake:
        dsn = fake.dsn.replace("sslmode=disable", "sslmode=prefer")
        async with await psycopg.AsyncConnection.connect(dsn):
            pass
        assert "F\t8\tSSLRequest\t 1234 5679\nB\t1\tbytes\t b'N'" in fake.transcript()


async def test_the_transcript_equals_the_trace_of_libpq(tmp_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await peer.answer_rows([])
        await peer.answer_rows(ROWS)
        await peer.answer_rows(ROWS)
        await peer.group()
        failure = error("22012", 'division by "zero"')
        place = (("F", "int.c"), ("L", "841"), ("R", "int4div"))
        await peer.send(
            m.NoticeResponse(error("01000", "careful", "WARNING").fields + place),
            m.NotificationResponse(PID, "channel", "payload"),
            m.ErrorResponse(failure.fields + place),
            m.ReadyForQuery("E"),
        )
        await peer.expect(m.Terminate)

    async with FakePG(script) as fake, await psycopg.AsyncConnection.connect(fake.dsn) as conn:
        pgconn = conn.pgconn
        with (tmp_path / "trace").open("wb") as file:
            pgconn.trace(file.fileno())
            pgconn.set_trace_flags(pq.Trace.SUPPRESS_TIMESTAMPS | pq.Trace.REGRESS_MODE)
            pgconn.send_prepare(b"s", b"select $1::int4, $2", [23])
            await result(conn)
            pgconn.send_query_prepared(b"s", [b"1\n\xff", None], [pq.Format.BINARY, pq.Format.TEXT])
            await result(conn)
            pgconn.send_query(b"select 'twice'")
            await result(conn)
            pgconn.send_query_params(b"select 1/0", None)
            await result(conn)
            await conn.close()
    ours = fake.peers[0].talk.transcript(regress=True)
    begin = ours.index("B\t5\tReadyForQuery\t I") + 1
    theirs = (tmp_path / "trace").read_text().splitlines()
    assert ours[begin:] == theirs
    assert theirs[-1] == "F\t4\tTerminate"


# ---- Cancelling


async def test_the_script_can_receive_cancel_requests() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        assert await peer.cancel_request() == m.CancelRequest(PID, KEY)

    async with FakePG(script) as fake:
        async with await psycopg.AsyncConnection.connect(fake.dsn) as conn:
            await conn.cancel_safe(timeout=5)
        assert len(fake.peers) == 1


async def test_cancel_connections_can_be_held() -> None:
    async with FakePG(let_in, hold_cancels=True) as fake, await psycopg.AsyncConnection.connect(fake.dsn) as conn:
        cancelling = asyncio.create_task(conn.cancel_safe(timeout=5))
        assert await asyncio.wait_for(fake.cancels.get(), 5) == m.CancelRequest(PID, KEY)
        assert not cancelling.done()
        fake.release_cancels()
        await cancelling


# ---- The end of a connection


async def test_reset_sends_a_reset_and_close_sends_an_orderly_end() -> None:
    async def reset(peer: Peer) -> None:
        await peer.expect(m.StartupMessage)
        peer.reset()

    async def close(peer: Peer) -> None:
        await peer.startup()
        await more_was_sent.wait()
        peer.close()

    more_was_sent = asyncio.Event()
    async with FakePG([reset, close]) as fake:
        with await connected(fake) as sock:
            await say(sock, m.StartupMessage(3, 0, ()))
            with pytest.raises(ConnectionResetError):
                await hear(sock)
        with await connected(fake) as sock:
            await say(sock, m.StartupMessage(3, 0, ()))
            assert await hear(sock)
            await say(sock, m.Sync())
            more_was_sent.set()
            assert await hear(sock) == b""


@pytest.mark.parametrize("is_reset", [False, True])
async def test_eof_waits_for_the_end_or_the_reset_of_the_client(is_reset: bool) -> None:
    async def script(peer: Peer) -> None:
        await peer.expect(m.StartupMessage)
        if is_reset:
            await peer.send(m.AuthenticationOk())
        await peer.eof()

    async with FakePG(script) as fake:
        with await connected(fake) as sock:
            await say(sock, m.StartupMessage(3, 0, ()))
            if is_reset:  # wait for data, which stays unread, so that closing causes a reset
                async with asyncio.timeout(5):
                    await asyncio.get_running_loop().sock_recv_into(sock, bytearray(1))


# ---- Clients that deviate from the script


async def test_a_wrong_message_is_reported_with_the_transcript() -> None:
    async def script(peer: Peer) -> None:
        await peer.expect(m.StartupMessage, m.Query("select 1"))

    with pytest.raises(
        AssertionError, match=r"expected Query\(query='select 1'\), got Query\(query='select 2'\)"
    ) as caught:
        async with FakePG(script) as fake:
            with await connected(fake) as sock:
                await say(sock, m.StartupMessage(3, 0, ()), m.Query("select 2"))
    assert 'F\t9\tStartupMessage\t 3 0\nF\t13\tQuery\t "select 2"' in caught.value.__notes__[0]


async def test_a_wrong_class_is_reported() -> None:
    async def script(peer: Peer) -> None:
        await peer.expect(m.StartupMessage, m.Sync)

    with pytest.raises(AssertionError, match=r"expected Sync, got Flush\(\)"):
        async with FakePG(script) as fake:
            with await connected(fake) as sock:
                await say(sock, m.StartupMessage(3, 0, ()), m.Flush())


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", r"the client sent no whole message, only b'', and no more will come"),
        (b"Q\0\0\0\x09se", r"the client sent no whole message, only b'Q"),
        (b"Q\0\0\0\3", r"the client sent a length of 3: b'Q"),
        (b"Q\x7f\xff\xff\xff", r"the client sent a length of 2147483647"),
        (b"Z\0\0\0\5I", r"no client sends a message with the tag 0x5a"),
        (b"H\0\0\0\4", r"answer_rows has no answer to Terminate\(\)"),
    ],
)
async def test_bytes_that_are_not_an_expected_message_are_reported(data: bytes, text: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.expect(m.StartupMessage)
        await peer.answer_rows([])

    with pytest.raises((AssertionError, ProtocolError), match=text):
        async with FakePG(script) as fake:
            with await connected(fake) as sock:
                await say(sock, m.StartupMessage(3, 0, ()))
                await asyncio.get_running_loop().sock_sendall(sock, data + b"X\0\0\0\4" * data.startswith(b"H"))


async def test_a_message_instead_of_the_end_is_reported() -> None:
    async def script(peer: Peer) -> None:
        await peer.expect(m.StartupMessage)
        await peer.eof()

    with pytest.raises(AssertionError, match="expected the end, got b'S"):
        async with FakePG(script) as fake:
            with await connected(fake) as sock:
                await say(sock, m.StartupMessage(3, 0, ()), m.Sync())


async def test_a_first_message_that_is_no_startup_is_reported() -> None:
    with pytest.raises(ProtocolError, match=r"StartupMessage\.major: 18245 is none of 3"):
        async with FakePG(let_in) as fake:
            with await connected(fake) as sock:
                await asyncio.get_running_loop().sock_sendall(sock, b"\0\0\0\x10GET / HTTP/1.1")


async def test_silence_is_reported_after_the_deadline() -> None:
    with pytest.raises(AssertionError, match=r"waited 0\.02 s for something from the client"):
        async with FakePG(let_in, deadline=0.02) as fake:
            with await connected(fake) as sock:
                await asyncio.get_running_loop().sock_sendall(sock, b"\0\0\0\x10\0\3\0\0")
                assert await hear(sock) == b""


async def test_a_client_that_does_not_read_is_reported() -> None:
    async def script(peer: Peer) -> None:
        await peer.expect(m.StartupMessage)
        await peer.send(m.CopyData(bytes(2**25)))

    with ExitStack() as stack, pytest.raises(AssertionError, match=r"waited 0\.2 s for the client to read"):
        async with FakePG(script, deadline=0.2) as fake:
            sock = stack.enter_context(await connected(fake))
            await say(sock, m.StartupMessage(3, 0, ()))


async def test_a_message_after_the_script_is_reported() -> None:
    with pytest.raises(AssertionError, match=r"the script is over, and the client sent Query\(query='more'\)"):
        async with FakePG(let_in) as fake:
            with await connected(fake) as sock:
                await say(sock, m.StartupMessage(3, 0, ()), m.Query("more"))
                while await hear(sock):
                    pass


async def test_a_pytest_failure_in_the_script_is_reported() -> None:
    async def script(peer: Peer) -> None:
        pytest.fail("by the script")

    with pytest.raises(pytest.fail.Exception, match="by the script"):
        async with FakePG(script) as fake:
            with await connected(fake) as sock:
                await say(sock, m.StartupMessage(3, 0, ()))
                assert await hear(sock) == b""


async def test_connections_and_scripts_have_to_match() -> None:
    with pytest.raises(AssertionError, match="1 scripts were waiting for a connection"):
        async with FakePG([let_in]):
            pass
    with pytest.raises(AssertionError, match="there are more connections than scripts"):
        async with FakePG([]) as fake:
            with await connected(fake) as sock:
                await say(sock, m.StartupMessage(3, 0, ()))
                assert await hear(sock) == b""


async def test_a_script_that_does_not_end_is_reported() -> None:
    async def script(peer: Peer) -> None:
        await peer.startup()
        await asyncio.Event().wait()

    with pytest.raises(AssertionError, match=r"1 scripts had not ended 0\.04 s after the test"):
        async with FakePG(script, deadline=0.02) as fake:
            with await connected(fake) as sock:
                await say(sock, m.StartupMessage(3, 0, ()))
                await hear(sock)


async def test_a_failure_of_the_test_gets_the_transcript_and_the_script_error_as_note() -> None:
    async def script(peer: Peer) -> None:
        await peer.expect(m.SSLRequest)

    with pytest.raises(ZeroDivisionError) as caught:
        async with FakePG(script) as fake:
            with await connected(fake) as sock:
                await say(sock, m.StartupMessage(3, 0, ()))
                assert await hear(sock) == b""
                1 / 0  # noqa: B018
    assert "F\t9\tStartupMessage\t 3 0" in caught.value.__notes__[0]
    assert "AssertionError: expected SSLRequest, got StartupMessage" in caught.value.__notes__[0]
