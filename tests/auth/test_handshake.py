"""The handshake with servers that obey the protocol, break it, or lie; each test plays the server itself."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_wired.auth.handshake import AskPassword, DeriveKey, HandshakeResult, handshake
from pg_wired.errors import AuthenticationError, ConfigError, Outcome, ProtocolError
from pg_wired.protocol import messages as m
from pg_wired.protocol.server_error import PgError
from rig import strategies
from tests.auth.login import (
    NONCE,
    OK,
    PASSWORD,
    READY,
    SASL,
    Login,
    decode,
    play_scram,
    policy,
    scram_server,
)

KEY = m.BackendKeyData(42, b"\x01\x02\x03\x04")
FATAL = m.ErrorResponse((("S", "FATAL"), ("V", "FATAL"), ("C", "28P01"), ("M", "no")))


# ---- StartupMessage --------------------------------------------------------------------------------------------------


def test_the_startup_message_is_sent_first() -> None:
    login = Login(database="db", application_name="naïve \udcff", options="")
    (step,) = login.sent
    assert isinstance(step, bytes)
    assert int.from_bytes(step[:4]) == len(step)
    assert step[4:] == (b"\0\x03\0\0user\0alice\0database\0db\0application_name\0na\xc3\xafve \xff\0options\0\0\0")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"user": ""}, "a user is needed"),
        ({"": "x"}, "'' cannot be a startup parameter"),
        ({"_pq_.x": "1"}, "'_pq_.x' cannot be a startup parameter"),
        ({"data\0base": "x"}, r"the startup parameter 'data\x00base' contains a NUL or half a surrogate pair"),
        (
            {"application_name": "a\0user\0root"},
            "the value of the startup parameter 'application_name' contains a NUL or half a surrogate pair",
        ),
        ({"user": "alice\0"}, "the value of the startup parameter 'user' contains a NUL or half a surrogate pair"),
        ({"user": "\ud83d"}, "the value of the startup parameter 'user' contains a NUL or half a surrogate pair"),
        ({"x\udc7f": ""}, r"the startup parameter 'x\udc7f' contains a NUL or half a surrogate pair"),
        ({"x\udd00": ""}, r"the startup parameter 'x\udd00' contains a NUL or half a surrogate pair"),
    ],
)
def test_startup_parameters_that_cannot_be_sent_are_refused(changes: dict[str, str], reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        next(handshake({"user": "alice", **changes}, policy(), nonce=NONCE))
    assert str(caught.value).startswith(reason)
    assert caught.value.outcome is Outcome.NOT_SENT


def test_a_handshake_without_a_user_is_refused() -> None:
    with pytest.raises(ConfigError, match="a user is needed to connect"):
        next(handshake({"database": "x"}, policy(), nonce=NONCE))


@pytest.mark.parametrize("password", ["hunter\0two", "hunter\ud800two"])
def test_an_error_for_an_unsendable_password_does_not_show_it(password: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Login(password).take(m.AuthenticationCleartextPassword())
    assert str(caught.value).startswith("the password contains ")
    seen = repr((caught.value, caught.value.__cause__, caught.value.__context__))
    assert "hunter" not in seen and "two" not in seen


def test_the_startup_message_may_be_as_long_as_servers_read() -> None:
    """Measured on PostgreSQL 15 and 18: 10,000 bytes after the length word are read, 10,001 are not."""
    room = 10_000 - len(b"\0\3\0\0user\0alice\0application_name\0\0\0")
    (step,) = Login(application_name="x" * room).sent
    assert isinstance(step, bytes) and len(step) == 4 + 10_000
    with pytest.raises(ConfigError, match="the startup parameters take 10001 bytes, and servers read 10000"):
        Login(application_name="x" * (room + 1))


# ---- Ways to log in --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("password", [None, "", PASSWORD])
def test_a_login_by_trust_needs_no_password(password: str | None) -> None:
    login = Login(password)
    startup = login.finish(OK, READY)
    assert startup == HandshakeResult({}, None, None, "trust", False, (3, 0), (), ())
    assert (login.sent[1:], login.asked) == ([b""], 0)


def test_a_cleartext_password_is_sent_as_utf8() -> None:
    login = Login("pässword \udcff")
    step = login.take(m.AuthenticationCleartextPassword())
    assert step == b"p\0\0\0\x10" + b"p\xc3\xa4ssword \xff\0"
    assert login.finish(OK, READY).auth_mechanism == "cleartext"


def test_an_md5_login_sends_the_salted_hash_and_warns() -> None:
    login = Login("pä\udcff", user="älice")
    step = login.take(m.AuthenticationMD5Password(b"salt"))
    inner = hashlib.md5(b"p\xc3\xa4\xff\xc3\xa4lice").hexdigest()
    assert decode(step).password == "md5" + hashlib.md5(inner.encode() + b"salt").hexdigest()
    startup = login.finish(OK, READY)
    assert startup.auth_mechanism == "md5"
    assert startup.warnings == ("md5 passwords are deprecated: change to scram-sha-256 (password_encryption)",)


def test_md5_fails_with_a_clear_error_if_openssl_forbids_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_: bytes) -> None:
        raise ValueError("[digital envelope routines] unsupported")

    monkeypatch.setattr(hashlib, "md5", forbidden)
    error = Login().fail(m.AuthenticationMD5Password(b"salt"))
    assert isinstance(error, AuthenticationError) and "OpenSSL forbids" in str(error)


@pytest.mark.parametrize("extensions", [b"", b",x=1"])
def test_a_scram_login_succeeds_and_warns_about_few_iterations(extensions: bytes) -> None:
    login = Login()
    final = play_scram(login, scram_server(first_extensions=extensions, final_extensions=extensions))
    startup = login.finish(final, OK, READY)
    assert (startup.auth_mechanism, startup.channel_bound) == ("SCRAM-SHA-256", False)
    assert startup.warnings == ("the password is hashed with 7 iterations on the server, and 4096 are usual",)
    assert ([step for step in login.sent if step == b""], login.asked) == ([b"", b""], 1)


@pytest.mark.parametrize("extensions", [b"", b",x=1"])
def test_a_scram_login_can_be_bound_to_the_certificate(extensions: bytes) -> None:
    login = Login(policy=policy(is_tls=True, binding=b"hash", channel_binding="require"))
    server = scram_server(4096, binding=b"hash", first_extensions=extensions, final_extensions=extensions)
    startup = login.finish(play_scram(login, server), OK, READY)
    assert server.gs2_header == b"p=tls-server-end-point,,"
    assert (startup.auth_mechanism, startup.channel_bound, startup.warnings) == ("SCRAM-SHA-256-PLUS", True, ())


def test_scram_is_chosen_among_other_mechanisms() -> None:
    login = Login()
    offer = m.AuthenticationSASL(("GS2-KRB5", "OAUTHBEARER", "SCRAM-SHA-256"))
    assert decode(login.take(offer), m.SASLInitialResponse) == m.SASLInitialResponse(
        "SCRAM-SHA-256", b"n,,n=,r=client-nonce"
    )


def test_the_password_is_asked_for_only_when_it_is_needed() -> None:
    steps = handshake({"user": "alice"}, policy(), nonce=NONCE)
    next(steps)
    assert steps.send(SASL) == AskPassword()
    assert steps.send("secret") == m.encode(m.SASLInitialResponse("SCRAM-SHA-256", b"n,,n=,r=client-nonce"))


def test_scram_prepares_the_password_with_saslprep() -> None:
    login = Login("I\u00adX")
    login.take(SASL)
    step = login.take(m.AuthenticationSASLContinue(scram_server().first(b"n,,n=,r=client-nonce")))
    assert isinstance(step, DeriveKey)
    assert step.password == b"IX"


def test_derive_key_hides_the_password_and_is_hashable() -> None:
    derive = DeriveKey(b"secret", b"salt", 4096)
    assert repr(derive) == "DeriveKey(password='***', salt=b'salt', iterations=4096)"
    assert {derive: 1}[DeriveKey(b"secret", b"salt", 4096)] == 1


@pytest.mark.parametrize("password", [None, ""])
@pytest.mark.parametrize(
    ("request_", "name"),
    [
        (m.AuthenticationCleartextPassword(), "cleartext"),
        (m.AuthenticationMD5Password(b"salt"), "md5"),
        (SASL, "SCRAM-SHA-256"),
    ],
)
def test_a_missing_password_is_reported_with_the_method_that_needs_it(
    request_: m.BackendMessage, name: str, password: str | None
) -> None:
    error = Login(password).fail(request_)
    assert isinstance(error, AuthenticationError)
    assert str(error) == (
        f"the server asks for a password ({name}) and none was given: "
        "pass password=, set PGPASSWORD or add a line to the password file"
    )


@pytest.mark.parametrize(
    ("request_", "name"),
    [
        (m.AuthenticationKerberosV5(), "kerberos v5"),
        (m.AuthenticationGSS(), "gss"),
        (m.AuthenticationSSPI(), "sspi"),
    ],
)
def test_unsupported_methods_are_refused_by_name(request_: m.BackendMessage, name: str) -> None:
    error = Login().fail(request_)
    assert isinstance(error, AuthenticationError)
    assert f"asks for {name}, which is not supported" in str(error)


# ---- Servers that do not prove themselves ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "iterations", [b"0", b"-1", b"4096x", b" 4096", b"04096", b"1001", b"2147483647", b"1" + b"0" * 30]
)
def test_bad_iteration_counts_are_never_hashed(iterations: bytes) -> None:
    login = Login(policy=policy(max_iterations=1000))
    login.take(SASL)
    error = login.fail(m.AuthenticationSASLContinue(b"r=client-nonce-x,s=QUJD,i=" + iterations))
    assert isinstance(error, AuthenticationError)
    assert not any(isinstance(step, DeriveKey) for step in login.sent)


@pytest.mark.parametrize("iterations", [1, 1000])
def test_iteration_counts_up_to_the_cap_are_hashed(iterations: int) -> None:
    login = Login(policy=policy(max_iterations=1000))
    login.take(SASL)
    step = login.take(m.AuthenticationSASLContinue(b"r=client-nonce-x,s=QUJD,i=%d" % iterations))
    assert step == DeriveKey(PASSWORD.encode(), b"ABC", iterations)


@pytest.mark.parametrize("final", [b"v=" + b"A" * 43 + b"=", b"e=other-error", b"", b"v=junk"])
def test_a_wrong_server_signature_fails_the_login(final: bytes) -> None:
    login = Login()
    play_scram(login, scram_server())
    assert isinstance(login.fail(m.AuthenticationSASLFinal(final)), AuthenticationError)


def test_ok_before_the_server_signature_fails_the_login() -> None:
    for stop in ("challenge", ""):
        login = Login()
        play_scram(login, scram_server(), stop)
        error = login.fail(OK)
        assert isinstance(error, AuthenticationError)
        assert "AuthenticationOk came where AuthenticationSASL" in str(error)
        assert "leaves out a step of the authentication, and may be an impostor" in str(error)


# ---- The grammar: which messages are legal in which state ----------------------------------------------------------

REQUESTS: set[type[m.BackendMessage]] = {
    m.AuthenticationOk,
    m.AuthenticationCleartextPassword,
    m.AuthenticationMD5Password,
    m.AuthenticationSASL,
}
LEGAL: dict[str, set[type[m.BackendMessage]]] = {
    "start": {m.NegotiateProtocolVersion, *REQUESTS},
    "negotiated": REQUESTS,
    "cleartext": {m.AuthenticationOk},
    "md5": {m.AuthenticationOk},
    "initial response": {m.AuthenticationSASLContinue},
    "response": {m.AuthenticationSASLFinal},
    "verified": {m.AuthenticationOk},
    "settings": {m.ParameterStatus, m.NoticeResponse, m.BackendKeyData, m.ReadyForQuery},
    "key known": {m.ParameterStatus, m.NoticeResponse, m.ReadyForQuery},
}
VERSION = m.NegotiateProtocolVersion(3 << 16, ())


def login_at(state: str) -> Login:
    """A login that is waiting for the server in this state."""
    login = Login()
    match state:
        case "negotiated":
            login.take(VERSION)
        case "cleartext":
            login.take(m.AuthenticationCleartextPassword())
        case "md5":
            login.take(m.AuthenticationMD5Password(b"salt"))
        case "initial response":
            login.take(SASL)
        case "response" | "verified":
            final = play_scram(login, scram_server())
            if state == "verified":
                login.take(final)
        case "settings":
            login.take(OK)
        case "key known":
            login.take(OK, KEY)
    return login


@pytest.mark.parametrize("state", ["start", "negotiated"])
@pytest.mark.parametrize("message", [m.AuthenticationSASLContinue(b""), m.AuthenticationSASLFinal(b"")])
def test_an_authentication_cannot_begin_in_the_middle(state: str, message: m.BackendMessage) -> None:
    error = login_at(state).fail(message)
    assert isinstance(error, ProtocolError) and f"{type(message).__name__} came first" in str(error)


@pytest.mark.parametrize("state", LEGAL)
@given(data=st.data())
def test_every_message_that_is_not_legal_in_a_state_fails_the_login(state: str, data: st.DataObject) -> None:
    others = [cls for cls in strategies.classes(m.BackendMessage) if cls not in LEGAL[state]]
    message = data.draw(st.sampled_from(others).flatmap(strategies.message))
    error = login_at(state).fail(message)
    if isinstance(message, m.ErrorResponse):
        assert isinstance(error, PgError)
    elif isinstance(message, (m.AuthenticationGSS, m.AuthenticationSSPI, m.AuthenticationKerberosV5)):
        assert isinstance(error, AuthenticationError)
    elif isinstance(message, m.Authentication) and state not in ("start", "negotiated"):
        assert isinstance(error, AuthenticationError)
        assert f"{type(message).__name__} came where " in str(error)
    else:
        assert isinstance(error, ProtocolError)
        assert f"startup: {type(message).__name__} came" in str(error)


@pytest.mark.parametrize("state", LEGAL)
def test_an_error_response_is_raised_with_its_fields(state: str) -> None:
    error = login_at(state).fail(FATAL)
    assert isinstance(error, PgError)
    assert (error.code, error.severity, error.message, error.is_fatal) == ("28P01", "FATAL", "no", True)
    assert error.fields == {"S": "FATAL", "V": "FATAL", "C": "28P01", "M": "no"}


NEWER = policy(versions=((3, 0), (3, 2)))


@pytest.mark.parametrize("newest", [(3, 0), (3, 2)])
@pytest.mark.parametrize(
    ("version", "options"),
    [
        *((3 << 16 | 1, ()), (3 << 16 | 3, ()), (3 << 16, ("_pq_.x",)), (0, ()), (2 << 16, ()), (4 << 16, ())),
        *((-1, ()), (2, ()), (3 << 16, ("x" * 999,) * 9)),
    ],
    ids=lambda value: str(value)[:20],
)
def test_versions_that_the_server_must_not_answer_are_refused(
    newest: tuple[int, int], version: int, options: tuple[str, ...]
) -> None:
    error = Login(policy=policy(versions=((3, 0), newest))).fail(m.NegotiateProtocolVersion(version, options))
    assert isinstance(error, ProtocolError)
    assert f"the server answers protocol 3.{newest[1]} with version" in str(error)
    assert len(str(error)) < 300


def test_a_newer_version_than_requested_is_refused() -> None:
    assert isinstance(Login().fail(m.NegotiateProtocolVersion(3 << 16 | 2, ())), ProtocolError)


@pytest.mark.parametrize(("version", "size"), [((3, 2), 4), ((3, 2), 32), ((3, 2), 256)])
def test_version_3_2_accepts_longer_keys(version: tuple[int, int], size: int) -> None:
    login = Login(policy=policy(versions=((3, 0), version)))
    (step,) = login.sent
    assert isinstance(step, bytes) and step[4:8] == b"\0\3\0\2"
    startup = login.finish(OK, m.BackendKeyData(42, bytes(size)), READY)
    assert (startup.protocol_version, startup.secret_key) == ((3, 2), bytes(size))


@pytest.mark.parametrize(("answer", "size"), [(3 << 16, 4), (3 << 16 | 2, 256)])
def test_the_server_may_negotiate_an_older_version_or_keep_the_requested_one(answer: int, size: int) -> None:
    login = Login(policy=NEWER)
    startup = login.finish(m.NegotiateProtocolVersion(answer, ()), OK, m.BackendKeyData(42, bytes(size)), READY)
    assert startup.protocol_version == (3, answer & 3)


def test_a_long_key_is_refused_after_negotiating_down_to_3_0() -> None:
    login = Login(policy=NEWER)
    error = login.fail(m.NegotiateProtocolVersion(3 << 16, ()), OK, m.BackendKeyData(42, bytes(32)))
    assert isinstance(error, ProtocolError) and "a key that is not 4 bytes long" in str(error)


def test_a_version_below_min_protocol_version_is_refused() -> None:
    error = Login(policy=policy(versions=((3, 2), (3, 2)))).fail(m.NegotiateProtocolVersion(3 << 16, ()))
    assert isinstance(error, AuthenticationError)
    assert str(error) == "the server speaks protocol 3.0 at most, and min_protocol_version is 3.2"


@pytest.mark.parametrize("password_request", [None, SASL])
def test_a_negotiation_to_the_requested_version_changes_nothing(password_request: m.BackendMessage | None) -> None:
    login = Login()
    assert login.take(VERSION) == b""
    if password_request:
        assert decode(login.take(password_request), m.SASLInitialResponse).mechanism == "SCRAM-SHA-256"
    else:
        assert login.finish(OK, READY).protocol_version == (3, 0)


# ---- From AuthenticationOk to ReadyForQuery --------------------------------------------------------------------------


def test_settings_key_and_notices_are_in_the_result() -> None:
    notice = m.NoticeResponse((("S", "WARNING"), ("M", "collation version mismatch")))
    startup = Login().finish(
        OK,
        m.ParameterStatus("server_version", "18"),
        m.ParameterStatus("TimeZone", "UTC"),
        notice,
        KEY,
        m.ParameterStatus("TimeZone", "Asia/Tokyo"),
        notice,
        READY,
    )
    assert startup == HandshakeResult(
        parameters={"server_version": "18", "TimeZone": "Asia/Tokyo"},
        pid=42,
        secret_key=b"\x01\x02\x03\x04",
        auth_mechanism="trust",
        channel_bound=False,
        protocol_version=(3, 0),
        notices=(notice, notice),
        warnings=(),
    )
    assert r"\x01\x02" not in repr(startup)


@pytest.mark.parametrize("key", [m.BackendKeyData(42, bytes(5)), m.BackendKeyData(42, bytes(256))])
def test_a_key_too_long_for_the_protocol_version_is_refused(key: m.BackendKeyData) -> None:
    error = Login().fail(OK, key)
    assert isinstance(error, ProtocolError) and "BackendKeyData" in str(error)


@pytest.mark.parametrize("status", "TE")
def test_a_first_ready_for_query_that_is_not_idle_is_refused(status: str) -> None:
    error = Login().fail(OK, m.ReadyForQuery(status))
    assert isinstance(error, ProtocolError)
    assert str(error) == f"startup: the first ReadyForQuery has the status {status}"


def test_more_than_a_thousand_settings_or_notices_are_refused() -> None:
    settings = [m.ParameterStatus(f"s{number}", "") for number in range(1000)]
    notices = [m.NoticeResponse(())] * 1000
    startup = Login().finish(OK, *settings, *notices, READY)
    assert (len(startup.parameters), len(startup.notices)) == (1000, 1000)
    for one_more in (m.ParameterStatus("s1000", ""), m.NoticeResponse(())):
        error = Login().fail(OK, *settings, *notices, one_more)
        assert isinstance(error, ProtocolError)
        assert str(error) == "startup: the server sent more than 1000 settings or notices"
