"""The handshake as a generator, from StartupMessage to ReadyForQuery; it opens no socket and chooses no nonce.

The contract with whoever drives `handshake`:

    step = next(steps)
    while True:
        if isinstance(step, DeriveKey):
            reply = scram.salted_password(step.password, step.salt, step.iterations)
        elif isinstance(step, AskPassword):
            reply = password        # or None; asked once at most, when the policy agrees that it is sent
        else:
            write(step)             # empty where there is nothing to say
            reply = read_message()  # exactly one BackendMessage; what lies behind it stays unread
        step = steps.send(reply)    # the StopIteration of the last one carries the Startup

Whatever else it raises ends the attempt, and the socket has to be closed. The straight line of the code is the grammar:
only what it takes next is legal there. libpq is as strict (fe-connect.c, PQconnectPoll).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import ClassVar, NamedTuple, TypeAlias, TypeVar

from ..errors import ConfigError, Outcome, ProtocolError
from ..frozen import Frozen
from ..protocol import messages
from ..protocol.server_error import PgError
from .policy import Policy as Policy
from .policy import refusal

# PostgreSQL's libpq/pqcomm.h; the length word itself is not counted.
MAX_STARTUP_PACKET_LENGTH = 10_000
# Ours: PostgreSQL 18 reports 15 settings at startup, and poolers add a few.
MAX_STARTUP_ENTRIES = 1000
# Protocol chapter, BackendKeyData: always 4 in protocol 3.0; from 3.2 on the message's own 4 to 256.
KEY_BYTES = 4
# PostgreSQL's default since 10 (scram_iterations), and RFC 7677's least.
USUAL_ITERATIONS = 4096

# What the server asks for, as `require_auth` has it; and what is not built.
_METHODS: dict[type[messages.Authentication], str] = {
    messages.AuthenticationOk: "none",
    messages.AuthenticationCleartextPassword: "password",
    messages.AuthenticationMD5Password: "md5",
    messages.AuthenticationSASL: "scram-sha-256",
    messages.AuthenticationGSS: "gss",
    messages.AuthenticationSSPI: "sspi",
    messages.AuthenticationKerberosV5: "kerberos v5",
}
_UNSUPPORTED = ("gss", "sspi", "kerberos v5")


class AskPassword(Frozen):
    """Answer it with the password, or None: the server needs one, and the policy agrees."""


class DeriveKey(Frozen):
    """Answer it with the 32 bytes of `scram.salted_password`: 100,000 iterations take tens of milliseconds.

    Equal ones have equal answers, so they can be kept (`credentials.SaltedPasswords`).
    """

    hidden: ClassVar = frozenset({"password"})
    password: bytes
    salt: bytes
    iterations: int


class HandshakeResult(Frozen):
    """What a session begins with. `pid` and `secret_key` are None where the server cannot cancel."""

    hidden: ClassVar = frozenset({"secret_key"})
    parameters: dict[str, str]
    pid: int | None
    secret_key: bytes | None
    auth_mechanism: (
        str  # "trust" where nothing was asked for, "cleartext", "md5", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"
    )
    channel_bound: bool  # the server has proved that it is the end of this very TLS connection
    protocol_version: tuple[int, int]
    notices: tuple[messages.NoticeResponse, ...]
    warnings: tuple[str, ...]  # what a careful user would change on the server


class Login(NamedTuple):
    """How the server has let us in."""

    mechanism: str
    warnings: tuple[str, ...] = ()
    is_bound: bool = False  # to this TLS connection, and the server has proved it


Step: TypeAlias = bytes | AskPassword | DeriveKey
Reply: TypeAlias = messages.BackendMessage | bytes | str | None
T = TypeVar("T")


def handshake(parameters: Mapping[str, str], policy: Policy, *, nonce: str) -> Generator[Step, Reply, HandshakeResult]:
    """Log in: `parameters` are StartupMessage's, `nonce` is `scram.client_first`'s. See the contract above.

    Raises ConfigError before the first byte, or for a password that cannot be sent; PgError where the server says no,
    AuthenticationError where the policy does; and ProtocolError.
    """
    oldest, version = policy.versions
    reply = yield _startup_message(parameters, version)
    if isinstance(reply, messages.NegotiateProtocolVersion):
        version = _negotiated(reply, oldest, version)
        reply = yield b""
    request = _expect(reply, messages.Authentication)
    login = yield from _authenticate(request, policy, parameters["user"], nonce)
    # At the end, whatever way led here: a check at the beginning alone was CVE-2025-49146.
    policy.check_end(login.is_bound)
    return (yield from _until_ready(login, version))


def _startup_message(parameters: Mapping[str, str], version: tuple[int, int]) -> bytes:
    if not parameters.get("user"):
        raise ConfigError("a user is needed to connect: pass user=, or set PGUSER")
    for name, value in parameters.items():
        # An empty name would end the list; the prefix is for extensions of the protocol, and none is asked for.
        if not name or name.startswith("_pq_."):
            raise ConfigError(f"{name!r} cannot be a startup parameter")
        _check(f"the startup parameter {name!r}", name)
        _check(f"the value of the startup parameter {name!r}", value)
    message = messages.encode(messages.StartupMessage(*version, tuple(parameters.items())))
    size = len(message) - 4
    if size > MAX_STARTUP_PACKET_LENGTH:
        raise ConfigError(f"the startup parameters take {size} bytes, and servers read {MAX_STARTUP_PACKET_LENGTH}")
    return message


def _negotiated(
    answer: messages.NegotiateProtocolVersion, oldest: tuple[int, int], asked: tuple[int, int]
) -> tuple[int, int]:
    """The version that the server speaks instead; the rules are libpq's (pqGetNegotiateProtocolVersion3)."""
    # Written as in StartupMessage; servers before 9.3 do not know this message, and refuse.
    version = answer.version >> 16, answer.version & 0xFFFF
    # 3.1 never was; and no option was asked for that could be unknown.
    if not (3, 0) <= version <= asked or version == (3, 1) or answer.options:
        text = f"with version {answer.version:#x} and {answer.options!r:.200}"
        raise _broken(f"the server answers protocol {asked[0]}.{asked[1]} {text}")
    if version < oldest:
        text = f"speaks protocol {version[0]}.{version[1]} at most, and min_protocol_version is {oldest[0]}.{oldest[1]}"
        raise refusal(f"the server {text}")
    return version


def _authenticate(
    request: messages.Authentication, policy: Policy, user: str, nonce: str
) -> Generator[Step, Reply, Login]:
    """Do what the server asks for, if the policy agrees, up to its AuthenticationOk."""
    method = _METHODS.get(type(request))
    if method is None:
        raise _broken(f"{type(request).__name__} came first")
    policy.allow(method)
    if method in _UNSUPPORTED:
        raise refusal(f"the server asks for {method}, which is not supported: see pg_hba.conf for another method")
    match request:
        case messages.AuthenticationCleartextPassword():
            login = Login("cleartext")
            password = yield from _password(login.mechanism)
            reply = yield messages.encode(messages.PasswordMessage(password))
        case messages.AuthenticationMD5Password(salt):
            login = Login("md5", ("md5 passwords are deprecated: change to scram-sha-256 (password_encryption)",))
            password = yield from _password(login.mechanism)
            reply = yield messages.encode(messages.PasswordMessage(_md5(user, password, salt)))
        case messages.AuthenticationSASL(mechanisms):
            return (yield from _scram(mechanisms, policy, nonce))
        case _:
            return Login("trust")
    _expect(reply, messages.AuthenticationOk)
    return login


def _scram(mechanisms: tuple[str, ...], policy: Policy, nonce: str) -> Generator[Step, Reply, Login]:
    """The exchange of RFC 5802, whose end is a verified server."""
    mechanism, channel = policy.choose(mechanisms)
    from . import scram
    from .saslprep import saslprep

    prepared = saslprep((yield from _password(mechanism)))
    reply = yield messages.encode(messages.SASLInitialResponse(mechanism, scram.client_first(nonce, channel)))
    server_first = _expect(reply, messages.AuthenticationSASLContinue).data
    challenge = scram.Challenge.parse(server_first, nonce, policy.min_iterations, policy.max_iterations)
    reply = yield DeriveKey(prepared, challenge.salt, challenge.iterations)
    answer = challenge.answer(_expect(reply, bytes), channel)
    reply = yield messages.encode(messages.SASLResponse(answer.client_final))
    answer.verify(_expect(reply, messages.AuthenticationSASLFinal).data)
    _expect((yield b""), messages.AuthenticationOk)
    is_bound = mechanism == scram.MECHANISM_PLUS
    if challenge.iterations >= USUAL_ITERATIONS:
        return Login(mechanism, (), is_bound)
    text = (
        f"the password is hashed with {challenge.iterations} iterations on the server, and {USUAL_ITERATIONS} are usual"
    )
    return Login(mechanism, (text,), is_bound)


def _password(mechanism: str) -> Generator[Step, Reply, str]:
    """Ask for the password; an empty one is none, as in libpq."""
    password = yield AskPassword()
    if not password:
        raise refusal(
            f"the server asks for a password ({mechanism}) and none was given: "
            "pass password=, set PGPASSWORD or add a line to the password file"
        )
    text = _expect(password, str)
    _check("the password", text)
    return text


def _until_ready(login: Login, version: tuple[int, int]) -> Generator[Step, Reply, HandshakeResult]:
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
                if key is not None or (version == (3, 0) and len(key_data.secret_key) != KEY_BYTES):
                    raise _broken(f"BackendKeyData came twice, or with a key that is not {KEY_BYTES} bytes long")
                key = key_data
            case reply:
                status = _expect(reply, messages.ReadyForQuery).status
                break
        if max(len(parameters), len(notices)) > MAX_STARTUP_ENTRIES:
            raise _broken(f"the server sent more than {MAX_STARTUP_ENTRIES} settings or notices")
    if status != "I":
        raise _broken(f"the first ReadyForQuery has the status {status}")
    pid, secret_key = (key.pid, key.secret_key) if key else (None, None)
    return HandshakeResult(
        parameters=parameters,
        pid=pid,
        secret_key=secret_key,
        auth_mechanism=login.mechanism,
        channel_bound=login.is_bound,
        protocol_version=version,
        notices=tuple(notices),
        warnings=login.warnings,
    )


def _expect(reply: Reply, due: type[T]) -> T:
    """The reply, if it is what is due."""
    if isinstance(reply, due):
        return reply
    if isinstance(reply, messages.ErrorResponse):
        raise PgError(reply.fields, Outcome.NOT_SENT)
    surprise = f"{type(reply).__name__} came where {due.__name__} was due"
    if isinstance(reply, messages.Authentication):
        raise refusal(f"{surprise}: the server leaves out a step of the authentication, and may be an impostor")
    raise _broken(surprise)


def _md5(user: str, password: str, salt: bytes) -> str:
    """Protocol chapter, AuthenticationMD5Password."""
    secret = (password + user).encode("utf-8", "surrogateescape")
    try:
        import hashlib

        inner = hashlib.md5(secret).hexdigest()
        return "md5" + hashlib.md5(inner.encode() + salt).hexdigest()
    except ValueError as error:
        raise refusal("the server asks for md5, which this Python's OpenSSL forbids") from error


def _check(name: str, text: str) -> None:
    """Refuse what the protocol's String cannot hold. `text` is not shown: it may be the password."""
    if not _is_writable(text):
        raise ConfigError(f"{name} contains a NUL or half a surrogate pair")


def _is_writable(text: str) -> bool:
    try:
        return b"\0" not in text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False


def _broken(reason: str) -> ProtocolError:
    return ProtocolError(f"startup: {reason}", Outcome.NOT_SENT)
