"""The handshake as a generator, from StartupMessage to ReadyForQuery; it opens no socket and chooses no nonce.

The contract with whoever drives `handshake`:

    step = next(steps)
    while True:
        if isinstance(step, DeriveKey):
            reply = scram.salted_password(step.password, step.salt, step.iterations)
        else:
            write(step)             # empty where there is nothing to say
            reply = read_message()  # exactly one BackendMessage; what lies behind it stays unread
        step = steps.send(reply)    # the StopIteration of the last one carries the Startup

Whatever else it raises ends the attempt, and the socket has to be closed. The straight line of the code is the grammar:
only what it takes next is legal there. libpq is as strict (fe-connect.c, PQconnectPoll).
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping
from typing import ClassVar, TypeAlias, TypeVar

from .. import scram
from ..error import AuthenticationError, ConfigError, Outcome, PgError, ProtocolError
from ..frozen import Frozen
from ..saslprep import saslprep
from . import messages

PROTOCOL = (3, 0)
# PostgreSQL's libpq/pqcomm.h; the length word itself is not counted.
MAX_STARTUP_PACKET_LENGTH = 10_000
# Ours: PostgreSQL 18 reports 15 settings at startup, and poolers add a few.
MAX_ENTRIES = 1000
# Ours: PostgreSQL offers two at most.
MAX_MECHANISMS = 100
# Protocol chapter, BackendKeyData: always 4 in protocol 3.0.
KEY_SIZE = 4

_UNSUPPORTED: dict[type[messages.Authentication], str] = {
    messages.AuthenticationKerberosV5: "Kerberos V5",
    messages.AuthenticationGSS: "GSSAPI",
    messages.AuthenticationSSPI: "SSPI",
}


class DeriveKey(Frozen):
    """Answer it with the 32 bytes of `scram.salted_password`: 100,000 iterations take tens of milliseconds.

    Equal ones have equal answers, so they can be kept.
    """

    hidden: ClassVar = frozenset({"password"})
    password: bytes
    salt: bytes
    iterations: int


class Startup(Frozen):
    """What a session begins with. `pid` and `secret_key` are None where the server cannot cancel."""

    hidden: ClassVar = frozenset({"secret_key"})
    parameters: dict[str, str]
    pid: int | None
    secret_key: bytes | None
    auth_mechanism: str  # "trust" where nothing was asked for, "cleartext", "md5" or "SCRAM-SHA-256"
    protocol_version: tuple[int, int]
    notices: tuple[messages.NoticeResponse, ...]


Step: TypeAlias = bytes | DeriveKey
Reply: TypeAlias = messages.BackendMessage | bytes
T = TypeVar("T")


def handshake(
    parameters: Mapping[str, str], password: str | None, *, nonce: str, max_iterations: int
) -> Generator[Step, Reply, Startup]:
    """Log in: `parameters` are StartupMessage's, `nonce` is `scram.client_first`'s. See the contract above.

    Raises ConfigError before the first byte; PgError where the server says no, AuthenticationError where we do; and
    ProtocolError.
    """
    _check("the password", password or "")
    reply = yield _startup_message(parameters)
    if isinstance(reply, messages.NegotiateProtocolVersion):
        if (reply.version, reply.options) != (PROTOCOL[0] << 16 | PROTOCOL[1], ()):
            raise _broken(f"the server answers protocol 3.0 with version {reply.version:#x} and {reply.options!r:.200}")
        reply = yield b""
    user = parameters["user"]
    mechanism = yield from _authenticate(_expect(reply, messages.Authentication), user, password, nonce, max_iterations)
    return (yield from _until_ready(mechanism))


def _startup_message(parameters: Mapping[str, str]) -> bytes:
    if not parameters.get("user"):
        raise ConfigError("a user is needed to connect: pass user=, or set PGUSER")
    for name, value in parameters.items():
        # An empty name would end the list; the prefix is for extensions of the protocol, and none is asked for.
        if not name or name.startswith("_pq_."):
            raise ConfigError(f"{name!r} cannot be a startup parameter")
        _check(f"the startup parameter {name!r}", name)
        _check(f"the value of the startup parameter {name!r}", value)
    message = messages.encode(messages.StartupMessage(*PROTOCOL, tuple(parameters.items())))
    size = len(message) - 4
    if size > MAX_STARTUP_PACKET_LENGTH:
        raise ConfigError(f"the startup parameters take {size} bytes, and servers read {MAX_STARTUP_PACKET_LENGTH}")
    return message


def _authenticate(
    request: messages.Authentication, user: str, password: str | None, nonce: str, max_iterations: int
) -> Generator[Step, Reply, str]:
    """Do what the server asks for, up to its AuthenticationOk; the name of it."""
    match request:
        case messages.AuthenticationOk():
            return "trust"
        case messages.AuthenticationCleartextPassword():
            mechanism = "cleartext"
            reply = yield messages.encode(messages.PasswordMessage(_required(password, mechanism)))
        case messages.AuthenticationMD5Password(salt):
            mechanism = "md5"
            reply = yield messages.encode(messages.PasswordMessage(_md5(user, _required(password, mechanism), salt)))
        case messages.AuthenticationSASL(mechanisms):
            mechanism = scram.MECHANISM
            reply = yield from _scram(mechanisms, password, nonce, max_iterations)
        case _:
            name = _UNSUPPORTED.get(type(request))
            if name is None:
                raise _broken(f"{type(request).__name__} came first")
            raise _refusal(f"the server asks for {name}, which is not supported: see pg_hba.conf for another method")
    _expect(reply, messages.AuthenticationOk)
    return mechanism


def _scram(
    mechanisms: tuple[str, ...], password: str | None, nonce: str, max_iterations: int
) -> Generator[Step, Reply, Reply]:
    """The exchange of RFC 5802, whose end is a verified server; returns what came after it."""
    if scram.MECHANISM not in mechanisms or len(mechanisms) > MAX_MECHANISMS:
        offer = ", ".join(mechanisms)[:200]
        raise _refusal(f"the server offers {len(mechanisms)} SASL mechanisms, {offer!r}: {scram.MECHANISM} is needed")
    prepared = saslprep(_required(password, scram.MECHANISM))
    reply = yield messages.encode(messages.SASLInitialResponse(scram.MECHANISM, scram.client_first(nonce)))
    server_first = _expect(reply, messages.AuthenticationSASLContinue).data
    challenge = scram.Challenge.parse(server_first, nonce, max_iterations)
    reply = yield DeriveKey(prepared, challenge.salt, challenge.iterations)
    answer = challenge.answer(_expect(reply, bytes))
    reply = yield messages.encode(messages.SASLResponse(answer.client_final))
    answer.verify(_expect(reply, messages.AuthenticationSASLFinal).data)
    return (yield b"")


def _until_ready(mechanism: str) -> Generator[Step, Reply, Startup]:
    """Take what comes between AuthenticationOk and the first ReadyForQuery."""
    parameters: dict[str, str] = {}
    notices: list[messages.NoticeResponse] = []
    key: messages.BackendKeyData | None = None
    while True:
        match (yield b""):
            case messages.ParameterStatus(name, value):
                parameters[name] = value
            case messages.NoticeResponse() as notice:
                notices.append(notice)
            case messages.BackendKeyData() as key_data:
                if key is not None or len(key_data.secret_key) != KEY_SIZE:
                    raise _broken(f"BackendKeyData came twice, or with a key that is not {KEY_SIZE} bytes long")
                key = key_data
            case reply:
                status = _expect(reply, messages.ReadyForQuery).status
                break
        if max(len(parameters), len(notices)) > MAX_ENTRIES:
            raise _broken(f"the server sent more than {MAX_ENTRIES} settings or notices")
    if status != "I":
        raise _broken(f"the first ReadyForQuery has the status {status}")
    pid, secret_key = (key.pid, key.secret_key) if key else (None, None)
    return Startup(parameters, pid, secret_key, mechanism, PROTOCOL, tuple(notices))


def _expect(reply: Reply, due: type[T]) -> T:
    """The reply, if it is what is due."""
    if isinstance(reply, due):
        return reply
    if isinstance(reply, messages.ErrorResponse):
        raise PgError(reply.fields, Outcome.NOT_SENT)
    surprise = f"{type(reply).__name__} came where {due.__name__} was due"
    if isinstance(reply, messages.Authentication):
        raise _refusal(f"{surprise}: the server leaves out a step of the authentication, and may be an impostor")
    raise _broken(surprise)


def _required(password: str | None, mechanism: str) -> str:
    """The password; an empty one is none, as in libpq."""
    if not password:
        raise _refusal(
            f"the server asks for a password ({mechanism}) and none was given: "
            "pass password=, set PGPASSWORD or add a line to the password file"
        )
    return password


def _md5(user: str, password: str, salt: bytes) -> str:
    """Protocol chapter, AuthenticationMD5Password."""
    secret = (password + user).encode("utf-8", "surrogateescape")
    try:
        inner = hashlib.md5(secret).hexdigest()
        return "md5" + hashlib.md5(inner.encode() + salt).hexdigest()
    except ValueError as error:
        raise _refusal("the server asks for md5, which this Python's OpenSSL forbids") from error


def _check(name: str, text: str) -> None:
    """Refuse what the protocol's String cannot hold. `text` is not shown: it may be the password."""
    if not _is_writable(text):
        raise ConfigError(f"{name} contains a NUL or half a surrogate pair")


def _is_writable(text: str) -> bool:
    try:
        return b"\0" not in text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False


def _refusal(reason: str) -> AuthenticationError:
    return AuthenticationError(reason, Outcome.NOT_SENT)


def _broken(reason: str) -> ProtocolError:
    return ProtocolError(f"startup: {reason}", Outcome.NOT_SENT)
