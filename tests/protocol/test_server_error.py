"""The exception tree: the outcome that each error states, and the text of the server's errors."""

from __future__ import annotations

import copy
import pickle
import time

import pytest

from pg_wired import errors as e
from pg_wired.errors import Outcome
from pg_wired.protocol.server_error import PgError

TREE: list[tuple[type[e.PgWireError], tuple[type, ...], Outcome]] = [
    (e.PgWireError, (Exception,), Outcome.UNKNOWN),
    (e.PipelineAborted, (e.PgWireError,), Outcome.UNKNOWN),
    (e.TransactionError, (e.PgWireError,), Outcome.UNKNOWN),
    (e.ProtocolError, (e.PgWireError,), Outcome.UNKNOWN),
    (e.ConnectionClosed, (e.PgWireError,), Outcome.UNKNOWN),
    (e.IoError, (e.PgWireError, OSError), Outcome.UNKNOWN),
    (e.RequestTimeout, (e.PgWireError, TimeoutError), Outcome.UNKNOWN),
    (e.PoolExhausted, (e.PgWireError, TimeoutError), Outcome.UNKNOWN),
    (e.AuthenticationError, (e.PgWireError,), Outcome.NOT_SENT),
    (e.ConfigError, (e.PgWireError, ValueError), Outcome.NOT_SENT),
    (e.UsageError, (e.PgWireError, RuntimeError), Outcome.NOT_SENT),
]
# Protocol chapter, "Error and Notice Message Fields": the letter of each field, and its name here.
FIELD_NAMES = {
    "S": "severity_localized",
    "V": "severity",
    "C": "code",
    "M": "message",
    "D": "detail",
    "H": "hint",
    "P": "position",
    "p": "internal_position",
    "q": "internal_query",
    "W": "where",
    "s": "schema_name",
    "t": "table_name",
    "c": "column_name",
    "d": "data_type_name",
    "n": "constraint_name",
    "F": "file",
    "L": "line",
    "R": "routine",
}
ALL_FIELDS = {letter: f"the {name}" for letter, name in FIELD_NAMES.items()} | {"P": "3", "p": "4"}


@pytest.mark.parametrize(("cls", "families", "outcome"), TREE, ids=lambda value: getattr(value, "__name__", None))
def test_each_error_class_has_its_bases_text_and_default_outcome(
    cls: type[e.PgWireError], families: tuple[type, ...], outcome: Outcome
) -> None:
    error = cls("it broke")
    assert isinstance(error, families)
    assert (str(error), error.outcome, cls().outcome) == ("it broke", outcome, outcome)
    for other in Outcome:
        twin = error.with_outcome(other)
        assert (type(twin), str(twin), twin.outcome) == (cls, "it broke", other)
    assert error.outcome is outcome


def test_the_tree_lists_every_error_class() -> None:
    def below(cls: type[e.PgWireError]) -> set[type[e.PgWireError]]:
        return {cls}.union(*map(below, cls.__subclasses__()))

    public = {cls for cls in below(e.PgWireError) if cls.__module__ in (e.__name__, PgError.__module__)}
    assert public == {cls for cls, _, _ in TREE} | {PgError}


def test_with_outcome_keeps_the_cause() -> None:
    error = e.ConnectionClosed("closed")
    error.__cause__ = OSError(5, "io")
    assert error.with_outcome(Outcome.NOT_SENT).__cause__ is error.__cause__


@pytest.mark.parametrize("cls", [e.IoError, e.RequestTimeout, e.PoolExhausted])
def test_an_error_derived_from_os_error_has_no_errno(cls: type[OSError]) -> None:
    error = cls("the socket failed", Outcome.NOT_SENT)
    assert (error.errno, error.strerror, error.filename, str(error)) == (
        None,
        "the socket failed",
        None,
        "the socket failed",
    )


@pytest.mark.parametrize(
    "error", [*(cls("why", Outcome.REJECTED) for cls, _, _ in TREE), PgError([("M", "x")], Outcome.REJECTED, "sql")]
)
@pytest.mark.parametrize("again", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_copies_are_equal(error: e.PgWireError, again: object) -> None:
    assert callable(again)
    twin = again(error)
    assert (type(twin), str(twin), twin.outcome) == (type(error), str(error), Outcome.REJECTED)
    assert vars(twin).keys() == vars(error).keys()


def test_each_field_of_a_server_error_has_an_attribute() -> None:
    error = PgError(ALL_FIELDS.items(), Outcome.REJECTED, "select")
    assert len(FIELD_NAMES) == 18
    for letter, name in FIELD_NAMES.items():
        text = ALL_FIELDS[letter]
        assert getattr(error, name) == (int(text) if text.isdigit() else text), name
    assert (error.fields, error.outcome, error.sql, error.partial) == (ALL_FIELDS, Outcome.REJECTED, "select", [])


def test_a_server_error_without_fields_has_defaults() -> None:
    error = PgError(())
    assert (error.severity, error.severity_localized, error.code, error.message) == ("ERROR", "ERROR", "", "")
    assert {getattr(error, name) for name in list(FIELD_NAMES.values())[4:]} == {None}
    assert (str(error), error.outcome, error.is_fatal) == ("ERROR:  ", Outcome.UNKNOWN, False)


def test_the_first_of_a_repeated_field_counts_and_unknown_ones_are_kept() -> None:
    error = PgError([("C", "1"), ("C", "2"), ("?", "x")])
    assert (error.code, error.fields) == ("1", {"C": "1", "?": "x"})


def test_bytes_that_are_not_utf8_are_shown_as_replacement_characters() -> None:
    assert PgError([("M", b"caf\xe9".decode("utf-8", "surrogateescape"))]).message == "caf\ufffd"


@pytest.mark.parametrize(
    ("fields", "fatal"),
    [
        ({"V": "FATAL"}, True),
        ({"V": "PANIC"}, True),
        ({"S": "FATAL"}, True),
        ({"S": "FATAL", "V": "ERROR"}, False),
        ({"S": "VERHÄNGNISVOLL", "V": "FATAL"}, True),
        ({}, False),
    ],
)
def test_the_severity_decides_whether_an_error_is_fatal(fields: dict[str, str], fatal: bool) -> None:
    assert PgError(fields.items()).is_fatal is fatal


@pytest.mark.parametrize("text", ["", "x", "-1", "+1", "1_0", "²", "٣", "1" * 10, "1" * 9_999, " 1", "1.0"])
def test_a_position_that_is_no_number_is_ignored(text: str) -> None:
    error = PgError([("P", text), ("p", text)], sql="select")
    assert (error.position, error.internal_position) == (None, None)
    assert str(error) == "ERROR:  "


# As psql prints them, without the "psql:file:line:" prefix.
READINGS = [
    (
        {"S": "ERROR", "M": 'column "b" does not exist', "P": "8", "H": "Try a."},
        "select b",
        'ERROR:  column "b" does not exist\nLINE 1: select b\n               ^\nHINT:  Try a.',
    ),
    (
        {"S": "FEHLER", "V": "ERROR", "M": "nein", "P": "10", "D": "weil", "H": "so", "q": "f()", "W": "dort"},
        "select\n\n\tb\nfrom t",
        "FEHLER:  nein\nLINE 3:  b\n         ^\nDETAIL:  weil\nHINT:  so\nQUERY:  f()\nCONTEXT:  dort",
    ),
    ({"M": "at the end", "P": "7"}, "select", "ERROR:  at the end\nLINE 1: select\n              ^"),
    (
        {"M": "inside", "p": "3", "q": "a\nb", "P": ""},
        "call f()",
        "ERROR:  inside\nLINE 2: b\n        ^\nQUERY:  a\nb",
    ),
    ({"M": "beyond", "P": "8"}, "select", "ERROR:  beyond"),
    ({"M": "far beyond", "P": "999999999", "p": "999999999", "q": "x"}, "select", "ERROR:  far beyond\nQUERY:  x"),
    ({"M": "zero", "P": "0"}, "select", "ERROR:  zero"),
    ({"M": "no sql", "P": "1"}, None, "ERROR:  no sql"),
    ({"M": "no query", "p": "1"}, "select", "ERROR:  no query"),
]


@pytest.mark.parametrize(("fields", "sql", "text"), READINGS, ids=[fields["M"] for fields, _, _ in READINGS])
def test_it_reads_like_psql(fields: dict[str, str], sql: str | None, text: str) -> None:
    assert str(PgError(fields.items(), sql=sql)) == text


LONG = "select " + "1234567890, " * 20


@pytest.mark.parametrize(
    ("sql", "position", "line", "under"),
    [
        ("x" * 60, 60, "LINE 1: " + "x" * 60, "x"),
        ("x" * 61, 1, "LINE 1: " + "x" * 60 + "...", "x"),
        (LONG, 8, "LINE 1: " + LONG[:60] + "...", "1"),
        (LONG, 51, "LINE 1: " + LONG[:60] + "...", LONG[50]),
        (LONG, 52, "LINE 1: ..." + LONG[1:61] + "...", LONG[51]),
        (LONG, 120, "LINE 1: ..." + LONG[69:129] + "...", LONG[119]),
        (LONG, len(LONG), "LINE 1: ..." + LONG[-60:], " "),
        ("a\r\n" + LONG + "\rb", 3 + 8, "LINE 2: " + LONG[:60] + "...", "1"),
        ("\u6f22" * 40, 40, "LINE 1: ..." + "\u6f22" * 30, "\u6f22"),  # two columns wide
        ("e\u0301" * 50 + "b", 101, "LINE 1: " + "e\u0301" * 50 + "b", "b"),  # combining: none
    ],
)
def test_a_long_line_is_cut_around_the_error(sql: str, position: int, line: str, under: str) -> None:
    """As libpq does: 60 columns, ten of them after the error."""
    _, shown, caret = str(PgError([("P", str(position))], sql=sql)).split("\n")
    assert shown == line
    columns = [char for char in shown for _ in range(width(char))]
    assert caret.strip() == "^" and columns[len(caret) - 1] == under


def width(char: str) -> int:
    return 2 if char == "\u6f22" else 0 if char == "\u0301" else 1


def test_the_text_of_an_error_in_a_long_line_is_made_quickly() -> None:
    sql = "select " + "1, " * 300_000
    begin = time.process_time()
    for position in (1, 450_000, 900_000):
        assert len(str(PgError([("P", str(position))], sql=sql))) < 200
    assert time.process_time() - begin < 10
