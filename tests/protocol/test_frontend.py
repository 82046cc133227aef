"""The fast encoder writes the same bytes as `messages`, and refuses what no server accepts before writing a byte."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_wired.errors import ConfigError, Outcome
from pg_wired.protocol import frontend, messages
from pg_wired.protocol.octets import LONG_LIMIT_BYTES
from pg_wired.protocol.types import FormatCode

VALUES = st.none() | st.binary(max_size=20)
CODES = st.lists(st.sampled_from([0, 1]), max_size=4)
# 65,535 of these are just too many bytes for a message; as references to one object they take no memory.
HUGE = bytes(LONG_LIMIT_BYTES // 65_535)


@given(params=st.lists(VALUES).map(tuple), param=CODES, result=CODES, name=st.sampled_from(["", "pgw_1", "ü"]))
def test_bind_writes_the_same_bytes_as_the_bind_message(
    params: tuple[bytes | None, ...], param: list[int], result: list[int], name: str
) -> None:
    head = frontend.bind_head(name, frontend.formats(param, "param_formats"), len(params))
    out = bytearray(b"before")
    frontend.bind(out, head, params, frontend.formats(result, "result_formats"), b"behind")
    message = messages.Bind("", name, tuple(param), params, tuple(result))
    assert out == b"before" + messages.encode(message) + b"behind"


def test_the_constants_are_encoded_messages() -> None:
    execute = messages.encode(messages.Execute())
    described = messages.encode(messages.Describe("P")) + execute
    assert (execute, described) == (frontend.EXECUTE, frontend.DESCRIBE_EXECUTE)
    assert messages.encode(messages.Sync()) == frontend.SYNC
    assert (frontend.formats((), "x"), frontend.formats([1], "x")) == (frontend.ALL_TEXT, frontend.ALL_BINARY)


@given(st.lists(VALUES))
def test_bytes_and_none_are_accepted_unchanged_from_any_iterable(params: list[bytes | None]) -> None:
    for kind in (tuple, list, iter):
        assert frontend.values(kind(params)) == tuple(params)  # type: ignore[arg-type]


def test_values_are_copied_into_bytes() -> None:
    octets, text = bytearray(b"abc"), "\0ü€😀"
    taken = frontend.values([octets, memoryview(octets)[::2], text, "", None, b""])
    octets[:] = b"xyz"
    assert taken == (b"abc", b"ac", text.encode(), b"", None, b"")
    assert {type(value) for value in taken} == {bytes, type(None)}


class Odd(bytes):
    """A subclass of bytes, to be reduced to plain bytes."""


def test_a_subclass_of_bytes_becomes_bytes() -> None:
    assert [type(value) for value in frontend.values((Odd(b"x"),))] == [bytes]


@pytest.mark.parametrize("value", [1, 1.5, True, (), [b"x"], {}, object(), Exception])
def test_a_value_of_another_type_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=rf"^parameter \$2 is {type(value).__name__}: pass bytes, "):
        frontend.values((b"x", value))


@pytest.mark.parametrize("params", [{"name": "x"}, {"a", "b"}, {}.keys()])
def test_values_without_an_order_are_refused(params: Any) -> None:
    with pytest.raises(TypeError, match=rf"^params is {type(params).__name__}: values are given by position"):
        frontend.values(params)


@pytest.mark.parametrize("params", ["text", b"bytes", bytearray(), memoryview(b"")])
def test_a_single_value_is_refused_as_a_sequence_of_values(params: Any) -> None:
    with pytest.raises(TypeError, match=rf"not {type(params).__name__}: pass \(value,\)"):
        frontend.values(params)


@pytest.mark.parametrize(("params", "text"), [(None, "^params is None: leave it out"), (7, "^params is a sequence")])
def test_values_that_are_no_sequence_are_refused(params: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        frontend.values(params)


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ((b"",) * 65_536, r"^65536 parameters: PostgreSQL takes at most 65535"),
        (("",) * 65_536, r"^65536 parameters"),
        ((None, "\ud800"), r"^parameter \$2 cannot be sent as UTF-8: surrogates not allowed"),
        ((HUGE,) * 65_535, rf"^parameters of {65_535 * len(HUGE)} bytes: a message may have at most 1073741822"),
    ],
    ids=["too many", "too many, not bytes", "surrogate", "too large"],
)
def test_values_that_cannot_be_sent_are_refused(params: Any, error: str) -> None:
    with pytest.raises(ConfigError, match=error) as caught:
        frontend.values(params)
    assert caught.value.outcome is Outcome.NOT_SENT


def test_text_counts_towards_the_size_of_the_values() -> None:
    with pytest.raises(ConfigError, match=r"^parameters of "):
        frontend.values((*(HUGE,) * 65_534, "x" * len(HUGE)))


@pytest.mark.parametrize(
    ("codes", "data"),
    [
        (0, b"\0\0"),
        (FormatCode.TEXT, b"\0\0"),
        (1, b"\0\1\0\1"),
        (FormatCode.BINARY, b"\0\1\0\1"),
        ((), b"\0\0"),
        ([1], b"\0\1\0\1"),
        ((0, FormatCode.BINARY, 0), b"\0\3\0\0\0\1\0\0"),
        ([0] * 65_535, b"\xff\xff" + bytes(131_070)),
    ],
)
def test_format_codes_are_encoded_with_their_count(codes: Any, data: bytes) -> None:
    assert frontend.formats(codes, "param_formats") == data


@pytest.mark.parametrize("codes", [2, -1, True, [0, 2], [True], ["1"], "01", [1.0], [None]])
def test_wrong_format_codes_are_refused(codes: Any) -> None:
    with pytest.raises(ConfigError, match=r"^result_formats has .*: pass FormatCode\.TEXT or FormatCode\.BINARY"):
        frontend.formats(codes, "result_formats")


def test_too_many_format_codes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^param_formats has 65536 codes"):
        frontend.formats([0] * 65_536, "param_formats")


@pytest.mark.parametrize(("count", "values"), [(0, 0), (0, 9), (1, 0), (1, 9), (3, 3)])
def test_none_one_or_as_many_format_codes_as_values_are_accepted(count: int, values: int) -> None:
    frontend.check_count(frontend.formats([1] * count, "x"), values, "x")


@pytest.mark.parametrize(("count", "values"), [(2, 0), (2, 1), (2, 3), (300, 299)])
def test_any_other_number_of_format_codes_is_refused(count: int, values: int) -> None:
    with pytest.raises(ConfigError, match=f"^x has {count} codes for {values} values: pass one for all, or one for"):
        frontend.check_count(frontend.formats([1] * count, "x"), values, "x")


def test_up_to_65535_oids_are_accepted() -> None:
    assert frontend.oids(iter([0, 23, 2**32 - 1])) == (0, 23, 2**32 - 1)
    assert frontend.oids([25] * 65_535) == (25,) * 65_535
    with pytest.raises(ConfigError, match=r"^65536 parameter OIDs: PostgreSQL takes at most 65535"):
        frontend.oids([25] * 65_536)


@pytest.mark.parametrize("oid", [-1, 2**32, True, "23", 23.0, None])
def test_wrong_oids_are_refused(oid: Any) -> None:
    with pytest.raises(ConfigError, match=f"^param_oids has {oid!r}: an OID is an int from 0 to 4294967295"):
        frontend.oids([23, oid])


@pytest.mark.parametrize("sql", ["", "select 1", "select 'ü'"])
def test_text_is_returned_unchanged(sql: str) -> None:
    assert frontend.text(sql, "sql") == sql


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("select\0 1", "^sql has a NUL character at 6: PostgreSQL ends a string there"),
        ("ü \udfff", "^sql cannot be sent as UTF-8: surrogates not allowed at 2"),
    ],
)
def test_text_that_cannot_be_sent_is_refused(sql: str, error: str) -> None:
    with pytest.raises(ConfigError, match=error) as caught:
        frontend.text(sql, "sql")
    assert caught.value.outcome is Outcome.NOT_SENT


def test_text_longer_than_a_message_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^sql has 1073741822 bytes: a message may have at most"):
        frontend.text("x" * LONG_LIMIT_BYTES, "sql")


@pytest.mark.parametrize("sql", ["", "select 1", "select 'ü'"])
def test_query_writes_the_same_bytes_as_the_query_message(sql: str) -> None:
    assert frontend.query(sql) == messages.encode(messages.Query(sql))


@pytest.mark.parametrize("sql", [b"select 1", None, 1])
def test_text_of_another_type_is_refused(sql: Any) -> None:
    with pytest.raises(TypeError, match=f"^sql is {type(sql).__name__}: pass a str"):
        frontend.text(sql, "sql")


class Words(str):
    """SQL constants are often members of a class derived from str."""

    def __str__(self) -> str:
        return "drop table students"

    __format__ = None  # type: ignore[assignment]


def test_a_subclass_of_str_becomes_a_plain_str() -> None:
    taken = frontend.text(Words("select 1"), "sql")
    assert (type(taken), taken) == (str, "select 1")


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("n", [0, 1, 70_000])
def test_copy_data_is_appended_to_the_output(kind: type, n: int) -> None:
    out = bytearray(b"before")
    frontend.copy_data(out, kind(b"x" * n))
    assert out == b"before" + messages.encode(messages.CopyData(b"x" * n))
