"""Drive the handshake step by step, with the test as the server and without sockets."""

from __future__ import annotations

from typing import Any

import pytest

from pg_wired.auth.handshake import AskPassword, DeriveKey, HandshakeResult, Reply, Step, handshake
from pg_wired.auth.policy import Policy
from pg_wired.auth.scram import salted_password
from pg_wired.errors import Outcome, PgWireError
from pg_wired.protocol import messages as m
from rig.scram_server import ScramServer

PASSWORD = "correct horse"
NONCE = "client-nonce"
OK = m.AuthenticationOk()
READY = m.ReadyForQuery("I")
SASL = m.AuthenticationSASL(("SCRAM-SHA-256",))


def policy(**changes: Any) -> Policy:
    """The policy of a Unix socket without options, with these changes."""
    usual: dict[str, Any] = {
        "require_auth": None,
        "channel_binding": "prefer",
        "min_iterations": 1,
        "max_iterations": 100_000,
        "is_private": True,
        "is_tls": False,
        "binding": None,
        "no_binding": "there is no TLS",
        "needs_certificate": False,
        "versions": ((3, 0), (3, 0)),
    }
    return Policy(**{**usual, **changes})


USUAL = policy()


class Login:
    """A handshake and its steps so far. It receives the password when it asks; `asked` counts the requests."""

    def __init__(self, password: str | None = PASSWORD, *, policy: Policy = USUAL, **parameters: str) -> None:
        self.password = password
        self.asked = 0
        self.steps = handshake({"user": "alice", **parameters}, policy, nonce=NONCE)
        self.sent: list[Step] = [next(self.steps)]

    def _send(self, reply: Reply) -> None:
        step = self.steps.send(reply)
        if isinstance(step, AskPassword):
            self.asked += 1
            step = self.steps.send(self.password)
        self.sent.append(step)

    def take(self, *replies: Reply) -> Step:
        """Pass on the server's messages; return the step after the last one."""
        for reply in replies:
            self._send(reply)
        return self.sent[-1]

    def finish(self, *replies: Reply) -> HandshakeResult:
        """Pass on the server's messages, of which the last one completes the handshake."""
        self.take(*replies[:-1])
        with pytest.raises(StopIteration) as caught:
            self._send(replies[-1])
        startup = caught.value.value
        assert isinstance(startup, HandshakeResult)
        return startup

    def fail(self, *replies: Reply) -> PgWireError:
        """Pass on the server's messages, of which the last one makes the handshake fail: nothing is sent in answer.

        The error must not show the password.
        """
        self.take(*replies[:-1])
        with pytest.raises(PgWireError) as caught:
            self._send(replies[-1])
        assert caught.value.outcome is Outcome.NOT_SENT
        assert PASSWORD not in repr(caught.value) + str(caught.value)
        return caught.value


def decode(step: Step, password_as: type[m.AuthenticationResponse] = m.PasswordMessage) -> Any:
    """Decode the single tagged message that a step sends."""
    assert isinstance(step, bytes)
    assert int.from_bytes(step[1:5]) == len(step) - 1
    return m.decode_frontend(step[0], step[5:], password_as)


def scram_server(iterations: int = 7, **options: Any) -> ScramServer:
    return ScramServer(PASSWORD.encode(), b"0123456789abcdef", iterations, b"server-nonce", **options)


def play_scram(login: Login, server: ScramServer, stop: str = "") -> m.BackendMessage:
    """Play the exchange and return the AuthenticationSASLFinal, not yet taken, or the message of the step `stop`."""
    initial = decode(login.take(m.AuthenticationSASL(server.mechanisms)), m.SASLInitialResponse)
    server_first = m.AuthenticationSASLContinue(server.first(initial.response, initial.mechanism))
    if stop == "challenge":
        return server_first
    derive = login.take(server_first)
    assert derive == DeriveKey(server.password, server.salt, server.iterations)
    step = login.take(salted_password(server.password, server.salt, server.iterations))
    return m.AuthenticationSASLFinal(server.final(decode(step, m.SASLResponse).data))
