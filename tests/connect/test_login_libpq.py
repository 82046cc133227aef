"""The handshake, SCRAM and SASLprep against a real server, compared with libpq."""

from __future__ import annotations

import secrets
import socket
from base64 import b64decode, b64encode
from collections.abc import Iterator
from hashlib import sha256
from hmac import digest

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_wired.auth.handshake import AskPassword, DeriveKey, HandshakeResult, Reply, handshake
from pg_wired.auth.saslprep import saslprep
from pg_wired.auth.scram import salted_password
from pg_wired.config.config import ConnConfig
from pg_wired.errors import AuthenticationError, Outcome
from pg_wired.protocol import messages
from pg_wired.protocol.server_error import PgError
from rig.postgres import Postgres

HBA = """
host all by_trust,nobody 127.0.0.1/32 trust
host all by_password 127.0.0.1/32 password
host all by_md5 127.0.0.1/32 md5
host all all 127.0.0.1/32 scram-sha-256
"""
RIGHT = "correct horse"
# The RFC's examples; spaces; mapped, normalized, prohibited and unassigned characters; mixed directions; not UTF-8.
ODD = [
    *("I\u00adX", "IX", "user", "USER", "\u00aa", "a", "\u2168", "\u0007", "\u0627\u0031"),
    *(f"a{space}b" for space in " \u00a0\u2003\u200b\u202f\u3000"),
    *("\u00ad", " ", "e\u0301", "\u00e9", "\ufb01", "fi", "a\u0221\u00ad", "a\u0221"),
    *("\U0001f600", "a\u2135", "a\u05d0"),
    *("caf\udce9", "I\udcad\u00adX", "tab\there", "quote'\\", " lead", "x" * 3000),
]


@pytest.fixture(scope="module")
def server(pytestconfig: pytest.Config) -> Iterator[Postgres]:
    with Postgres.launch(source=pytestconfig.getoption("--postgres"), files={"pg_hba.conf": HBA}) as server:
        with psycopg.connect(server.dsn, autocommit=True) as conn:
            conn.execute(f"set password_encryption = md5; create role by_md5 login password '{RIGHT}'")
            conn.execute(f"set password_encryption = 'scram-sha-256'; create role by_scram login password '{RIGHT}'")
            conn.execute(f"create role by_password login password '{RIGHT}'; create role by_trust login")
        yield server


@pytest.fixture(scope="module")
def libpq(server: Postgres) -> Iterator[psycopg.Connection]:
    """A connection for creating and dropping roles."""
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        yield conn


# Without TLS, a password in clear is sent only if require_auth names it.
ANY = "require_auth=password,md5,scram-sha-256,none"


def log_in(
    server: Postgres, user: str, password: str | None, options_: str = ANY, **parameters: str
) -> HandshakeResult:
    """Log in over a plain socket, driving the handshake step by step."""
    options = {"user": user, "database": server.dbname, **parameters}
    config = ConnConfig.parse(f"user=u {options_}", environ={})
    policy = config.policy(is_private=False, is_tls=False, binding=None, no_binding="")
    steps = handshake(options, policy, nonce=secrets.token_urlsafe(18))
    with socket.create_connection((server.host, server.port)) as sock, sock.makefile("rb") as stream:
        step = next(steps)
        while True:
            if isinstance(step, DeriveKey):
                reply: Reply = salted_password(step.password, step.salt, step.iterations)
            elif isinstance(step, AskPassword):
                reply = password
            else:
                sock.sendall(step)
                head = stream.read(5)
                reply = messages.decode_backend(head[0], stream.read(int.from_bytes(head[1:]) - 4))
            try:
                step = steps.send(reply)
            except StopIteration as end:
                assert isinstance(end.value, HandshakeResult)
                return end.value


def opens(server: Postgres, user: str, password: str) -> bool:
    """Whether our login succeeds."""
    try:
        log_in(server, user, password)
    except PgError as error:
        assert error.code == "28P01"
        return False
    return True


def libpq_opens(server: Postgres, user: str, password: str) -> bool:
    """Whether a login with libpq succeeds."""
    quoted = password.replace("\\", "\\\\").replace("'", "\\'").encode("utf-8", "surrogateescape")
    where = f"host={server.host} port={server.port} dbname={server.dbname} user={user} sslmode=disable".encode()
    conn = psycopg.pq.PGconn.connect(where + b" password='" + quoted + b"'")
    try:
        return conn.status == psycopg.pq.ConnStatus.OK
    finally:
        conn.finish()


@pytest.mark.parametrize(
    ("user", "mechanism"),
    [("by_password", "cleartext"), ("by_md5", "md5"), ("by_scram", "SCRAM-SHA-256"), ("by_trust", "trust")],
)
def test_logins_succeed_only_with_the_right_password(server: Postgres, user: str, mechanism: str) -> None:
    startup = log_in(server, user, RIGHT, application_name="test")
    assert startup.auth_mechanism == mechanism
    assert startup.parameters["application_name"] == "test"
    assert startup.pid and startup.secret_key and len(startup.secret_key) == 4
    if mechanism == "trust":
        for password in ("wrong", "", None):
            assert log_in(server, user, password).auth_mechanism == "trust"
        return
    with pytest.raises(PgError) as wrong:
        log_in(server, user, "wrong")
    assert (wrong.value.code, wrong.value.outcome) == ("28P01", Outcome.NOT_SENT)
    for password in ("", None):
        with pytest.raises(AuthenticationError, match="none was given"):
            log_in(server, user, password)


@pytest.fixture(scope="module")
def older() -> Iterator[Postgres]:
    """PostgreSQL 17, which speaks only protocol 3.0."""
    with Postgres.launch(source="celerp", files={"pg_hba.conf": HBA}) as server:
        with psycopg.connect(server.dsn, autocommit=True) as conn:
            conn.execute("create role by_trust login")
        yield server


@pytest.mark.parametrize(
    ("options", "is_older", "version", "key"),
    [
        ("", False, (3, 0), 4),
        ("max_protocol_version=3.2", False, (3, 2), 32),
        ("min_protocol_version=3.2", False, (3, 2), 32),
        ("max_protocol_version=latest", True, (3, 0), 4),
        ("min_protocol_version=3.2", True, None, 0),
    ],
)
def test_the_protocol_version_is_negotiated_as_by_libpq(
    server: Postgres, older: Postgres, options: str, is_older: bool, version: tuple[int, int] | None, key: int
) -> None:
    if int(server.version.split(".")[0]) < 18 and not is_older:
        pytest.skip("this server is older than protocol 3.2")
    where = older if is_older else server
    dsn = f"host={where.host} port={where.port} dbname={where.dbname} user=by_trust {options}"
    libpq = psycopg.pq.PGconn.connect(dsn.encode())
    assert (libpq.status == psycopg.pq.ConnStatus.OK) == (version is not None)
    if version is None:
        assert b"only supports protocol version 3.0" in libpq.error_message
        with pytest.raises(
            AuthenticationError, match=r"speaks protocol 3\.0 at most, and min_protocol_version is 3\.2"
        ):
            log_in(where, "by_trust", None, options)
    else:
        startup = log_in(where, "by_trust", None, options)
        assert startup.protocol_version == version
        assert startup.secret_key is not None and len(startup.secret_key) == key
    libpq.finish()


@pytest.mark.parametrize("value", ["none", "password", "md5", "scram-sha-256", "!md5", "!none", "none,md5"])
@pytest.mark.parametrize("user", ["by_trust", "by_password", "by_md5", "by_scram"])
def test_require_auth_allows_what_libpq_allows_except_a_password_in_clear(
    server: Postgres, user: str, value: str
) -> None:
    dsn = f"host={server.host} port={server.port} dbname={server.dbname} user={user} password='{RIGHT}' sslmode=disable"
    libpq = psycopg.pq.PGconn.connect(f"{dsn} require_auth={value}".encode())
    opens = libpq.status == psycopg.pq.ConnStatus.OK
    libpq.finish()
    if user == "by_password" and value.startswith("!"):
        assert opens  # libpq is laxer: it sends a password in clear unless that is excluded
        opens = False
    if opens:
        assert log_in(server, user, RIGHT, f"require_auth={value}")
    else:
        with pytest.raises(AuthenticationError, match="require_auth"):
            log_in(server, user, RIGHT, f"require_auth={value}")


@pytest.mark.parametrize(
    ("user", "parameters", "code"),
    [
        ("nobody", {}, "28000"),
        ("by_trust", {"database": "nowhere"}, "3D000"),
        ("by_trust", {"no_such_setting": "1"}, "42704"),
        ("by_trust", {"client_encoding": "EBCDIC"}, "22023"),
    ],
)
def test_a_refused_login_raises_the_servers_error(
    server: Postgres, user: str, parameters: dict[str, str], code: str
) -> None:
    with pytest.raises(PgError) as caught:
        log_in(server, user, None, **parameters)
    assert (caught.value.code, caught.value.severity) == (code, "FATAL")


@pytest.mark.parametrize("password", ODD, ids=ascii)
def test_unusual_passwords_log_in_exactly_where_libpq_logs_in(
    server: Postgres, libpq: psycopg.Connection, password: str
) -> None:
    verifier = libpq.pgconn.encrypt_password(
        password.encode("utf-8", "surrogateescape"), b"by_scram", b"scram-sha-256"
    ).decode()
    libpq.execute(f"create role odd login password '{verifier}'")
    try:
        assert opens(server, "odd", password)
        alike = [other for other in ODD if saslprep(other) == saslprep(password)]
        tried = [*alike, *(other for other in ODD if other[:1] == password[:1] or other[-1:] == password[-1:])]
        assert {text: opens(server, "odd", text) for text in tried} == {
            text: libpq_opens(server, "odd", text) for text in tried
        }
    finally:
        libpq.execute("drop role odd")


PASSWORDS = st.one_of(
    st.text(min_size=1),
    st.text(
        "aZ1 \u00a0\u00ad\u200b\u05d0\u0627\u0661\u2135\u0301\u0327\u1112\u1161\ufb29\u0e33\u037a\u0340\u212b",
        min_size=1,
    ),
    st.binary(min_size=1).map(lambda octets: octets.decode("utf-8", "surrogateescape")),
).filter(lambda text: "\0" not in text)


@given(password=PASSWORDS)
def test_scram_keys_equal_those_of_libpq(libpq: psycopg.Connection, password: str) -> None:
    octets = password.encode("utf-8", "surrogateescape")
    verifier = libpq.pgconn.encrypt_password(octets, b"alice", b"scram-sha-256").decode()
    _, salting, keys = verifier.split("$")
    iterations, salt = salting.split(":")
    salted = salted_password(saslprep(password), b64decode(salt), int(iterations))
    stored_key = sha256(digest(salted, b"Client Key", "sha256")).digest()
    server_key = digest(salted, b"Server Key", "sha256")
    assert keys == b":".join((b64encode(stored_key), b64encode(server_key))).decode()
