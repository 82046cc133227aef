"""One conversation that covers every kind of request, in stages: requests, then the bytes that answer them.

The split tests cut its inbound stream into pieces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pg_wired.protocol import messages as m
from pg_wired.testing import describe, error
from tests.session.conversation import (
    PREPARED,
    READY,
    Client,
    described,
    first,
    later,
    result,
)

NOISE = [
    m.NoticeResponse((("S", "NOTICE"), ("C", "00000"), ("M", "psst"))),
    m.ParameterStatus("TimeZone", "UTC"),
    m.NotificationResponse(7, "channel", "payload"),
]
SEVERAL = [
    *[describe(["a", "b"], ()), *result((b"1", None), (b"", b"\0\xff"))],
    m.CommandComplete("INSERT 0 1"),
    *[m.RowDescription(()), *result((), ())],
    *[describe(["c"], ()), *result((b"x" * 40,))],
]


class Stage(NamedTuple):
    """Requests made after all bytes of the previous stage have arrived, and the bytes that answer them."""

    ask: Callable[[Client], object]
    answer: list[m.BackendMessage]


def _first_uses(client: Client) -> None:
    client.query("select $1", b"1")
    client.query("insert", param_formats=1)
    client.query("select $1", None, result_formats=1)
    client.simple("select; insert; select; select")
    client.simple("")
    client.describe("select $1", (23,))
    client.describe("insert")


def _later_uses(client: Client) -> None:
    for n in range(8):
        client.query("select $1", b"%d" % n, result_formats=n % 2)
    client.query("selec")
    client.query("insert")  # its constraint is deferred
    client.simple("insert; selec")
    client.query("")
    client.encoded(m.Parse("", "x"), m.Bind(), m.Execute("", 1), m.Execute(), m.Close("P"), m.Sync(), drain=True)
    client.query("copy")
    client.query("select $1", b"stale")
    client.simple("select")


def _transaction(client: Client) -> None:
    client.simple("begin")
    client.simple("select")


def _last_ones(client: Client) -> None:
    client.simple("set client_encoding")
    client.simple("select")


STAGES = [
    Stage(
        _first_uses,
        [
            *NOISE,
            *first((b"1",), oids=(25,)),
            *[*PREPARED, m.BindComplete(), m.CommandComplete("INSERT 0 1"), READY],
            *described((None,), (b"",), names=["a"]),
            *[*SEVERAL, READY, NOISE[0], m.EmptyQueryResponse(), READY],
            *[m.ParseComplete(), m.ParameterDescription((23,)), describe(["a"], ()), NOISE[1], READY],
            *[*PREPARED, READY],
        ],
    ),
    Stage(
        _later_uses,
        [
            *[message for n in range(8) for message in later((b"%d" % n,))],
            *[error("42601", "syntax error"), NOISE[2], READY],
            *[m.BindComplete(), m.CommandComplete("INSERT 0 1"), error("23505", "duplicate"), READY],
            *[m.CommandComplete("INSERT 0 1"), error("42601", "syntax error"), READY],
            *[*PREPARED, m.BindComplete(), m.EmptyQueryResponse(), READY],
            *[m.ParseComplete(), m.BindComplete(), m.DataRow((b"1",)), m.PortalSuspended()],
            *[m.DataRow((b"2",)), *result(), m.CloseComplete(), READY],
            *[*PREPARED, m.BindComplete(), m.CopyOutResponse(0, (0,)), m.CopyData(b"1\n"), m.CopyDone()],
            *[m.CommandComplete("COPY 1"), READY],
            *[error("26000", "no such statement"), READY, *result(), READY],
        ],
    ),
    Stage(lambda client: None, [m.CloseComplete(), *first((b"repaired",), oids=(25,))]),
    Stage(
        _transaction,
        [m.CommandComplete("BEGIN"), m.ReadyForQuery("T"), m.CommandComplete("SELECT 0"), m.ReadyForQuery("T")],
    ),
    Stage(lambda client: None, [m.CommandComplete("ROLLBACK"), READY]),
    Stage(
        _last_ones,
        [
            *[m.CommandComplete("SET"), m.ParameterStatus("client_encoding", "LATIN1"), READY],
            *[*result(), READY, error("57P01", "shutting down", "FATAL")],
        ],
    ),
]


def open_client() -> Client:
    return Client(parameters={"client_encoding": "UTF8"})
