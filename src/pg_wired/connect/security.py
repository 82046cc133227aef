"""How connections of one ConnConfig are secured: one TLS context, one policy, one cache of salted passwords."""

from __future__ import annotations

import asyncio
import socket
import ssl

from ..auth.policy import Policy
from ..config.config import ConnConfig
from ..config.hosts import HostConfig
from ..config.tls import TlsConfig, TlsMode
from ..errors import ConfigError
from ..loop.runtime import Runtime
from .credentials import SaltedPasswords
from .tls_handshake import TlsSettings


class Security:
    """Shared by all attempts to connect. Raises ConfigError where options do not go together."""

    def __init__(self, config: ConnConfig, runtime: Runtime) -> None:
        self.config = config
        self._runtime = runtime
        self.salted = SaltedPasswords()
        self._tls = config.tls if isinstance(config.tls, TlsConfig) else None
        self._context: ssl.SSLContext | None = None
        self._making = asyncio.Lock()
        self._is_direct = config.sslnegotiation == "direct" or bool(self._tls and self._tls.direct)
        if self._is_direct and not config.sslmode.is_demanded:
            raise ConfigError("direct TLS needs sslmode=require or stricter: nothing leads back to a plain connection")

    async def prepare(self) -> None:
        """Raise ConfigError for a `tls` that cannot be used, before anything is tried."""
        if self._tls is not None:
            await self._made_context()
        elif isinstance(self.config.tls, ssl.SSLContext):
            _check_verifies(self.config.tls, self.config.sslmode)

    async def _made_context(self) -> ssl.SSLContext:
        """The TLS context, made once, in a thread: 60 ms with the system's roots, less than 1 with a file."""

        def make() -> ssl.SSLContext:
            from ..auth import channel_binding
            from .tls_context import make_context

            if self.config.channel_binding != "disable":
                channel_binding.is_readable()  # its import is slow too
            return make_context(self.config)

        async with self._making:
            if self._context is None:
                self._context = await self._runtime.in_thread(make)
        return self._context

    async def tls_settings(self, host: HostConfig) -> TlsSettings:
        """How TLS is done with this host. Raises ConfigError where a file or a name is missing."""
        config = self.config
        context = await self._made_context()
        name = (self._tls and self._tls.server_hostname) or host.host or None
        is_checked = _is_name_checked(config)
        if is_checked and name is None:
            raise ConfigError("the name of the server is needed to verify it: pass host= beside hostaddr=")
        if is_checked and not config.sslsni:
            raise ConfigError("sslsni=0 does not go with verify-full: Python's ssl asks for the name that it verifies")
        if name is not None and not _can_be_asked_for(name):
            if is_checked:
                raise ConfigError(f"{name!r} cannot be the name of a server with TLS")
            name = None
        is_asked_for = config.sslsni and name is not None and not _is_numeric(name)
        return TlsSettings(context, name if is_checked or is_asked_for else None, self._is_direct)

    def policy(self, sock: socket.socket) -> Policy:
        """The policy for the server of this socket."""
        config = self.config
        is_tls = isinstance(sock, ssl.SSLSocket)
        binding, no_binding = None, "the connection has no TLS"
        if isinstance(sock, ssl.SSLSocket):
            no_binding = "channel_binding=disable"
            if config.channel_binding != "disable":
                from ..auth import channel_binding

                binding, no_binding = channel_binding.end_point(sock.getpeercert(binary_form=True))
        is_private = is_tls or sock.family == socket.AF_UNIX
        return config.policy(is_private=is_private, is_tls=is_tls, binding=binding, no_binding=no_binding)


def _is_name_checked(config: ConnConfig) -> bool:
    """Whether the certificate must be for the host that was asked for; a ready-made context decides that itself."""
    if isinstance(config.tls, ssl.SSLContext):
        return config.tls.check_hostname
    return config.sslmode is TlsMode.VERIFY_FULL


def _is_numeric(name: str) -> bool:
    """libpq's rule for what is an address, and no name for SNI (RFC 6066, 3): short forms as "127.1" too."""
    return ":" in name or not name.strip("0123456789.")


def _check_verifies(context: ssl.SSLContext, mode: TlsMode) -> None:
    """ConfigError where a ready-made context does less than the mode promises."""
    if mode.is_verified and context.verify_mode is ssl.CERT_NONE:
        raise ConfigError(f"sslmode={mode.value}, and the SSLContext verifies nothing: set its verify_mode")
    if mode is TlsMode.VERIFY_FULL and not context.check_hostname:
        raise ConfigError("sslmode=verify-full, and the SSLContext checks no name: set its check_hostname")


def _can_be_asked_for(name: str) -> bool:
    """Whether `ssl` takes it as a `server_hostname`: it encodes it for SNI, and refuses a leading dot."""
    try:
        return not name.encode("idna").startswith(b".")
    except UnicodeError:
        return False
