"""What a server may get out of this client: which ways to log in, what it must prove, and what must protect it."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from ..errors import AuthenticationError, Outcome
from ..frozen import Frozen

if TYPE_CHECKING:
    from .scram import Channel

# libpq's words for `require_auth` (18, "require_auth"); "none" is a server that asks for nothing.
METHODS = ("password", "md5", "gss", "sspi", "scram-sha-256", "oauth", "none")
# Ours, beside them: "password" was asked for by name, so that it may go where others can read it.
IN_CLEAR = "password in clear"
# Ours: PostgreSQL offers two at most.
MAX_MECHANISMS = 100


def methods(text: str) -> frozenset[str]:
    """The methods that a value of `require_auth` allows. ValueError for what libpq refuses."""
    named = text.split(",")
    negations = {name.startswith("!") for name in named}
    found = [name.removeprefix("!") for name in named]
    if len(set(found)) != len(found) or not set(found) <= set(METHODS) or len(negations) != 1:
        raise ValueError
    if True in negations:
        return frozenset(METHODS) - frozenset(found)
    return frozenset([*found, IN_CLEAR] if "password" in found else found)


class Policy(Frozen):
    """The options that decide, and what is known of the connection: settled before the first message of the login."""

    require_auth: frozenset[str] | None  # what `methods` made of it; None: no restriction
    channel_binding: str  # disable, prefer or require
    min_iterations: int
    max_iterations: int
    is_private: bool  # TLS or a Unix socket: nobody on the way reads along
    is_tls: bool
    binding: bytes | None  # the hash of the server's certificate, as tls-server-end-point has it (RFC 5929, 4.1)
    no_binding: str  # why there is none
    needs_certificate: bool  # sslcertmode=require
    versions: tuple[tuple[int, int], tuple[int, int]]  # the oldest protocol that will do, and the one to ask for

    def allow(self, method: str) -> None:
        """AuthenticationError if this way to log in is not allowed. Called before anything secret is made or sent."""
        if self.needs_certificate and not self.is_tls:
            raise refusal("sslcertmode=require, and without TLS the server is shown no certificate")
        allowed = self.require_auth
        if allowed is not None and method not in allowed:
            names = ", ".join(name for name in METHODS if name in allowed)
            asks = f"asks for {method}" if method != "none" else "lets us in without authentication"
            raise refusal(f"the server {asks}, and require_auth allows only {names}")
        if self.channel_binding == "require" and method != "scram-sha-256":
            raise refusal(
                f"channel_binding=require, and a login by {method} binds nothing: SCRAM-SHA-256-PLUS is needed"
            )
        if method == "password" and not self.is_private and (allowed is None or IN_CLEAR not in allowed):
            raise refusal(
                "the server asks for the password in clear, over a connection that others can read: "
                "use TLS (sslmode=require or stricter), or name the risk with require_auth=password"
            )

    def choose(self, mechanisms: Collection[str]) -> tuple[str, Channel]:
        """The SASL mechanism to use of those offered, and how it is bound. AuthenticationError where there is none."""
        from . import scram

        plus = scram.MECHANISM_PLUS in mechanisms
        binding = None if self.channel_binding == "disable" else self.binding
        if plus and not self.is_tls:  # libpq's rule: somebody on the way has taken TLS off
            raise refusal(f"the server offers {scram.MECHANISM_PLUS} over a connection without TLS")
        if len(mechanisms) <= MAX_MECHANISMS:
            if plus and binding is not None:
                return scram.MECHANISM_PLUS, scram.bound_to(binding)
            if self.channel_binding == "require":
                why = self.no_binding if binding is None else f"the server does not offer {scram.MECHANISM_PLUS}"
                raise refusal(f"channel_binding=require cannot be met: {why}")
            if scram.MECHANISM in mechanisms:
                return scram.MECHANISM, scram.UNBOUND if binding is None else scram.NOT_OFFERED
        needed = f"{scram.MECHANISM} is needed, {MAX_MECHANISMS} at most"
        if plus and binding is None:
            why = "channel_binding=disable" if self.channel_binding == "disable" else self.no_binding
            needed += f" ({scram.MECHANISM_PLUS} cannot be used: {why})"
        offer = ", ".join(mechanisms)[:200]
        raise refusal(f"the server offers {len(mechanisms)} SASL mechanisms, {offer!r}: {needed}")

    def check_end(self, is_bound: bool) -> None:
        """AuthenticationError if the login that has ended well is not bound, and has to be."""
        if self.channel_binding == "require" and not is_bound:
            raise refusal("channel_binding=require, and the server has let us in without channel binding")


def refusal(reason: str) -> AuthenticationError:
    return AuthenticationError(reason, Outcome.NOT_SENT)
