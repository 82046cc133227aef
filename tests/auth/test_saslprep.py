"""SASLprep: the RFC's examples, and each rule, as PostgreSQL treats them."""

from __future__ import annotations

import pytest

from pg_wired.auth.saslprep import saslprep

SPACES = "\u00a0\u1680\u2000\u200b\u202f\u205f\u3000"


@pytest.mark.parametrize(
    ("password", "prepared"),
    [
        # RFC 4013, 3. The last two are errors there, and PostgreSQL takes such a password as it is.
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
        ("\u00ad", "\u00ad"),  # nothing would be left
        ("", ""),
        # normalization: composed, compatibility, Hangul, a singleton
        ("e\u0301", "\u00e9"),
        ("\ufb01\u00bd", "fi1\u20442"),
        ("\u1112\u1161\u11ab", "\ud55c"),
        ("\u212b", "\u00c5"),
        # prohibited, and so unchanged: one of each table
        *(
            (f"a\u00ad{char}", f"a\u00ad{char}")
            for char in "\x07\x7f\x80\u06dd\u2028\ue000\ufdd0\ufffd\u2ff0\u0340\u200e"
        ),
        *((f"a\u00ad{char}", f"a\u00ad{char}") for char in "\U000e0001\U0001fffe\U00100000"),
        ("a\u00ad\u0221", "a\u00ad\u0221"),  # unassigned in Unicode 3.2
        ("a\u00ad\U0001f600", "a\u00ad\U0001f600"),
        # PostgreSQL looks before it normalizes: U+2135 is left-to-right, the letter that it stands for is not
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
def test_saslprep(password: str, prepared: str) -> None:
    assert saslprep(password) == prepared.encode()


@pytest.mark.parametrize("password", [b"\xff", b"caf\xe9", b"\xc0\x80", b"\xed\xa0\x80", b"\xc2\xad\xff"])
def test_other_encodings_are_taken_as_they_are(password: bytes) -> None:
    assert saslprep(password.decode("utf-8", "surrogateescape")) == password


def test_escaped_bytes_that_are_utf_8_are_prepared() -> None:
    """A password file read with PEP 383 under a C locale escapes every byte above 127."""
    assert saslprep("I\udcc2\udcadX") == b"IX"
