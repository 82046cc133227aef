"""THE TABLE: a session goes through every cell, and the rules of the protocol chapter are checked against it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pg_wired.errors import ProtocolError
from pg_wired.protocol import messages as m
from pg_wired.protocol.octets import SHORT_LIMIT_BYTES
from pg_wired.protocol.types import TransactionStatus
from pg_wired.session import table
from pg_wired.session.request import COPY_IN
from pg_wired.session.request import COPY_OUT as COPY_OUT_STATES
from pg_wired.session.table import ACTIONS, ANSWERS, ASYNCHRONOUS, NEXT_STATES, TABLE, Action, Next, State, names_of
from pg_wired.testing import describe, error
from tests.session.conversation import READY, Client, Consumer

STATES = names_of(State)
TAG = m.CommandComplete("SELECT 1")
COPY_OUT = m.CopyOutResponse(0, (0,))
BOUND = [m.ParseComplete(), m.ParameterDescription(()), describe("a", ()), m.BindComplete()]

# How to bring a conversation into each state.
ROADS: dict[int, tuple[Callable[[Client], object], list[m.BackendMessage]]] = {
    State.IDLE: (lambda client: None, []),
    State.PARSE: (lambda client: client.query("select"), []),
    State.PARAMETERS: (lambda client: client.query("select"), BOUND[:1]),
    State.FIELDS: (lambda client: client.query("select"), BOUND[:2]),
    State.BIND: (lambda client: client.query("select"), BOUND[:3]),
    State.EXECUTE: (lambda client: client.query("select"), BOUND),
    State.CLOSE: (lambda client: client.encoded(m.Close("S", "x"), m.Sync()), []),
    State.QUERY: (lambda client: client.simple("select"), []),
    State.STATEMENT: (lambda client: client.simple("select"), [TAG]),
    State.STATEMENT_ROWS: (lambda client: client.simple("select"), [describe("a", ())]),
    State.SYNC: (lambda client: client.query("select"), [*BOUND, TAG]),
    State.COPY_REFUSED: (lambda client: client.simple("copy"), [m.CopyInResponse(0, (0,))]),
    State.EXECUTE_DISCARD: (lambda client: client.query("copy"), [*BOUND, COPY_OUT]),
    State.QUERY_DISCARD: (lambda client: client.simple("copy"), [COPY_OUT]),
    State.COPY_IN_QUERY: (lambda client: client.copy("copy", COPY_IN, Consumer()), []),
    State.COPYING_IN: (lambda client: client.copy("copy", COPY_IN, Consumer()), [m.CopyInResponse(0, (0,))]),
    State.COPY_OUT_QUERY: (lambda client: client.copy("copy", COPY_OUT_STATES, Consumer()), []),
    State.COPYING_OUT: (lambda client: client.copy("copy", COPY_OUT_STATES, Consumer()), [COPY_OUT]),
    State.EXECUTE_REFUSED: (lambda client: client.query("copy"), [*BOUND, m.CopyInResponse(0, (0,))]),
    State.RESYNC: (lambda client: client.query("copy"), [*BOUND, m.CopyInResponse(0, (0,)), error("42809")]),
    State.COPIED: (lambda client: client.copy("copy", COPY_OUT_STATES, Consumer()), [COPY_OUT, m.CopyDone()]),
}

# A body that fits, for each tag that needs one.
BODIES: dict[str, m.BackendMessage] = {
    "A": m.NotificationResponse(1, "c", ""),
    "C": TAG,
    "D": m.DataRow((b"x",)),
    "E": error("22012"),
    "G": m.CopyInResponse(0, (0,)),
    "H": COPY_OUT,
    "K": m.BackendKeyData(1, b"1234"),
    "N": m.NoticeResponse((("M", "x"),)),
    "R": m.AuthenticationOk(),
    "S": m.ParameterStatus("a", "b"),
    "T": describe("a", ()),
    "V": m.FunctionCallResponse(None),
    "W": m.CopyBothResponse(0, ()),
    "Z": READY,
    "d": m.CopyData(b"x"),
    "t": m.ParameterDescription(()),
    "v": m.NegotiateProtocolVersion(3 << 16, ()),
}


def at(state: int) -> Client:
    client = Client()
    submit, answer = ROADS[state]
    submit(client)
    client.take()
    client.feed(*answer)
    assert client.session.failure is None and client.session.state == state
    return client


def cell(state: int, letter: str) -> tuple[int, int]:
    return {**ASYNCHRONOUS, **TABLE[state]}.get(letter, (Action.DESYNC, Next.STAY))


@pytest.mark.parametrize("state", STATES, ids=STATES.get)
def test_every_message_in_every_state_does_what_the_table_says(state: int) -> None:
    for byte in range(256):
        client = at(state)
        session, head = client.session, client.session.head
        letter = chr(byte)
        client.feed(m.encode(BODIES[letter]) if letter in BODIES else bytes([byte]) + b"\0\0\0\4")
        action, target = cell(state, letter)
        if action == Action.DESYNC:
            assert isinstance(session.failure, ProtocolError), (state, letter)
            assert STATES[state] in str(session.failure)
            assert all(isinstance(sink.error, ProtocolError) for sink in client.sinks)
            continue
        assert session.failure is None, (state, letter, session.failure)
        if target == Next.STAY:
            target = state
        elif target == Next.STEP:
            target = head.script[head.script.index(state) + 1]
        elif target == Next.END:
            target = State.SYNC
        assert session.state == target, (state, letter)
        assert [sink.is_answered for sink in client.sinks] == [action == Action.READY] * len(client.sinks)


# The messages legal in each state besides the asynchronous ones, and the next state: by hand, from the chapter "Message
# Flow". "+" is the next message of the same request, "=" the same state, "." the end of the request: only Sync is left.
RULES = {
    # "Asynchronous Operations": a server that closes sends the reason, although nothing was requested.
    State.IDLE: "E=",
    # "Extended Query": each message has its answer, and "the backend reads and discards messages until a Sync" after
    # an error. Describe of a statement: ParameterDescription, then RowDescription or NoData.
    State.PARSE: "1+ E.",
    State.PARAMETERS: "t+ E.",
    State.FIELDS: "T+ n+ E.",
    State.BIND: "2+ E.",
    # "Execute is terminated by exactly one of CommandComplete, EmptyQueryResponse, ErrorResponse or PortalSuspended".
    State.EXECUTE: "D= C+ I+ s+ E. G:EXECUTE_REFUSED H:EXECUTE_DISCARD",
    State.CLOSE: "3+ E.",
    # "Simple Query": for each statement RowDescription, rows and a tag, or a tag, or COPY; an error ends them all;
    # EmptyQueryResponse stands for the whole string. "In all cases ReadyForQuery".
    State.QUERY: "T:STATEMENT_ROWS C:STATEMENT I. E. G:COPY_REFUSED H:QUERY_DISCARD",
    State.STATEMENT: "T:STATEMENT_ROWS C:STATEMENT Z:IDLE E. G:COPY_REFUSED H:QUERY_DISCARD",
    # A rule may add results to a statement: RowDescription again, and one tag at the end.
    State.STATEMENT_ROWS: "D= T= C:STATEMENT E.",
    # An error may still come from what the server does at the end of the transaction.
    State.SYNC: "Z:IDLE E=",
    # "COPY Operations": CopyFail is answered by an error; copy-out is CopyData and CopyDone, or an error.
    State.COPY_REFUSED: "E.",
    # "If a Sync was sent before CopyInResponse, it is ignored", but a COPY that fails before it reads leaves it there.
    State.EXECUTE_REFUSED: "E:RESYNC",
    State.RESYNC: "3:SYNC Z= E=",
    State.EXECUTE_DISCARD: "d= c:EXECUTE E.",
    State.QUERY_DISCARD: "d= c:STATEMENT E.",
    # A requested COPY: the answer may be no COPY, or one in the other direction. While the client sends, the server
    # can only fail; the client's own CopyDone leads to the next state.
    State.COPY_IN_QUERY: "G:COPYING_IN H:QUERY_DISCARD T:STATEMENT_ROWS C:STATEMENT I. E.",
    State.COPYING_IN: "E.",
    State.COPY_OUT_QUERY: "H:COPYING_OUT G:COPY_REFUSED T:STATEMENT_ROWS C:STATEMENT I. E.",
    State.COPYING_OUT: "d= c:COPIED E.",
    State.COPIED: "C:STATEMENT E.",
}


@pytest.mark.parametrize("state", STATES, ids=STATES.get)
def test_the_table_agrees_with_the_protocol_chapter(state: int) -> None:
    rules: dict[str, int] = {}
    for rule in RULES[state].split():
        mark = rule[1]
        target = {"+": Next.STEP, "=": Next.STAY, ".": Next.END}.get(mark)
        rules[rule[0]] = target if target is not None else getattr(State, rule[2:])
    assert {letter: cell[1] for letter, cell in TABLE[state].items()} == rules


# The action of each message, wherever it is legal.
MEANING = {
    **{"N": {Action.NOTICE}, "A": {Action.NOTIFICATION}, "S": {Action.PARAMETER}, "E": {Action.FAIL}},
    **{"1": {Action.NEXT}, "2": {Action.NEXT}, "3": {Action.NEXT}, "t": {Action.DESCRIBE_PARAMETERS}},
    **{"T": {Action.DESCRIBE_FIELDS}, "n": {Action.NO_FIELDS}, "D": {Action.ROW}, "C": {Action.TAG}},
    **{"I": {Action.EMPTY}, "s": {Action.SUSPENDED}, "Z": {Action.READY, Action.SKIP}},
    # A requested COPY, and one that was not requested.
    **{"G": {Action.COPY_HEADER, Action.COPY_IN}, "H": {Action.COPY_HEADER, Action.COPY_OUT}},
    **{"d": {Action.DATA, Action.SKIP}, "c": {Action.NEXT, Action.SKIP}},
    **{letter: set() for letter in "RKVWv"},  # never after the startup: no COPY BOTH, no FunctionCall
}


@pytest.mark.parametrize("byte", range(256))
def test_a_message_has_the_same_actions_in_every_state(byte: int) -> None:
    found = {cell(state, chr(byte))[0] for state in STATES if state != State.IDLE} - {Action.DESYNC}
    assert found == MEANING.get(chr(byte), set())


def test_an_error_while_idle_is_read_as_last_words() -> None:
    assert cell(State.IDLE, "E")[0] == Action.LAST_WORDS


def test_the_expanded_table_equals_the_table() -> None:
    for state in STATES:
        for byte in range(256):
            expected = {**ASYNCHRONOUS, **TABLE[state]}.get(chr(byte))
            i = state * 256 + byte
            assert (ACTIONS[i], NEXT_STATES[i]) == (expected or (0, 0))
    assert TABLE.keys() == STATES.keys() and len(ACTIONS) == len(NEXT_STATES) == 256 * len(STATES)


@pytest.mark.parametrize("kind", [State, Action, Next])
def test_each_number_has_one_name(kind: type) -> None:
    names = [name for name in vars(kind) if name.isupper()]
    assert sorted(names_of(kind).values()) == sorted(names)
    first = min(names_of(kind))
    assert list(names_of(kind)) == list(range(first, first + len(names)))
    assert first == (253 if kind is Next else 0)


def test_every_frontend_message_of_a_request_has_its_answers() -> None:
    extended = {"P", "B", "C", "E", "H", "S"} | {"DS", "DP"}
    assert set(ANSWERS) == {*extended, "Q"}
    assert all(State.SYNC not in states[:-1] for states in ANSWERS.values())
    assert [letter for letter, states in ANSWERS.items() if states[-1:] == (State.SYNC,)] == ["S", "Q"]


PXD = Path(__file__).parents[2] / "src/pg_wired/session/table.pxd"


def test_the_header_has_the_same_numbers() -> None:
    found = re.findall(r"^    ([A-Z_0-9]+) = (\S+)$", PXD.read_text(), re.M)
    numbers = {name: int(number, 0) for name, number in found}
    assert numbers == {name: getattr(table, name) for name in numbers} and "STATUS_IDLE" in numbers


def test_the_numbers_of_the_module_are_those_of_the_table() -> None:
    for kind, names in (
        (Action, ("NOTIFICATION", "NEXT", "ROW", "TAG", "READY", "DATA")),
        (Next, ("STAY", "STEP", "END")),
        (State, ("PARSE", "BIND", "QUERY", "EXECUTE")),
    ):
        assert [getattr(table, name) for name in names] == [getattr(kind, name) for name in names]
    assert Action.DESYNC == 0 and chr(table.STATUS_IDLE) == TransactionStatus.IDLE.value


@pytest.mark.parametrize("length", [3, SHORT_LIMIT_BYTES + 1, -1])
def test_a_length_that_the_message_cannot_have_is_refused(length: int) -> None:
    with pytest.raises(ProtocolError, match=f"b'Z' has a length of {length} in state SYNC"):
        table.check(State.SYNC, ord("Z"), length)


def test_a_long_row_and_a_short_acknowledgement_are_accepted() -> None:
    table.check(State.EXECUTE, ord("D"), SHORT_LIMIT_BYTES + 1)
    table.check(State.BIND, ord("2"), 4)


def test_a_message_out_of_place_is_refused() -> None:
    with pytest.raises(ProtocolError, match="b'D' is out of place in state BIND"):
        table.check(State.BIND, ord("D"), 4)


@pytest.mark.parametrize("status", "ITE")
def test_a_transaction_status_is_accepted(status: str) -> None:
    table.check_status(ord(status))


def test_a_byte_that_is_no_transaction_status_is_refused() -> None:
    with pytest.raises(ProtocolError, match="the transaction status 'X'"):
        table.check_status(ord("X"))
