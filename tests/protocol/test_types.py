"""Plain types and limits compared with libpq and the protocol chapter."""

from __future__ import annotations

from pg_wired.protocol.octets import LONG_LIMIT_BYTES, LONG_MESSAGES, SHORT_LIMIT_BYTES
from pg_wired.protocol.records import FieldDescription
from pg_wired.protocol.types import FormatCode, ResponseCollector, TransactionStatus


def test_the_long_messages_and_limits_agree_with_libpq() -> None:
    libpq = set("TDdVENA")  # VALID_LONG_MESSAGE_TYPE
    assert set(LONG_MESSAGES) == libpq - {"V"} | {"t"}
    assert (SHORT_LIMIT_BYTES, LONG_LIMIT_BYTES) == (30_000, 2**30 - 2)
    assert SHORT_LIMIT_BYTES < 4 + 2 + 4 * 65_535  # a ParameterDescription may be longer


def test_plain_types_have_the_documented_members() -> None:
    assert FieldDescription._fields == (
        "name",
        "table_oid",
        "column_id",
        "type_oid",
        "type_size",
        "type_modifier",
        "format",
    )
    assert (FormatCode.TEXT, FormatCode.BINARY) == (0, 1)
    assert [status.value for status in TransactionStatus] == ["I", "T", "E"]
    names = "ROWS DRAIN STREAM COPY_IN COPY_OUT COPY_BOTH"
    assert [collector.name for collector in ResponseCollector] == names.split()
