"""The terms on which all connections of one ConnConfig are made: one TLS context, one policy, one cache of keys."""

from __future__ import annotations

import socket
import ssl

from . import certificate
from .conninfo import ConnConfig
from .encrypt import Security
from .error import ConfigError
from .hosts import HostConfig
from .policy import Policy
from .scram import SaltedPasswords
from .tls import TlsConfig
from .tls_context import is_name_checked, make_context


class Terms:
    """Nothing in here belongs to one attempt. Raises ConfigError where `tls` cannot be used."""

    def __init__(self, config: ConnConfig) -> None:
        self.config = config
        self.salted = SaltedPasswords()
        self._tls = config.tls if isinstance(config.tls, TlsConfig) else None
        self._context: ssl.SSLContext | None = None
        if self._tls is not None:  # the caller's own words: what is wrong with them is said at once
            self._context = make_context(config)

    def security(self, host: HostConfig) -> Security:
        """How TLS is done with this host. Raises ConfigError where a file or a name is missing."""
        config, tls = self.config, self._tls
        if self._context is None:
            self._context = make_context(config)
        name = (tls and tls.server_hostname) or host.host or None
        is_checked = is_name_checked(config)
        if is_checked and name is None:
            raise ConfigError("the name of the server is needed to verify it: pass host= beside hostaddr=")
        if is_checked and not config.sslsni:
            raise ConfigError("sslsni=0 does not go with verify-full: Python's ssl asks for the name that it verifies")
        is_direct = config.sslnegotiation == "direct" or bool(tls and tls.direct)
        if is_direct and not config.sslmode.is_demanded:
            raise ConfigError(
                "direct TLS needs sslmode=require or stricter: there is no way back to a plain connection"
            )
        return Security(self._context, name if is_checked or config.sslsni else None, is_direct)

    def policy(self, sock: socket.socket) -> Policy:
        """What this socket's server may get out of us."""
        config = self.config
        is_tls = isinstance(sock, ssl.SSLSocket)
        binding, no_binding = None, "the connection has no TLS"
        if isinstance(sock, ssl.SSLSocket):
            no_binding = "channel_binding=disable"
            if config.channel_binding != "disable":
                binding, no_binding = certificate.end_point(sock.getpeercert(binary_form=True))
        is_private = is_tls or sock.family == socket.AF_UNIX
        return config.policy(is_private=is_private, is_tls=is_tls, binding=binding, no_binding=no_binding)
