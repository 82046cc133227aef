"""The policy as the handshake applies it: every login method against every rule, and no password before a refusal."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from pg_wired.auth.policy import METHODS, Policy
from pg_wired.config.config import ConnConfig
from pg_wired.errors import AuthenticationError
from pg_wired.protocol import messages as m
from tests.auth.login import OK, READY, Login, decode, play_scram, policy, scram_server

# The request of a server for each method name of `require_auth`.
ASKED: dict[str, m.Authentication] = {
    "none": OK,
    "password": m.AuthenticationCleartextPassword(),
    "md5": m.AuthenticationMD5Password(b"salt"),
    "scram-sha-256": m.AuthenticationSASL(("SCRAM-SHA-256",)),
    "gss": m.AuthenticationGSS(),
    "sspi": m.AuthenticationSSPI(),
}
# Each value and the methods that it allows.
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
def test_require_auth_accepts_exactly_the_methods_it_allows(value: str, method: str) -> None:
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


def test_allowed_methods_are_named_in_the_order_of_libpq() -> None:
    login = Login(policy=policy(require_auth=frozenset({"scram-sha-256", "password", "password in clear"})))
    said = str(login.fail(ASKED["md5"]))
    assert said == "the server asks for md5, and require_auth allows only password, scram-sha-256"
    login = Login(policy=policy(require_auth=frozenset({"md5"})))
    assert str(login.fail(OK)) == "the server lets us in without authentication, and require_auth allows only md5"


@pytest.mark.parametrize("value", ["", "password", "md5,password", "!md5", "!none"])
@pytest.mark.parametrize("is_private", [True, False])
def test_a_cleartext_password_on_a_readable_connection_must_be_allowed_by_name(value: str, is_private: bool) -> None:
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
def test_required_channel_binding_refuses_methods_without_it(method: str) -> None:
    login = Login(policy=policy(channel_binding="require", is_tls=True, binding=b"hash"))
    error = login.fail(ASKED[method])
    assert isinstance(error, AuthenticationError)
    assert str(error).startswith(f"channel_binding=require, and a login by {method} binds nothing")
    assert login.asked == 0


@pytest.mark.parametrize("method", ASKED)
def test_sslcertmode_require_refuses_a_connection_without_tls(method: str) -> None:
    """This includes Unix sockets, as in libpq."""
    required = ConnConfig.parse(user="u", sslcertmode="require", environ={})
    login = Login(policy=required.policy(is_private=True, is_tls=False, binding=None, no_binding=""))
    error = login.fail(ASKED[method])
    assert isinstance(error, AuthenticationError) and "sslcertmode=require" in str(error)
    assert login.asked == 0
    if method not in UNBUILT:
        login = Login(policy=required.policy(is_private=True, is_tls=True, binding=None, no_binding=""))
        login.take(ASKED[method])


PLUS, PLAIN = "SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"
# The connections, as the driver describes them.
CONNECTIONS: dict[str, dict[str, Any]] = {
    "plain": {"is_tls": False, "binding": None, "no_binding": "there is no TLS"},
    "tls": {"is_tls": True, "binding": b"hash", "no_binding": ""},
    "no hash": {"is_tls": True, "binding": None, "no_binding": "Ed25519 certificates have no hash"},
}
STRIPPED = "over a connection without TLS"
NO_HASH = "Ed25519 certificates have no hash"
# channel_binding, connection, offer -> the mechanism and its flag, or the reason for the refusal. RFC 5802, 6; as in
# libpq except for "no hash", where libpq cannot continue at all.
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
def test_channel_binding_decides_the_mechanism_or_the_refusal(
    binding: str, connection: str, offer: tuple[str, ...]
) -> None:
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
    # With a server that obeys the RFC the login completes, and it is bound exactly if it says so.
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
def test_an_offer_without_scram_or_with_too_many_mechanisms_is_refused(mechanisms: tuple[str, ...], offer: str) -> None:
    error = Login().fail(m.AuthenticationSASL(mechanisms))
    assert isinstance(error, AuthenticationError)
    assert str(error).startswith(f"the server offers {offer}")
    assert str(error).endswith(": SCRAM-SHA-256 is needed, 100 at most")
    assert len(str(error)) < 300


def test_an_offer_of_a_hundred_mechanisms_is_accepted() -> None:
    assert Login().take(m.AuthenticationSASL(("X",) * 99 + ("SCRAM-SHA-256",)))


def test_channel_binding_is_checked_again_at_the_end_of_the_login(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last check works even if a login method passed all earlier ones; here they are disabled."""
    monkeypatch.setattr(Policy, "allow", lambda _policy, _method: None)
    error = Login(policy=policy(channel_binding="require")).fail(OK)
    assert isinstance(error, AuthenticationError) and "let us in without channel binding" in str(error)
    required = policy(channel_binding="require")
    with pytest.raises(AuthenticationError, match="let us in without channel binding"):
        required.check_end(False)
    required.check_end(True)
    policy().check_end(False)


def test_a_configuration_makes_the_corresponding_policy() -> None:
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
