"""The script of already encoded messages: one whole request gets a script, and anything else is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_wired.errors import ConfigError, Outcome
from pg_wired.protocol import messages as m
from pg_wired.protocol.octets import LONG_LIMIT_BYTES
from pg_wired.session.request import script_of
from pg_wired.session.table import ANSWERS, State
from rig import strategies

P, B, D, F, E, S = State.PARSE, State.BIND, State.PARAMETERS, State.FIELDS, State.EXECUTE, State.SYNC
SYNC = m.encode(m.Sync())


@pytest.mark.parametrize(
    ("messages", "states"),
    [
        ([m.Query("select 1; select 2")], [State.QUERY, S]),
        ([m.Sync()], [S]),
        ([m.Parse("", "x"), m.Bind(), m.Describe("P"), m.Execute(), m.Sync()], [P, B, F, E, S]),
        ([m.Parse("a", "x"), m.Describe("S", "a"), m.Flush(), m.Sync()], [P, D, F, S]),
        ([m.Close("S", "a"), m.Close("P", "a"), m.Sync()], [State.CLOSE, State.CLOSE, S]),
        ([m.Bind("p"), m.Execute("p", 1), m.Execute("p", 1), m.Flush(), m.Sync()], [B, E, E, S]),
    ],
    ids=lambda value: "".join(type(message).__name__[0] for message in value),
)
def test_messages_that_are_one_request_get_their_states(messages: list[m.FrontendMessage], states: list[int]) -> None:
    assert list(script_of(m.encode(*messages))) == states


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "^messages '' are not one request: pass one Query, or extended messages that end in their one Sync"),
        (m.encode(m.Query("x"), m.Query("y")), "'QQ' are not one request"),
        (m.encode(m.Query("x"), m.Sync()), "'QS' are not one request"),
        (m.encode(m.Sync(), m.Sync()), "'SS' are not one request"),
        (m.encode(m.Parse("", "x")), "'P' are not one request"),
        (m.encode(m.Sync(), m.Bind()), "'SB' are not one request"),
        (m.encode(m.Bind(), m.Query("x"), m.Sync()), "'BQS' are not one request"),
        (m.encode(m.Flush()), "'H' are not one request"),
        (m.encode(m.Terminate()), "^message 'X' at byte 0 cannot be part of a shared request"),
        (m.encode(m.Bind(), m.CopyFail("x"), m.Sync()), "^message 'f' at byte 13 cannot be"),
        (m.encode(m.CopyData(b"x"), m.Sync()), "^message 'd' at byte 0"),
        (m.encode(m.CopyDone(), m.Sync()), "^message 'c' at byte 0"),
        (m.encode(m.FunctionCall(1, (), (), 0)), "^message 'F' at byte 0"),
        (m.encode(m.PasswordMessage("x")), "^message 'p' at byte 0"),
        (m.encode(m.SSLRequest()), "^the message at byte 0 is cut off or has a wrong length"),
        (b"\xff\0\0\0\4" + SYNC, "^message '\xff' at byte 0"),
        (b"S", "^the message at byte 0 is cut off"),
        (SYNC + b"S\0\0\0", "^the message at byte 5 is cut off"),
        (b"S\0\0\0\3", "^the message at byte 0 is cut off or has a wrong length"),
        (b"S\xff\xff\xff\xff", "^the message at byte 0 is cut off or has a wrong length"),
        (b"S\0\0\0\5", "^the message at byte 0 is cut off"),
        (b"S" + (LONG_LIMIT_BYTES + 1).to_bytes(4, "big"), "^the message at byte 0 is cut off"),
        (b"S\0\0\0\5!", "^the message at byte 0: Sync has 1 bytes after"),
        (b"D\0\0\0\4" + SYNC, "^message 'D' at byte 0"),
        (b"D\0\0\0\6X\0" + SYNC, "^message 'D' at byte 0"),
        (b"Q\0\0\0\5x", r"^the message at byte 0: Query\.query: a string has no NUL"),
        (b"Q\0\0\0\7x\0y", "^the message at byte 0: Query has 1 bytes after"),
    ],
    ids=range(27),
)
def test_data_that_is_not_one_request_is_refused(data: bytes, error: str) -> None:
    with pytest.raises(ConfigError, match=error) as caught:
        script_of(data)
    assert caught.value.outcome is Outcome.NOT_SENT


@given(st.lists(strategies.frontend_messages(), max_size=5))
def test_any_messages_get_a_script_exactly_if_they_are_one_request(messages: list[m.FrontendMessage]) -> None:
    """Accepted exactly if every message may be in a request and the only Sync or Query comes last."""
    words = [type(message).__name__ for message in messages]
    legal = {"Parse", "Bind", "Describe", "Execute", "Close", "Flush", "Sync", "Query"}
    is_one = words == ["Query"] or ("Query" not in words and words.count("Sync") == 1 and words[-1] == "Sync")
    if not is_one or not legal.issuperset(words):
        with pytest.raises(ConfigError):
            script_of(m.encode(*messages))
        return
    states: list[int] = []
    for message in messages:
        letter = chr(message.tag or 0)
        states += ANSWERS[letter + message.kind if isinstance(message, m.Describe) else letter]
    assert list(script_of(m.encode(*messages))) == states


@given(data=st.binary(max_size=40), front=st.sampled_from([b"", SYNC, m.encode(m.Bind())]))
def test_any_bytes_are_one_request_or_refused(data: bytes, front: bytes) -> None:
    try:
        states = script_of(front + data)
    except ConfigError:
        return
    assert states[-1] == S
