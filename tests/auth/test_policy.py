"""The policy as the handshake obeys it: every way to log in against every rule, and what was asked before a refusal."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from pg_wired.auth.policy import METHODS, Policy
from pg_wired.config.config import ConnConfig
from pg_wired.errors import AuthenticationError
from pg_wired.protocol import messages as m
from tests.auth.login import OK, READY, Login, decode, play_scram, policy, scram_server

# What a server asks for, by the word that `require_auth` has for it.
ASKED: dict[str, m.Authentication] = {
    "none": OK,
    "password": m.AuthenticationCleartextPassword(),
    "md5": m.AuthenticationMD5Password(b"salt"),
    "scram-sha-256": m.AuthenticationSASL(("SCRAM-SHA-256",)),
    "gss": m.AuthenticationGSS(),
    "sspi": m.AuthenticationSSPI(),
}
# The value, and what it allows of these.
REQUIRE_AUTH: dict[str, set[str]] = {
    "": set(ASKED),
    **{method: {method} for method in METHODS},
    **{f"!{method}": set(ASKED) - {method} for method in METHODS},
    "none,scram-sha-256": {"none", "scram-sha-256"},
    "!none,!password,!md5": {"scram-sha-256", "gss", "sspi"},
    "password,md5": {"password", "md5"},
}
UNBUILT = {"gss", "sspi"}


@pytest.mark.parametrize(("value", "method"), list(product(REQUIRE_AUTH, ASKED)))
def test_require_auth(value: str, method: str) -> None:
    allowed = ConnConfig.parse(user="u", require_auth=value, environ={}).require_auth
    login = Login(policy=policy(require_auth=allowed))
    if method in REQUIRE_AUTH[value] - UNBUILT:
        if method == "scram-sha-256":
            login.take(play_scram(login, scram_server()))
        elif method != "none":
            login.take(ASKED[method])
        assert login.finish(OK, READY)
        assert login.asked == (method != "none")
        return
    error = login.fail(ASKED[method])
    assert isinstance(error, AuthenticationError)
    assert login.asked == 0, "no password is wanted before the policy agrees"
    refused_by_policy = "require_auth allows only" in str(error)
    assert refused_by_policy == (method not in REQUIRE_AUTH[value])


def test_what_is_allowed_is_named_in_the_order_of_libpq() -> None:
    login = Login(policy=policy(require_auth=frozenset({"scram-sha-256", "password", "password in clear"})))
    said = str(login.fail(ASKED["md5"]))
    assert said == "the server asks for md5, and require_auth allows only password, scram-sha-256"
    login = Login(policy=policy(require_auth=frozenset({"md5"})))
    assert str(login.fail(OK)) == "the server lets us in without authentication, and require_auth allows only md5"


@pytest.mark.parametrize("value", ["", "password", "md5,password", "!md5", "!none"])
@pytest.mark.parametrize("is_private", [True, False])
def test_a_password_in_clear_must_be_named(value: str, is_private: bool) -> None:
    allowed = ConnConfig.parse(user="u", require_auth=value, environ={}).require_auth
    login = Login(policy=policy(require_auth=allowed, is_private=is_private))
    if is_private or value.endswith("password"):
        login.take(ASKED["password"])
        assert login.finish(OK, READY).auth_mechanism == "cleartext"
        return
    error = login.fail(ASKED["password"])
    assert str(error) == (
        "the server asks for the password in clear, over a connection that others can read: "
        "use TLS (sslmode=require or stricter), or name the risk with require_auth=password"
    )
    assert login.asked == 0


@pytest.mark.parametrize("method", ["none", "password", "md5", "gss", "sspi"])
def test_binding_required_of_a_login_that_has_none(method: str) -> None:
    login = Login(policy=policy(channel_binding="require", is_tls=True, binding=b"hash"))
    error = login.fail(ASKED[method])
    assert isinstance(error, AuthenticationError)
    assert str(error).startswith(f"channel_binding=require, and a login by {method} binds nothing")
    assert login.asked == 0


@pytest.mark.parametrize("method", ASKED)
def test_a_certificate_required_of_a_connection_without_tls(method: str) -> None:
    """On a Unix socket too, as with libpq."""
    required = ConnConfig.parse(user="u", sslcertmode="require", environ={})
    login = Login(policy=required.policy(is_private=True, is_tls=False, binding=None, no_binding=""))
    error = login.fail(ASKED[method])
    assert isinstance(error, AuthenticationError) and "sslcertmode=require" in str(error)
    assert login.asked == 0
    if method not in UNBUILT:
        login = Login(policy=required.policy(is_private=True, is_tls=True, binding=None, no_binding=""))
        login.take(ASKED[method])


PLUS, PLAIN = "SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"
# The connection, as the driver describes it.
CONNECTIONS: dict[str, dict[str, Any]] = {
    "plain": {"is_tls": False, "binding": None, "no_binding": "there is no TLS"},
    "tls": {"is_tls": True, "binding": b"hash", "no_binding": ""},
    "no hash": {"is_tls": True, "binding": None, "no_binding": "Ed25519 certificates have no hash"},
}
STRIPPED = "over a connection without TLS"
NO_HASH = "Ed25519 certificates have no hash"
# channel_binding, connection, offer -> the mechanism and its flag, or the reason why not. RFC 5802, 6; libpq but for
# "no hash", where it cannot go on at all.
BINDING: dict[tuple[str, str, tuple[str, ...]], str] = {
    ("disable", "plain", (PLAIN,)): f"{PLAIN} n",
    ("disable", "plain", (PLUS, PLAIN)): STRIPPED,
    ("disable", "plain", (PLUS,)): STRIPPED,
    ("disable", "tls", (PLAIN,)): f"{PLAIN} n",
    ("disable", "tls", (PLUS, PLAIN)): f"{PLAIN} n",
    ("disable", "tls", (PLUS,)): "SCRAM-SHA-256-PLUS cannot be used: channel_binding=disable",
    ("disable", "no hash", (PLAIN,)): f"{PLAIN} n",
    ("disable", "no hash", (PLUS, PLAIN)): f"{PLAIN} n",
    ("disable", "no hash", (PLUS,)): "SCRAM-SHA-256-PLUS cannot be used: channel_binding=disable",
    ("prefer", "plain", (PLAIN,)): f"{PLAIN} n",
    ("prefer", "plain", (PLUS, PLAIN)): STRIPPED,
    ("prefer", "plain", (PLUS,)): STRIPPED,
    ("prefer", "tls", (PLAIN,)): f"{PLAIN} y",
    ("prefer", "tls", (PLUS, PLAIN)): f"{PLUS} p=tls-server-end-point",
    ("prefer", "tls", (PLUS,)): f"{PLUS} p=tls-server-end-point",
    ("prefer", "no hash", (PLAIN,)): f"{PLAIN} n",
    ("prefer", "no hash", (PLUS, PLAIN)): f"{PLAIN} n",
    ("prefer", "no hash", (PLUS,)): f"SCRAM-SHA-256-PLUS cannot be used: {NO_HASH}",
    ("require", "plain", (PLAIN,)): "channel_binding=require cannot be met: there is no TLS",
    ("require", "plain", (PLUS, PLAIN)): STRIPPED,
    ("require", "plain", (PLUS,)): STRIPPED,
    ("require", "tls", (PLAIN,)): "channel_binding=require cannot be met: the server does not offer SCRAM-SHA-256-PLUS",
    ("require", "tls", (PLUS, PLAIN)): f"{PLUS} p=tls-server-end-point",
    ("require", "tls", (PLUS,)): f"{PLUS} p=tls-server-end-point",
    ("require", "no hash", (PLAIN,)): f"channel_binding=require cannot be met: {NO_HASH}",
    ("require", "no hash", (PLUS, PLAIN)): f"channel_binding=require cannot be met: {NO_HASH}",
    ("require", "no hash", (PLUS,)): f"channel_binding=require cannot be met: {NO_HASH}",
}


@pytest.mark.parametrize(("binding", "connection", "offer"), BINDING)
def test_channel_binding(binding: str, connection: str, offer: tuple[str, ...]) -> None:
    expected = BINDING[binding, connection, offer]
    login = Login(policy=policy(channel_binding=binding, **CONNECTIONS[connection]))
    if not expected.startswith("SCRAM-SHA-256") or "cannot" in expected:
        error = login.fail(m.AuthenticationSASL(offer))
        assert isinstance(error, AuthenticationError)
        assert expected in str(error)
        assert login.asked == 0
        return
    initial = decode(login.take(m.AuthenticationSASL(offer)), m.SASLInitialResponse)
    assert f"{initial.mechanism} {initial.response.partition(b',')[0].decode()}" == expected
    # And with a server that keeps to the RFC it goes through to the end, bound exactly where it says so.
    login = Login(policy=policy(channel_binding=binding, **CONNECTIONS[connection]))
    server = scram_server(binding=b"hash" if PLUS in offer else None)
    startup = login.finish(play_scram(login, server), OK, READY)
    assert startup.channel_bound == (startup.auth_mechanism == PLUS) == expected.startswith(PLUS)


@pytest.mark.parametrize(
    ("mechanisms", "offer"),
    [
        ((), "0 SASL mechanisms, ''"),
        (("OAUTHBEARER", "\x1b[2J"), r"2 SASL mechanisms, 'OAUTHBEARER, \x1b[2J'"),
        (("scram-sha-256",), "1 SASL mechanisms, 'scram-sha-256'"),
        (("x" * 20_000,), "1 SASL mechanisms, 'xxxx"),
        (("SCRAM-SHA-256",) * 101, "101 SASL mechanisms, 'SCRAM-SHA-256, SCRAM"),
        (("X",) * 9_999 + ("SCRAM-SHA-256",), "10000 SASL mechanisms, 'X, X"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_mechanisms(mechanisms: tuple[str, ...], offer: str) -> None:
    error = Login().fail(m.AuthenticationSASL(mechanisms))
    assert isinstance(error, AuthenticationError)
    assert str(error).startswith(f"the server offers {offer}")
    assert str(error).endswith(": SCRAM-SHA-256 is needed, 100 at most")
    assert len(str(error)) < 300


def test_as_many_mechanisms_as_allowed() -> None:
    assert Login().take(m.AuthenticationSASL(("X",) * 99 + ("SCRAM-SHA-256",)))


def test_binding_is_checked_when_the_login_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if some way to log in should ever get past the checks before it: here they are all off."""
    monkeypatch.setattr(Policy, "allow", lambda _policy, _method: None)
    error = Login(policy=policy(channel_binding="require")).fail(OK)
    assert isinstance(error, AuthenticationError) and "let us in without channel binding" in str(error)
    required = policy(channel_binding="require")
    with pytest.raises(AuthenticationError, match="let us in without channel binding"):
        required.check_end(False)
    required.check_end(True)
    policy().check_end(False)


def test_the_policy_of_a_configuration() -> None:
    config = ConnConfig.parse(
        "user=u require_auth=!none channel_binding=disable min_protocol_version=3.2 scram_min_iterations=4096",
        environ={},
    )
    assert config.policy(is_private=True, is_tls=True, binding=b"x", no_binding="") == policy(
        require_auth=frozenset(METHODS) - {"none"},
        channel_binding="disable",
        min_iterations=4096,
        is_tls=True,
        binding=b"x",
        no_binding="",
        versions=((3, 2), (3, 2)),
    )
