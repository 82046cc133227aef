"""Every message in both directions: its bytes, its limits, and the errors for wrong bytes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pg_wired.errors import ProtocolError
from pg_wired.protocol import messages as m
from pg_wired.protocol.octets import LONG_LIMIT_BYTES
from pg_wired.protocol.records import FieldDescription
from rig import strategies

BACKEND_CLASSES = strategies.classes(m.BackendMessage)
FRONTEND_CLASSES = strategies.classes(m.FrontendMessage)
COLUMN = FieldDescription("?column?", 0, 0, 23, 4, -1, 0)

# Bytes written by hand from the protocol chapter, "Message Formats", in case encoder and decoder share a mistake.
GOLDEN: list[tuple[m.Message, bytes]] = [
    (m.StartupMessage(3, 2, (("user", "me"),)), b"\0\0\0\x11\0\3\0\2user\0me\0\0"),
    (m.SSLRequest(), b"\0\0\0\x08\x04\xd2\x16\x2f"),
    (m.GSSENCRequest(), b"\0\0\0\x08\x04\xd2\x16\x30"),
    (m.CancelRequest(258, b"\1\2\3\4\5"), b"\0\0\0\x11\x04\xd2\x16\x2e\0\0\1\2\1\2\3\4\5"),
    (m.AuthenticationOk(), b"R\0\0\0\x08\0\0\0\0"),
    (m.AuthenticationKerberosV5(), b"R\0\0\0\x08\0\0\0\2"),
    (m.AuthenticationCleartextPassword(), b"R\0\0\0\x08\0\0\0\3"),
    (m.AuthenticationMD5Password(b"salt"), b"R\0\0\0\x0c\0\0\0\5salt"),
    (m.AuthenticationGSS(), b"R\0\0\0\x08\0\0\0\7"),
    (m.AuthenticationGSSContinue(b"g"), b"R\0\0\0\x09\0\0\0\x08g"),
    (m.AuthenticationSSPI(), b"R\0\0\0\x08\0\0\0\x09"),
    (m.AuthenticationSASL(("A", "B")), b"R\0\0\0\x0d\0\0\0\x0aA\0B\0\0"),
    (m.AuthenticationSASLContinue(b"r="), b"R\0\0\0\x0a\0\0\0\x0br="),
    (m.AuthenticationSASLFinal(b"v="), b"R\0\0\0\x0a\0\0\0\x0cv="),
    (m.PasswordMessage("pw"), b"p\0\0\0\x07pw\0"),
    (m.SASLInitialResponse("A", b"n,,"), b"p\0\0\0\x0dA\0\0\0\0\3n,,"),
    (m.SASLInitialResponse("A", None), b"p\0\0\0\x0aA\0\xff\xff\xff\xff"),
    (m.SASLResponse(b"c="), b"p\0\0\0\x06c="),
    (m.GSSResponse(b"g"), b"p\0\0\0\x05g"),
    (m.Query("select 1"), b"Q\0\0\0\x0dselect 1\0"),
    (m.Parse("s", "q", (23, 2**32 - 1)), b"P\0\0\0\x12s\0q\0\0\2\0\0\0\x17\xff\xff\xff\xff"),
    (m.Bind("", "s", (1,), (b"x", None), (0, 1)), b"B\0\0\0\x1c\0s\0\0\1\0\1\0\2\0\0\0\1x\xff\xff\xff\xff\0\2\0\0\0\1"),
    (m.Describe("S", "s"), b"D\0\0\0\x07Ss\0"),
    (m.Execute("", 258), b"E\0\0\0\x09\0\0\0\1\2"),
    (m.Close("P"), b"C\0\0\0\x06P\0"),
    (m.Flush(), b"H\0\0\0\4"),
    (m.Sync(), b"S\0\0\0\4"),
    (m.Terminate(), b"X\0\0\0\4"),
    (m.CopyFail("no"), b"f\0\0\0\7no\0"),
    (m.FunctionCall(7, (1,), (b"x",), 1), b"F\0\0\0\x15\0\0\0\7\0\1\0\1\0\1\0\0\0\1x\0\1"),
    (m.CopyData(b"a\0"), b"d\0\0\0\6a\0"),
    (m.CopyDone(), b"c\0\0\0\4"),
    (m.BackendKeyData(-1, b"\1\2\3\4"), b"K\0\0\0\x0c\xff\xff\xff\xff\1\2\3\4"),
    (m.NegotiateProtocolVersion(3 << 16, ("_pq_.x",)), b"v\0\0\0\x13\0\3\0\0\0\0\0\1_pq_.x\0"),
    (m.ParameterStatus("a", "b"), b"S\0\0\0\x08a\0b\0"),
    (m.ReadyForQuery("T"), b"Z\0\0\0\5T"),
    (m.ErrorResponse((("S", "E"), ("?", "x"), ("S", "F"))), b"E\0\0\0\x0eSE\0?x\0SF\0\0"),
    (m.NoticeResponse(()), b"N\0\0\0\5\0"),
    (m.NotificationResponse(9, "c", "p"), b"A\0\0\0\x0c\0\0\0\x09c\0p\0"),
    (m.ParseComplete(), b"1\0\0\0\4"),
    (m.BindComplete(), b"2\0\0\0\4"),
    (m.CloseComplete(), b"3\0\0\0\4"),
    (m.ParameterDescription((23,)), b"t\0\0\0\x0a\0\1\0\0\0\x17"),
    (
        m.RowDescription((FieldDescription("a", 2**32 - 1, -1, 23, -2, -1, 1),)),
        b"T\0\0\0\x1a\0\1a\0\xff\xff\xff\xff\xff\xff\0\0\0\x17\xff\xfe\xff\xff\xff\xff\0\1",
    ),
    (m.NoData(), b"n\0\0\0\4"),
    (m.DataRow((b"", None, b"x")), b"D\0\0\0\x13\0\3\0\0\0\0\xff\xff\xff\xff\0\0\0\1x"),
    (m.CommandComplete("SELECT 1"), b"C\0\0\0\x0dSELECT 1\0"),
    (m.EmptyQueryResponse(), b"I\0\0\0\4"),
    (m.PortalSuspended(), b"s\0\0\0\4"),
    (m.FunctionCallResponse(None), b"V\0\0\0\x08\xff\xff\xff\xff"),
    (m.CopyInResponse(0, (0, 0)), b"G\0\0\0\x0b\0\0\2\0\0\0\0"),
    (m.CopyOutResponse(1, (1,)), b"H\0\0\0\x09\1\0\1\0\1"),
    (m.CopyBothResponse(0, ()), b"W\0\0\0\7\0\0\0"),
]


def decode(cls: type[m.Message], data: bytes) -> m.Message:
    """Decode `data`, tag and length included, as a message of class `cls`."""
    if issubclass(cls, m.StartupRequest):
        return m.decode_startup(data[4:])
    if issubclass(cls, m.BackendMessage):
        return m.decode_backend(data[0], data[5:])
    password_as = cls if issubclass(cls, m.AuthenticationResponse) else m.PasswordMessage
    return m.decode_frontend(data[0], data[5:], password_as)


@pytest.mark.parametrize(("message", "data"), GOLDEN, ids=[type(message).__name__ for message, _ in GOLDEN])
def test_each_message_has_the_golden_bytes_in_both_directions(message: m.Message, data: bytes) -> None:
    assert m.encode(message) == data
    assert decode(type(message), data) == message


def test_every_message_has_golden_bytes() -> None:
    assert {type(message) for message, _ in GOLDEN} == {*BACKEND_CLASSES, *FRONTEND_CLASSES}
    assert (len(BACKEND_CLASSES), len(FRONTEND_CLASSES)) == (33, 21)


@pytest.mark.parametrize("cls", [*BACKEND_CLASSES, *FRONTEND_CLASSES], ids=lambda cls: cls.__name__)
@settings(max_examples=30)  # for each of 54 classes
@given(data=st.data())
def test_encode_and_decode_are_inverse(cls: type[m.Message], data: st.DataObject) -> None:
    message = data.draw(strategies.message(cls))
    octets = m.encode(message)
    assert decode(cls, octets) == message
    head = b"" if message.tag is None else bytes([message.tag])
    assert octets.startswith(head + (len(octets) - len(head)).to_bytes(4, "big"))


@given(st.lists(strategies.backend_messages() | strategies.frontend_messages()))
def test_several_messages_are_encoded_one_after_another(several: list[m.Message]) -> None:
    assert m.encode(*several) == b"".join(map(m.encode, several))


@given(tag=st.sampled_from(sorted({*m.BACKEND, *m.FRONTEND})) | st.integers(0, 255), body=st.binary(max_size=60))
def test_any_bytes_are_a_message_or_a_protocol_error(tag: int, body: bytes) -> None:
    for decoder in (
        lambda: m.decode_backend(tag, body),
        *[lambda cls=cls: m.decode_frontend(tag, body, cls) for cls in m.AuthenticationResponse.__subclasses__()],
    ):
        check_strict(decoder, bytes([tag]) + (4 + len(body)).to_bytes(4, "big") + body)
    check_strict(lambda: m.decode_startup(body), (4 + len(body)).to_bytes(4, "big") + body)


@given(message=strategies.backend_messages() | strategies.frontend_messages(), data=st.data())
def test_any_mutation_is_a_message_or_a_protocol_error(message: m.Message, data: st.DataObject) -> None:
    head = 4 if message.tag is None else 5
    body = bytearray(m.encode(message)[head:])
    begin = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(begin, min(len(body), begin + 4)))
    body[begin:end] = data.draw(st.binary(max_size=4))
    octets = (b"" if message.tag is None else bytes([message.tag])) + (4 + len(body)).to_bytes(4, "big") + body
    check_strict(lambda: decode(type(message), octets), octets)


def check_strict(decoder: Any, octets: bytes) -> None:
    """Check that a decoded message encodes to exactly its original bytes: no byte was ignored."""
    try:
        message = decoder()
    except ProtocolError:
        return
    assert m.encode(message) == octets


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (m.Query("a\0"), r"^Query\.query: a string cannot hold a NUL"),
        (m.Parse("", "", (-1,)), r"^Parse\.param_oids: -1 is not in the range of 0 to 4294967295"),
        (m.Parse("", "", (1,) * 65536), r"^Parse\.param_oids: 65536 is not in the range of 0 to 65535"),
        (m.Bind(params=(None,) * 65536), r"^Bind\.params: 65536 is not in the range of 0 to 65535"),
        (m.Bind(param_formats=(2,)), r"^Bind\.param_formats: 2 is none of 0, 1"),
        (m.Bind(result_formats=(0,) * 65536), r"^Bind\.result_formats: 65536"),
        (m.Execute("", 2**31), r"^Execute\.max_rows: "),
        (m.Describe("X"), r"^Describe\.kind: 'X' is none of S, P"),
        (m.CancelRequest(1, b"abc"), r"^CancelRequest\.secret_key: 3 bytes where 4 to 256 are due"),
        (m.BackendKeyData(1, bytes(257)), r"^BackendKeyData\.secret_key: 257 bytes"),
        (m.StartupMessage(2, 0, ()), r"^StartupMessage\.major: 2 is none of 3"),
        (m.StartupMessage(3, 0, (("", "x"),)), r"^StartupMessage\.parameters: \('', 'x'\) would end the list"),
        (m.ErrorResponse((("", "x"),)), r"^ErrorResponse\.fields: '' is not one letter"),
        (m.RowDescription((COLUMN._replace(format=2),)), r"^RowDescription\.fields: 2 is none of 0, 1"),
        (m.ReadyForQuery("X"), r"^ReadyForQuery\.status: 'X' is none of I, T, E"),
    ],
)
def test_a_message_with_an_invalid_field_is_refused(message: m.Message, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        m.encode(m.Sync(), message)


def test_a_message_longer_than_the_limit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^CopyData: 1073741823 bytes are more than a message may have, 1073741822"):
        m.encode(m.CopyData(bytes(LONG_LIMIT_BYTES - 3)))
    with pytest.raises(ValueError, match=r"^Bind: 1073741844 bytes are more"):
        m.encode(m.Bind(params=(bytes(2**29),) * 2))


@pytest.mark.parametrize(
    ("tag", "body", "error"),
    [
        ("y", b"", "0x79"),
        ("Q", b"x\0", "0x51"),
        ("R", b"\0\0", "0x52"),
        ("R", b"\0\0\0\6", "0x52 that begins with "),
        ("R", b"\0\0\0\0\0", "^AuthenticationOk has 1 bytes after its last field"),
        ("R", b"\0\0\0\5abc", r"^AuthenticationMD5Password\.salt"),
        ("R", b"\0\0\0\x0aSCRAM\0", r"^AuthenticationSASL\.mechanisms"),
        ("K", b"\0\0\0\1abc", r"^BackendKeyData\.secret_key: 3 bytes"),
        ("K", bytes(4 + 257), r"^BackendKeyData\.secret_key: 257 bytes"),
        ("C", b"SELECT 1", r"^CommandComplete\.command_tag: a string has no NUL"),
        ("C", b"SELECT\0 1\0", "^CommandComplete has 3 bytes after"),
        ("E", b"", r"^ErrorResponse\.fields"),
        ("E", b"Mx\0", r"^ErrorResponse\.fields"),
        ("E", b"Mx\0\0\0", "^ErrorResponse has 1 bytes after"),
        ("Z", b"X", r"^ReadyForQuery\.status: 'X' is none of I, T, E"),
        ("Z", b"", r"^ReadyForQuery\.status"),
        ("Z", b"II", "^ReadyForQuery has 1 bytes after"),
        ("T", b"\0\1a\0" + bytes(16) + b"\0\2", r"^RowDescription\.fields: 2 is none of 0, 1"),
        ("T", b"\xff\xff", r"^RowDescription\.fields"),
        ("G", b"\2\0\0", r"^CopyInResponse\.format: 2 is none of 0, 1"),
        ("H", b"\0\0\1\0\2", r"^CopyOutResponse\.column_formats: 2 is none"),
        ("W", b"\0\0\1", r"^CopyBothResponse\.column_formats"),
        ("D", b"\0\1\xff\xff\xff\xfe", r"^DataRow\.values: -2 is not the length"),
        ("D", b"\0\1\0\0\0\2x", r"^DataRow\.values: 2 bytes are due where 1 are left"),
        ("D", b"\0\0x", "^DataRow has 1 bytes after"),
        ("v", b"\0\3\0\0\x7f\xff\xff\xff", r"^NegotiateProtocolVersion\.options"),
        ("1", b"x", "^ParseComplete has 1 bytes after"),
    ],
)
def test_an_invalid_server_message_is_refused_with_the_field(tag: str, body: bytes, error: str) -> None:
    with pytest.raises(ProtocolError, match=error):
        m.decode_backend(ord(tag), body)


@pytest.mark.parametrize(
    ("tag", "body", "error"),
    [
        ("Z", b"I", "no client sends a message with the tag 0x5a"),
        ("B", b"\0\0\0\1\0\2\0\0\0\0", r"^Bind\.param_formats: 2 is none"),
        ("D", b"X\0", r"^Describe\.kind"),
        ("p", b"no end", r"^PasswordMessage\.password: a string has no NUL"),
        ("S", b"\0", "^Sync has 1 bytes after"),
    ],
)
def test_an_invalid_client_message_is_refused_with_the_field(tag: str, body: bytes, error: str) -> None:
    with pytest.raises(ProtocolError, match=error):
        m.decode_frontend(ord(tag), body)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", r"^StartupMessage\.major"),
        (b"\0\2\0\0", r"^StartupMessage\.major: 2 is none of 3"),
        (b"\0\3\0\0user\0", r"^StartupMessage\.parameters"),
        (b"\0\3\0\0user\0me\0", r"^StartupMessage\.parameters"),
        (b"\0\3\0\0\0\0", "^StartupMessage has 1 bytes after"),
        (b"\x04\xd2\x16\x2f\0", "^SSLRequest has 1 bytes after"),
        (b"\x04\xd2\x16\x2e\0\0\0\1abc", r"^CancelRequest\.secret_key: 3 bytes"),
        (b"GET / HTTP", r"^StartupMessage\.major"),
    ],
)
def test_an_invalid_startup_message_is_refused_with_the_field(body: bytes, error: str) -> None:
    with pytest.raises(ProtocolError, match=error):
        m.decode_startup(body)
