"""The policy for a login: which methods a server may ask for, what it must prove, what must protect the password."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import AuthenticationError, Outcome

if TYPE_CHECKING:
    from .scram import Channel

# libpq's names in `require_auth` (libpq 18, "require_auth"). "none" means that the server asks for nothing.
METHODS = ("password", "md5", "gss", "sspi", "scram-sha-256", "oauth", "none")
# Our own addition: `require_auth` names "password", so it may be sent over a connection that others can read.
IN_CLEAR = "password in clear"
# Our own limit: PostgreSQL offers at most two.
MAX_MECHANISMS = 100


def methods(text: str) -> frozenset[str]:
    """Return the methods that a value of `require_auth` allows. Raises ValueError for a value that libpq refuses."""
    named = text.split(",")
    negations = {name.startswith("!") for name in named}
    found = [name.removeprefix("!") for name in named]
    if len(set(found)) != len(found) or not set(found) <= set(METHODS) or len(negations) != 1:
        raise ValueError
    if True in negations:
        return frozenset(METHODS) - frozenset(found)
    return frozenset([*found, IN_CLEAR] if "password" in found else found)


@dataclass(frozen=True)
class Policy:
    """The options that matter for a login, and the properties of the connection. Fixed before the login begins."""

    require_auth: frozenset[str] | None  # the result of `methods`; None: no restriction
    channel_binding: str  # disable, prefer or require
    min_iterations: int
    max_iterations: int
    is_private: bool  # TLS or a Unix socket: no third party can read the traffic
    is_tls: bool
    binding: bytes | None  # the hash of the server's certificate for tls-server-end-point (RFC 5929, 4.1)
    no_binding: str  # why `binding` is None
    needs_certificate: bool  # sslcertmode=require
    versions: tuple[tuple[int, int], tuple[int, int]]  # the oldest protocol version to accept, and the one to request

    def allow(self, method: str) -> None:
        """Raise AuthenticationError if this method is not allowed. Called before any secret is computed or sent."""
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
        """Choose one of the SASL mechanisms offered; return it with its channel binding.

        Raises AuthenticationError if no mechanism is acceptable.
        """
        from . import scram

        plus = scram.MECHANISM_PLUS in mechanisms
        binding = None if self.channel_binding == "disable" else self.binding
        if plus and not self.is_tls:  # libpq's rule: a man in the middle has removed TLS
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
        """Raise AuthenticationError if the login succeeded without the channel binding that is required."""
        if self.channel_binding == "require" and not is_bound:
            raise refusal("channel_binding=require, and the server has let us in without channel binding")


def refusal(reason: str) -> AuthenticationError:
    return AuthenticationError(reason, Outcome.NOT_SENT)
