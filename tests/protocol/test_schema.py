"""A declaration of fields makes a class that behaves like a frozen data class with slots, and its encoding."""

from __future__ import annotations

import copy
import pickle
from typing import Annotated

import pytest

from pg_wired.errors import ProtocolError
from pg_wired.protocol import schema
from pg_wired.protocol.schema import Int, Message, Secret, String

SHORT = Int(2)
WORD = String()


class Pair(Message, tag="!"):
    """Two fields, one with a default, one secret."""

    number: Annotated[int, SHORT]
    word: Annotated[str, Secret(WORD)] = "none"


class Empty(Message, tag="!", code=7):
    """No fields."""


class Other(Message):
    """Another class with the same fields as Pair."""

    number: Annotated[int, SHORT]
    word: Annotated[str, WORD]


def test_fields_may_be_given_by_position_by_name_or_by_default() -> None:
    assert Pair(1, "x") == Pair(word="x", number=1)
    assert Pair(1) == Pair(1, "none")
    assert (Pair(1).number, Pair(1).word, Pair.tag, Empty.code) == (1, "none", ord("!"), b"\0\0\0\7")


@pytest.mark.parametrize(
    ("args", "named", "error"),
    [
        ((), {}, "number"),
        ((1, "x", 2), {}, "too many positional arguments"),
        ((1,), {"number": 1}, "multiple values"),
        ((1,), {"nobody": 1}, "unexpected keyword argument 'nobody'"),
    ],
)
def test_wrong_arguments_are_refused(args: tuple[object, ...], named: dict[str, object], error: str) -> None:
    with pytest.raises(TypeError, match=error):
        Pair(*args, **named)  # type: ignore[arg-type]


def test_messages_of_different_classes_are_not_equal() -> None:
    assert Pair(1, "x") != Other(1, "x")
    assert Pair(1, "x") != Pair(1, "y")
    assert Pair(1, "x") != (1, "x")
    assert len({Pair(1, "x"), Pair(1, "x"), Other(1, "x"), Empty(), Empty()}) == 3


def test_a_message_cannot_be_changed() -> None:
    pair = Pair(1)
    with pytest.raises(AttributeError, match="Pair is frozen"):
        pair.number = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match="Pair is frozen"):
        del pair.number
    with pytest.raises(AttributeError):
        pair.nobody = 2
    assert not hasattr(pair, "__dict__")


def test_the_repr_hides_secrets() -> None:
    assert repr(Pair(1, "hush")) == "Pair(number=1, word=...)"
    assert repr(Empty()) == "Empty()"


def test_match_binds_fields_by_position() -> None:
    match Pair(1, "x"):
        case Pair(number, word):
            assert (number, word) == (1, "x")
        case _:
            raise AssertionError("Pair did not match itself")


def test_copies_are_equal() -> None:
    assert copy.copy(Pair(1, "x")) == Pair(1, "x")
    assert pickle.loads(pickle.dumps(Pair(1, "x"))) == Pair(1, "x")


def test_a_message_is_written_as_its_code_and_its_fields_in_order() -> None:
    assert schema.fields_of(Pair)[0] == ("number", SHORT)
    assert b"".join(schema.write(Pair(258, "x"))) == b"\1\2x\0"
    assert schema.read(Pair, b"\1\2x\0") == Pair(258, "x")
    assert b"".join(schema.write(Empty())) == b"\0\0\0\7"
    assert schema.read(Empty, b"\0\0\0\7") == Empty()


def test_a_write_error_names_the_message_and_the_field() -> None:
    with pytest.raises(ValueError, match=r"^Pair\.number: 40000 is not in the range"):
        schema.write(Pair(40000))
    with pytest.raises(TypeError, match=r"^Pair\.word: "):
        schema.write(Pair(1, b"bytes"))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^Pair\.number: "):
        schema.write(Pair("1"))  # type: ignore[arg-type]


def test_a_read_error_names_the_message_and_the_field() -> None:
    with pytest.raises(ProtocolError, match=r"^Pair\.word: a string has no NUL"):
        schema.read(Pair, b"\0\1x")
    with pytest.raises(ProtocolError, match=r"^Pair has 2 bytes after its last field"):
        schema.read(Pair, b"\0\1x\0yz")
