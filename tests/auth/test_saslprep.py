"""SASLprep: the examples of the RFC and each of its rules, as PostgreSQL applies them."""

from __future__ import annotations

import pytest

from pg_wired.auth.saslprep import saslprep

SPACES = "\u00a0\u1680\u2000\u200b\u202f\u205f\u3000"


@pytest.mark.parametrize(
    ("password", "prepared"),
    [
        # RFC 4013, 3. The last two are errors there; PostgreSQL uses such a password unchanged.
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("\u0007", "\u0007"),
        ("\u0627\u0031", "\u0627\u0031"),
        # mapping
        *((f"a{space}b", "a b") for space in SPACES),
        ("a\u034f\u1806\u180b\u200c\u200d\u2060\ufe00\ufeffb", "ab"),
        ("\u00a0", " "),
        ("\u00ad", "\u00ad"),  # the result would be empty
        ("", ""),
        # normalization: composed, compatibility, Hangul, a singleton
        ("e\u0301", "\u00e9"),
        ("\ufb01\u00bd", "fi1\u20442"),
        ("\u1112\u1161\u11ab", "\ud55c"),
        ("\u212b", "\u00c5"),
        # prohibited, so unchanged: one character of each table
        *(
            (f"a\u00ad{char}", f"a\u00ad{char}")
            for char in "\x07\x7f\x80\u06dd\u2028\ue000\ufdd0\ufffd\u2ff0\u0340\u200e"
        ),
        *((f"a\u00ad{char}", f"a\u00ad{char}") for char in "\U000e0001\U0001fffe\U00100000"),
        ("a\u00ad\u0221", "a\u00ad\u0221"),  # unassigned in Unicode 3.2
        ("a\u00ad\U0001f600", "a\u00ad\U0001f600"),
        # PostgreSQL checks before it normalizes: U+2135 is left-to-right, the letter that it normalizes to is not
        ("a\u2135", "a\u05d0"),
        # bidirectional
        ("\u05d0\u00ad\u05d1", "\u05d0\u05d1"),
        ("\u05d0\u00ad", "\u05d0"),
        ("\u05d0\u00ad1\u05d1", "\u05d01\u05d1"),
        ("\u05d0\u00ada\u05d1", "\u05d0\u00ada\u05d1"),
        ("1\u00ad\u05d0", "1\u00ad\u05d0"),
        ("\u05d0\u00ad1", "\u05d0\u00ad1"),
    ],
)
def test_a_password_is_prepared_as_postgresql_does(password: str, prepared: str) -> None:
    assert saslprep(password) == prepared.encode()


@pytest.mark.parametrize("password", [b"\xff", b"caf\xe9", b"\xc0\x80", b"\xed\xa0\x80", b"\xc2\xad\xff"])
def test_passwords_that_are_not_utf8_are_left_unchanged(password: bytes) -> None:
    assert saslprep(password.decode("utf-8", "surrogateescape")) == password


def test_escaped_bytes_that_are_utf8_are_prepared() -> None:
    """A password file read with PEP 383 under a C locale escapes every byte above 127."""
    assert saslprep("I\udcc2\udcadX") == b"IX"
