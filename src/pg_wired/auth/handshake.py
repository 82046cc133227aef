"""The login handshake as a generator, from StartupMessage to the first ReadyForQuery. It opens no socket.

The caller chooses the nonce and drives `handshake` like this:

    step = next(steps)
    while True:
        if isinstance(step, DeriveKey):
            reply = scram.salted_password(step.password, step.salt, step.iterations)
        elif isinstance(step, AskPassword):
            reply = password        # or None; asked at most once, after the policy has agreed to send it
        else:
            write(step)             # bytes; empty if there is nothing to send
            reply = read_message()  # exactly one BackendMessage; the bytes after it stay unread
        step = steps.send(reply)    # at the end, StopIteration carries the HandshakeResult

Any other exception ends the attempt, and the caller must close the socket. The order of the code is the grammar: at
each step, only the message that the code expects next is legal. libpq is as strict (fe-connect.c, PQconnectPoll).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypeAlias, TypeVar

from ..errors import ConfigError, Outcome, ProtocolError
from ..protocol import messages
from ..protocol.server_error import PgError
from .hidden import HidesSecrets
from .policy import Policy as Policy
from .policy import refusal

# Bytes; PostgreSQL's libpq/pqcomm.h. The length word itself is not counted.
MAX_STARTUP_PACKET_LENGTH = 10_000
# Our own limit on settings, and on notices: PostgreSQL 18 reports 15 settings at startup, and poolers add a few.
MAX_STARTUP_ENTRIES = 1000
# Length of the secret key in protocol 3.0 (protocol chapter, BackendKeyData). From 3.2 on it is 4 to 256 bytes.
KEY_BYTES = 4
# PostgreSQL's default since version 10 (scram_iterations), and the minimum that RFC 7677 asks for.
USUAL_ITERATIONS = 4096

# The name that `require_auth` uses for each request of the server.
_METHODS: dict[type[messages.Authentication], str] = {
    messages.AuthenticationOk: "none",
    messages.AuthenticationCleartextPassword: "password",
    messages.AuthenticationMD5Password: "md5",
    messages.AuthenticationSASL: "scram-sha-256",
    messages.AuthenticationGSS: "gss",
    messages.AuthenticationSSPI: "sspi",
    messages.AuthenticationKerberosV5: "kerberos v5",
}
# Methods that are refused.
_UNSUPPORTED = ("gss", "sspi", "kerberos v5")


@dataclass(frozen=True)
class AskPassword:
    """A step that the caller answers with the password, or None. The server needs one, and the policy allows it."""


@dataclass(frozen=True, repr=False)
class DeriveKey(HidesSecrets):
    """A step that the caller answers with the 32 bytes of `scram.salted_password`.

    100,000 iterations take tens of milliseconds. Equal steps have equal answers, so the caller can keep the answers
    (`credentials.SaltedPasswords`).
    """

    hidden: ClassVar[frozenset[str]] = frozenset({"password"})
    password: bytes
    salt: bytes
    iterations: int


@dataclass(frozen=True, repr=False)
class HandshakeResult(HidesSecrets):
    """The state in which a session begins. `pid` and `secret_key` are None if the server cannot cancel."""

    hidden: ClassVar[frozenset[str]] = frozenset({"secret_key"})
    parameters: dict[str, str]
    pid: int | None
    secret_key: bytes | None
    auth_mechanism: (
        str  # "trust" if the server asked for nothing; "cleartext", "md5", "SCRAM-SHA-256" or "SCRAM-SHA-256-PLUS"
    )
    channel_bound: bool  # the server has proved that it is the other end of this TLS connection
    protocol_version: tuple[int, int]
    notices: tuple[messages.NoticeResponse, ...]
    warnings: tuple[str, ...]  # weaknesses that the user should correct on the server


class Login(NamedTuple):
    """How the server accepted the login."""

    mechanism: str
    warnings: tuple[str, ...] = ()
    is_bound: bool = False  # the login is bound to this TLS connection, and the server has proved it


Step: TypeAlias = bytes | AskPassword | DeriveKey
Reply: TypeAlias = messages.BackendMessage | bytes | str | None
T = TypeVar("T")


def handshake(parameters: Mapping[str, str], policy: Policy, *, nonce: str) -> Generator[Step, Reply, HandshakeResult]:
    """Log in. The module's docstring shows how to drive the generator.

    `parameters` go into the StartupMessage; `nonce` goes to `scram.client_first`. Raises ConfigError before the first
    byte for parameters that cannot be sent, and later for a password that cannot be sent; PgError if the server
    refuses; AuthenticationError if the policy refuses; ProtocolError for a message that is not legal at that point.
    """
    oldest, version = policy.versions
    reply = yield _startup_message(parameters, version)
    if isinstance(reply, messages.NegotiateProtocolVersion):
        version = _negotiated(reply, oldest, version)
        reply = yield b""
    request = _expect(reply, messages.Authentication)
    login = yield from _authenticate(request, policy, parameters["user"], nonce)
    # Checked again at the end, for every method: a check at the beginning alone was CVE-2025-49146.
    policy.check_end(login.is_bound)
    return (yield from _until_ready(login, version))


def _startup_message(parameters: Mapping[str, str], version: tuple[int, int]) -> bytes:
    if not parameters.get("user"):
        raise ConfigError("a user is needed to connect: pass user=, or set PGUSER")
    for name, value in parameters.items():
        # An empty name would end the list. The prefix marks protocol extensions, and this client requests none.
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
    """Return the version that the server speaks instead, by libpq's rules (pqGetNegotiateProtocolVersion3).

    Raises ProtocolError for an illegal answer, and AuthenticationError for a version before `oldest`.
    """
    # Encoded as in StartupMessage. Servers before 9.3 do not know this message, and refuse the connection instead.
    version = answer.version >> 16, answer.version & 0xFFFF
    # Version 3.1 does not exist. The server cannot report unknown options, because the client sent none.
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
    """Do what the server asks for, if the policy allows it, up to and including AuthenticationOk."""
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
    """Do the exchange of RFC 5802, which also verifies the server."""
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
    """Ask the caller for the password. An empty one counts as none, as in libpq."""
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
    """Process the messages from AuthenticationOk to the first ReadyForQuery."""
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
    """Return the reply if it is of the type that is due.

    Otherwise raises PgError for an ErrorResponse, AuthenticationError for an authentication request that came out of
    order, and ProtocolError for anything else.
    """
    if isinstance(reply, due):
        return reply
    if isinstance(reply, messages.ErrorResponse):
        raise PgError(reply.fields, Outcome.NOT_SENT)
    surprise = f"{type(reply).__name__} came where {due.__name__} was due"
    if isinstance(reply, messages.Authentication):
        raise refusal(f"{surprise}: the server leaves out a step of the authentication, and may be an impostor")
    raise _broken(surprise)


def _md5(user: str, password: str, salt: bytes) -> str:
    """The answer to AuthenticationMD5Password, as the protocol chapter defines it."""
    secret = (password + user).encode("utf-8", "surrogateescape")
    try:
        import hashlib

        inner = hashlib.md5(secret).hexdigest()
        return "md5" + hashlib.md5(inner.encode() + salt).hexdigest()
    except ValueError as error:
        raise refusal("the server asks for md5, which this Python's OpenSSL forbids") from error


def _check(name: str, text: str) -> None:
    """Raise ConfigError if the protocol's String cannot hold `text`, which is not shown: it may be the password."""
    if not _is_writable(text):
        raise ConfigError(f"{name} contains a NUL or half a surrogate pair")


def _is_writable(text: str) -> bool:
    try:
        return b"\0" not in text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False


def _broken(reason: str) -> ProtocolError:
    return ProtocolError(f"startup: {reason}", Outcome.NOT_SENT)
