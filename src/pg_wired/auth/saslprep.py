"""SASLprep (RFC 4013) as PostgreSQL applies it to a password. It knows no SCRAM messages."""

from __future__ import annotations

import stringprep
from unicodedata import normalize

# RFC 4013, 2.3 "Prohibited Output" (without C.1.2, which is mapped to a space) and 2.5 "Unassigned Code Points".
_PROHIBITED = (
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
    stringprep.in_table_a1,
)


def saslprep(password: str) -> bytes:
    """Return the bytes that PostgreSQL hashes for a password.

    The password is prepared, but stays unchanged if it is ASCII, is not UTF-8 or is refused by the RFC. Bytes that are
    not UTF-8 are passed in as surrogates (PEP 383, "surrogateescape"). The rules are those of PostgreSQL's
    src/common/saslprep.c; where they differ from RFC 4013 they win, because the server hashed the password by them.
    """
    octets = password.encode("utf-8", "surrogateescape")
    if octets.isascii():
        return octets
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        return octets
    mapped = "".join(map(_map, text))
    # PostgreSQL looks for prohibited characters before it normalizes; the RFC does so afterwards.
    if not mapped or any(table(char) for char in mapped for table in _PROHIBITED) or not _is_bidi_legal(mapped):
        return octets
    return normalize("NFKC", mapped).encode()


def _map(char: str) -> str:
    """Map one character (RFC 4013, 2.1). U+200B is in both tables, and becomes a space."""
    if stringprep.in_table_c12(char):
        return " "
    return "" if stringprep.in_table_b1(char) else char


def _is_bidi_legal(text: str) -> bool:
    """Whether the text obeys RFC 3454, 6.

    Text with right-to-left characters has no left-to-right ones, and starts and ends with a right-to-left character.
    """
    if not any(map(stringprep.in_table_d1, text)):
        return True
    mixed = any(map(stringprep.in_table_d2, text))
    return not mixed and stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
