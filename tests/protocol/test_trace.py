"""Trace lines compared with libpq: the expected lines are what PQtrace prints for these messages."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from pg_wired.protocol import messages as m
from pg_wired.protocol.records import FieldDescription
from pg_wired.protocol.trace import trace_line
from rig import strategies

CANNOT_INSERT = (
    ("S", "ERROR"),
    ("V", "ERROR"),
    ("C", "42601"),
    ("M", "cannot insert multiple commands into a prepared statement"),
    ("F", "postgres.c"),
    ("L", "1457"),
    ("R", "exec_parse_message"),
)


def column(name: str, column_id: int, type_size: int) -> FieldDescription:
    return FieldDescription(name, 16384, column_id, 23, type_size, -1, 0)


# From the traces of libpq_pipeline (prepared, pipeline_abort, simple_pipeline), recorded in regress mode.
REGRESS: list[tuple[m.Message, str]] = [
    (m.Query("DROP TABLE IF EXISTS pq_pipeline_demo"), 'F\t42\tQuery\t "DROP TABLE IF EXISTS pq_pipeline_demo"'),
    (
        m.Parse("select_one", "SELECT $1, '42', $1::numeric, interval '1 sec'", (23,)),
        "F\t68\tParse\t \"select_one\" \"SELECT $1, '42', $1::numeric, interval '1 sec'\" 1 NNNN",
    ),
    (m.Parse("", "SELECT 1; SELECT 2"), 'F\t26\tParse\t "" "SELECT 1; SELECT 2" 0'),
    (m.Bind(params=(b"1",), result_formats=(0,)), 'F\t19\tBind\t "" "" 0 1 1 \'1\' 1 0'),
    (m.Bind(result_formats=(0,)), 'F\t14\tBind\t "" "" 0 0 1 0'),
    (m.Describe("S", "select_one"), 'F\t16\tDescribe\t S "select_one"'),
    (m.Describe("P"), 'F\t6\tDescribe\t P ""'),
    (m.Execute(), 'F\t9\tExecute\t "" 0'),
    (m.Close("P", "cursor_one"), 'F\t16\tClose\t P "cursor_one"'),
    (m.Sync(), "F\t4\tSync"),
    (m.Flush(), "F\t4\tFlush"),
    (m.Terminate(), "F\t4\tTerminate"),
    (m.ParseComplete(), "B\t4\tParseComplete"),
    (m.NoData(), "B\t4\tNoData"),
    (m.ParameterDescription((23,)), "B\t10\tParameterDescription\t 1 NNNN"),
    (m.RowDescription((column("?column?", 0, 4),)), 'B\t33\tRowDescription\t 1 "?column?" NNNN 0 NNNN 4 -1 0'),
    (
        m.RowDescription(
            (column("?column?", 0, 4), column("?column?", 0, -1), column("numeric", 0, -1), column("interval", 0, 16))
        ),
        'B\t113\tRowDescription\t 4 "?column?" NNNN 0 NNNN 4 -1 0 "?column?" NNNN 0 NNNN 65535 -1 0'
        ' "numeric" NNNN 0 NNNN 65535 -1 0 "interval" NNNN 0 NNNN 16 -1 0',
    ),
    (m.DataRow((b"0.33333333333333333333",)), "B\t32\tDataRow\t 1 22 '0.33333333333333333333'"),
    (m.CommandComplete("INSERT 0 1"), 'B\t15\tCommandComplete\t "INSERT 0 1"'),
    (m.ReadyForQuery("I"), "B\t5\tReadyForQuery\t I"),
    (
        m.ErrorResponse(CANNOT_INSERT),
        'B\tNN\tErrorResponse\t S "ERROR" V "ERROR" C "42601" M "cannot insert multiple commands into a prepared'
        ' statement" F "SSSS" L "SSSS" R "SSSS" \\x00',
    ),
    (m.NoticeResponse((("M", "hm"),)), 'B\tNN\tNoticeResponse\t M "hm" \\x00'),
    (m.ParameterStatus("role", "me"), 'B\tNN\tParameterStatus\t "role" "SSSS"'),
    (m.StartupMessage(3, 0, (("user", "me"),)), 'F\tNN\tStartupMessage\t 3 0 "user" "SSSS"'),
    (m.NotificationResponse(7, "c", "p"), 'B\t12\tNotificationResponse\t NNNN "c" "p"'),
    (m.BackendKeyData(7, b"\1\2\3\4"), "B\t12\tBackendKeyData\t NNNN 'BBBB'"),
    (m.CancelRequest(7, b"\1\2\3\4"), "F\t16\tCancelRequest\t 1234 5678 NNNN 'BBBB'"),
    (m.CopyData(b"1\n"), "F\t6\tCopyData\t 'BBBB'"),
    (m.FunctionCall(7, (1,), (b"x", None), 1), "F\t25\tFunctionCall\t NNNN 1 1 2 1 'x' -1 1"),
]

PLAIN: list[tuple[m.Message, str]] = [
    (m.SSLRequest(), "F\t8\tSSLRequest\t 1234 5679"),
    (m.GSSENCRequest(), "F\t8\tGSSENCRequest\t 1234 5680"),
    (m.StartupMessage(3, 2, (("user", "me"),)), 'F\t17\tStartupMessage\t 3 2 "user" "me"'),
    (m.Parse("", "q", (2**32 - 1,)), 'F\t13\tParse\t "" "q" 1 -1'),
    (m.RowDescription((column("a", 1, 4),)), 'B\t26\tRowDescription\t 1 "a" 16384 1 23 4 -1 0'),
    (m.ErrorResponse((("L", "1457"),)), 'B\t11\tErrorResponse\t L "1457" \\x00'),
    (m.ParameterStatus("role", "me"), 'B\t12\tParameterStatus\t "role" "me"'),
    (m.CopyData(b"a'\n\xff"), "F\t8\tCopyData\t 'a'\\x0a\\xff'"),
    (m.CopyInResponse(0, (0, 0)), "B\t11\tCopyInResponse\t \\x00 2 0 0"),
    (m.CopyBothResponse(1, ()), "B\t7\tCopyBothResponse\t \\x01 0"),
    (m.FunctionCallResponse(None), "B\t8\tFunctionCallResponse\t -1"),
    (m.NegotiateProtocolVersion(3 << 16, ("_pq_.x",)), 'B\t19\tNegotiateProtocolVersion\t 196608 1 "_pq_.x"'),
    (m.AuthenticationOk(), "B\t8\tAuthenticationOk"),
    (m.AuthenticationSASL(("SCRAM-SHA-256",)), 'B\t23\tAuthenticationSASL\t "SCRAM-SHA-256" ""'),
    # Lines that libpq leaves out, or prints as two lines.
    (m.AuthenticationMD5Password(b"\1abc"), "B\t12\tAuthenticationMD5Password\t '\\x01abc'"),
    (m.Query("é\n\udcff"), 'F\t9\tQuery\t "é\\x0a\\xff"'),
]


@pytest.mark.parametrize(("message", "line"), REGRESS, ids=[line for _, line in REGRESS])
def test_regress_mode_prints_the_lines_of_libpq(message: m.Message, line: str) -> None:
    assert trace_line(message, regress=True) == line


@pytest.mark.parametrize(("message", "line"), PLAIN, ids=[line for _, line in PLAIN])
def test_plain_mode_prints_the_lines_of_libpq(message: m.Message, line: str) -> None:
    assert trace_line(message) == line


def test_the_sender_can_be_named() -> None:
    assert trace_line(m.CopyDone()) == "F\t4\tCopyDone"
    assert trace_line(m.CopyDone(), sender="B") == "B\t4\tCopyDone"


@pytest.mark.parametrize("regress", [False, True])
@pytest.mark.parametrize(
    ("message", "line"),
    [
        (m.PasswordMessage("hush"), 'F\tNN\tPasswordMessage\t "SSSS"'),
        (m.SASLInitialResponse("SCRAM-SHA-256", b"hush"), "F\t26\tSASLInitialResponse\t \"SCRAM-SHA-256\" 4 'BBBB'"),
        (m.SASLInitialResponse("SCRAM-SHA-256", None), 'F\t22\tSASLInitialResponse\t "SCRAM-SHA-256" -1'),
        (m.SASLResponse(b"hush"), "F\t8\tSASLResponse\t 'BBBB'"),
        (m.GSSResponse(b"hush"), "F\t8\tGSSResponse\t 'BBBB'"),
        (m.AuthenticationSASLContinue(b"hush"), "B\t12\tAuthenticationSASLContinue\t 'BBBB'"),
        (m.AuthenticationSASLFinal(b"hush"), "B\t12\tAuthenticationSASLFinal\t 'BBBB'"),
        (m.AuthenticationGSSContinue(b"hush"), "B\t12\tAuthenticationGSSContinue\t 'BBBB'"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, m.Message) else "",
)
def test_secrets_are_hidden_in_every_mode(message: m.Message, line: str, regress: bool) -> None:
    assert trace_line(message, regress=regress) == line
    assert "hush" not in repr(message)


@pytest.mark.parametrize("message", [m.BackendKeyData(7, b"hush"), m.CancelRequest(7, b"hush")], ids=repr)
def test_cancel_keys_are_hidden(message: m.Message) -> None:
    assert trace_line(message).endswith(" 7 'BBBB'")
    assert "hush" not in repr(message)


@given(strategies.backend_messages() | strategies.frontend_messages())
def test_every_message_is_one_line_that_can_be_written(message: m.Message) -> None:
    for regress in (False, True):
        line: Any = trace_line(message, regress=regress)
        assert len(line.splitlines()) == 1
        assert line.split("\t")[2] == type(message).__name__
        line.encode("utf-8")
