"""All messages of protocol 3.0 and 3.2 in both directions as classes, and functions to encode and decode them.

It does not know in which order messages may be sent. Names and order of fields are those of the protocol chapter,
"Message Formats".
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from ..errors import ProtocolError
from . import schema
from .octets import LONG_LIMIT_BYTES
from .records import FieldDescription
from .schema import Array, Bytes, Char, Int, Record, Secret, String, Terminated, Value, Varies
from .schema import Message as Message

INT16 = Int(2)
UINT16 = Int(2, signed=False)  # also for counts: the server reads them as unsigned, up to 65,535 parameters
INT32 = Int(4)
OID = Varies(Int(4, signed=False))
PID = Varies(INT32)
FORMAT = Int(2, allowed=(0, 1))
STRING = String()
FIELD = Record(STRING, OID, INT16, OID, INT16, INT32, FORMAT, make=FieldDescription._make)
# Protocol chapter, BackendKeyData: "minimum and maximum key length are 4 and 256 bytes".
KEY = Secret(Bytes(4, 256))
# Pairs followed by a zero byte: the fields of an error, the parameters of a StartupMessage.
ERROR_FIELDS = Terminated(Record(Char(), STRING))
PARAMETERS = Terminated(Record(STRING, Varies(STRING)))

Count: TypeAlias = Annotated[int, INT32]
Pid: TypeAlias = Annotated[int, PID]
Key: TypeAlias = Annotated[bytes, KEY]
Text: TypeAlias = Annotated[str, STRING]
Octets: TypeAlias = Annotated[bytes, Varies(Bytes())]
SecretOctets: TypeAlias = Annotated[bytes, Secret(Bytes())]
Format: TypeAlias = Annotated[int, FORMAT]
CopyFormat: TypeAlias = Annotated[int, Int(1, allowed=(0, 1))]
Formats: TypeAlias = Annotated[tuple[int, ...], Array(FORMAT, UINT16)]
Oids: TypeAlias = Annotated[tuple[int, ...], Array(OID, UINT16)]
Values: TypeAlias = Annotated[tuple[bytes | None, ...], Array(Value(), UINT16)]
Pairs: TypeAlias = tuple[tuple[str, str], ...]
Kind: TypeAlias = Annotated[str, Char("SP")]  # a statement or a portal


class FrontendMessage(Message):
    """The base class of messages that a client sends."""


class BackendMessage(Message):
    """The base class of messages that a server sends."""


# ---- Before the session: no tag --------------------------------------------------------------------------------------


class StartupRequest(FrontendMessage):
    """The first message of a connection, which has no tag. The codes are protocol versions that do not exist."""


class StartupMessage(StartupRequest):
    major: Annotated[int, Int(2, signed=False, allowed=(3,))]
    minor: Annotated[int, UINT16]
    parameters: Annotated[Pairs, PARAMETERS]


class CancelRequest(StartupRequest, code=1234 << 16 | 5678):
    pid: Pid
    secret_key: Key


class SSLRequest(StartupRequest, code=1234 << 16 | 5679): ...


class GSSENCRequest(StartupRequest, code=1234 << 16 | 5680): ...


# ---- Authentication --------------------------------------------------------------------------------------------------


class Authentication(BackendMessage, tag="R"):
    """One of the ten messages with which a server may begin."""


class AuthenticationOk(Authentication, code=0): ...


class AuthenticationKerberosV5(Authentication, code=2): ...


class AuthenticationCleartextPassword(Authentication, code=3): ...


class AuthenticationMD5Password(Authentication, code=5):
    salt: Annotated[bytes, Bytes(4, 4)]


class AuthenticationGSS(Authentication, code=7): ...


class AuthenticationGSSContinue(Authentication, code=8):
    data: SecretOctets


class AuthenticationSSPI(Authentication, code=9): ...


class AuthenticationSASL(Authentication, code=10):
    mechanisms: Annotated[tuple[str, ...], Terminated(STRING)]


class AuthenticationSASLContinue(Authentication, code=11):
    data: SecretOctets


class AuthenticationSASLFinal(Authentication, code=12):
    data: SecretOctets


class AuthenticationResponse(FrontendMessage, tag="p"):
    """One of four messages with the same tag. Which one it is depends on what the server asked for."""


class PasswordMessage(AuthenticationResponse):
    password: Annotated[str, Secret(STRING)]


class SASLInitialResponse(AuthenticationResponse):
    mechanism: Text
    response: Annotated[bytes | None, Secret(Value())]


class SASLResponse(AuthenticationResponse):
    data: SecretOctets


class GSSResponse(AuthenticationResponse):
    data: SecretOctets


# ---- Frontend --------------------------------------------------------------------------------------------------------


class Query(FrontendMessage, tag="Q"):
    query: Text


class Parse(FrontendMessage, tag="P"):
    statement: Text
    query: Text
    param_oids: Oids = ()


class Bind(FrontendMessage, tag="B"):
    portal: Text = ""
    statement: Text = ""
    param_formats: Formats = ()
    params: Values = ()
    result_formats: Formats = ()


class Describe(FrontendMessage, tag="D"):
    kind: Kind
    name: Text = ""


class Execute(FrontendMessage, tag="E"):
    portal: Text = ""
    max_rows: Count = 0


class Close(FrontendMessage, tag="C"):
    kind: Kind
    name: Text = ""


class Flush(FrontendMessage, tag="H"): ...


class Sync(FrontendMessage, tag="S"): ...


class Terminate(FrontendMessage, tag="X"): ...


class CopyFail(FrontendMessage, tag="f"):
    message: Text


class FunctionCall(FrontendMessage, tag="F"):
    function_oid: Annotated[int, OID]
    arg_formats: Formats
    args: Values
    result_format: Format


class CopyData(FrontendMessage, BackendMessage, tag="d"):
    data: Octets


class CopyDone(FrontendMessage, BackendMessage, tag="c"): ...


# ---- Backend ---------------------------------------------------------------------------------------------------------


class BackendKeyData(BackendMessage, tag="K"):
    pid: Pid
    secret_key: Key


class NegotiateProtocolVersion(BackendMessage, tag="v"):
    """`version` is the newest one that the server supports, encoded as in StartupMessage: major << 16 | minor."""

    version: Annotated[int, INT32]
    options: Annotated[tuple[str, ...], Array(STRING, Int(4, signed=False))]


class ParameterStatus(BackendMessage, tag="S"):
    name: Text
    value: Annotated[str, Varies(STRING)]


class ReadyForQuery(BackendMessage, tag="Z"):
    status: Annotated[str, Char("ITE")]


class ErrorResponse(BackendMessage, tag="E"):
    fields: Annotated[Pairs, ERROR_FIELDS]


class NoticeResponse(BackendMessage, tag="N"):
    fields: Annotated[Pairs, ERROR_FIELDS]


class NotificationResponse(BackendMessage, tag="A"):
    pid: Pid
    channel: Text
    payload: Text


class ParseComplete(BackendMessage, tag="1"): ...


class BindComplete(BackendMessage, tag="2"): ...


class CloseComplete(BackendMessage, tag="3"): ...


class ParameterDescription(BackendMessage, tag="t"):
    param_oids: Oids


class RowDescription(BackendMessage, tag="T"):
    fields: Annotated[tuple[FieldDescription, ...], Array(FIELD, UINT16)]


class NoData(BackendMessage, tag="n"): ...


class DataRow(BackendMessage, tag="D"):
    values: Values


class CommandComplete(BackendMessage, tag="C"):
    command_tag: Text


class EmptyQueryResponse(BackendMessage, tag="I"): ...


class PortalSuspended(BackendMessage, tag="s"): ...


class FunctionCallResponse(BackendMessage, tag="V"):
    value: Annotated[bytes | None, Value()]


class CopyInResponse(BackendMessage, tag="G"):
    format: CopyFormat
    column_formats: Formats


class CopyOutResponse(BackendMessage, tag="H"):
    format: CopyFormat
    column_formats: Formats


class CopyBothResponse(BackendMessage, tag="W"):
    format: CopyFormat
    column_formats: Formats


# ---- Bytes -----------------------------------------------------------------------------------------------------------

# The classes of messages by tag. If several messages share a tag, it maps to their base class.
FRONTEND: dict[int, type[FrontendMessage]] = {
    cls.tag: cls for cls in FrontendMessage.__subclasses__() if cls.tag is not None
}
BACKEND: dict[int, type[BackendMessage]] = {
    cls.tag: cls for cls in BackendMessage.__subclasses__() if cls.tag is not None
}
_AUTHENTICATION: dict[bytes, type[Authentication]] = {cls.code: cls for cls in Authentication.__subclasses__()}
_STARTUP: dict[bytes, type[StartupRequest]] = {cls.code: cls for cls in StartupRequest.__subclasses__()}


def encode(*messages: Message) -> bytes:
    """Encode messages, each with its tag and its length.

    Raises a ValueError or TypeError that names the message and the field if any of them is invalid.
    """
    out: list[bytes] = []
    for message in messages:
        body = schema.write(message)
        length = 4 + sum(map(len, body))
        if length > LONG_LIMIT_BYTES:
            raise ValueError(
                f"{type(message).__name__}: {length} bytes are more than a message may have, {LONG_LIMIT_BYTES}"
            )
        tag = b"" if message.tag is None else bytes([message.tag])
        out += [tag, length.to_bytes(4, "big"), *body]
    return b"".join(out)


def decode_backend(tag: int, body: bytes) -> BackendMessage:
    """Decode a message from a server. Raises only ProtocolError, if `body` is not exactly one valid message body."""
    cls = BACKEND.get(tag)
    if cls is Authentication:
        cls = _AUTHENTICATION.get(body[:4])
    if cls is None:
        raise ProtocolError(f"no server sends a message with the tag {tag:#04x} that begins with {body[:4]!r}")
    return schema.read(cls, body)


def decode_frontend(
    tag: int, body: bytes, password_as: type[AuthenticationResponse] = PasswordMessage
) -> FrontendMessage:
    """Decode a message from a client. The tag `p` means a `password_as`. Raises as `decode_backend` does."""
    cls = FRONTEND.get(tag)
    if cls is AuthenticationResponse:
        cls = password_as
    if cls is None:
        raise ProtocolError(f"no client sends a message with the tag {tag:#04x}")
    return schema.read(cls, body)


def decode_startup(body: bytes) -> StartupRequest:
    """Decode the first message of a connection, which has no tag. Raises as `decode_backend` does."""
    return schema.read(_STARTUP.get(body[:4], StartupMessage), body)
