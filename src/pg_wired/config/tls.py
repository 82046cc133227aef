"""The TLS settings of a connection, in libpq's terms. It opens no sockets and reads no files."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from os import PathLike, fspath
from typing import ClassVar, TypeAlias

from ..auth.hidden import HidesSecrets
from ..errors import ConfigError

Text: TypeAlias = "str | bytes | PathLike[str] | None"


class TlsMode(Enum):
    """libpq's `sslmode`: whether TLS is tried or required, and how the server's certificate is checked.

    Each member's value is libpq's word: `TlsMode("verify-full")` is `TlsMode.VERIFY_FULL`.
    """

    DISABLE = "disable"
    ALLOW = "allow"
    PREFER = "prefer"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"

    @property
    def is_demanded(self) -> bool:
        """Whether TLS is required, so that nothing goes out in clear: in `require`, `verify-ca` and `verify-full`."""
        return self in (TlsMode.REQUIRE, TlsMode.VERIFY_CA, TlsMode.VERIFY_FULL)

    @property
    def is_verified(self) -> bool:
        """Whether the server's certificate must be verified: in `verify-ca` and `verify-full`."""
        return self in (TlsMode.VERIFY_CA, TlsMode.VERIFY_FULL)


@dataclass(frozen=True, repr=False, init=False)
class TlsConfig(HidesSecrets):
    """TLS settings as objects, in place of the `ssl...` options. Pass it as `tls=`.

    A setting that is given replaces the option. `sslmode` still decides whether TLS is used and what is checked; its
    default is verify-full if there are `roots`, else require.

    `roots`, `certificate`, `key` and `crl` are each a path, or the PEM text itself (str or bytes). `roots="system"`
    means the operating system's certificates, and needs verify-full. `key_password` decrypts the key. The versions are
    "TLSv1.2" or "TLSv1.3". `direct=True` begins with TLS at once, as `sslnegotiation=direct` does. `server_hostname` is
    the name to ask for and to verify, in place of `host`.

    Raises ConfigError for an empty path or PEM text and for a key without a certificate, and TypeError for a value of
    another type. Files are read when connecting. Unlike the files of the options, those named here must exist.
    """

    hidden: ClassVar[frozenset[str]] = frozenset({"certificate", "key", "key_password"})  # PEM text may contain a key
    roots: str | bytes | None
    certificate: str | bytes | None
    key: str | bytes | None
    key_password: str | None
    crl: str | bytes | None
    minimum_version: str | None
    maximum_version: str | None
    direct: bool
    server_hostname: str | None

    def __init__(
        self,
        *,
        roots: Text = None,
        certificate: Text = None,
        key: Text = None,
        key_password: str | None = None,
        crl: Text = None,
        minimum_version: str | None = None,
        maximum_version: str | None = None,
        direct: bool = False,
        server_hostname: str | None = None,
    ) -> None:
        if key is not None and certificate is None:
            raise ConfigError("TlsConfig: a key needs its certificate: pass certificate=")
        files = {"roots": roots, "certificate": certificate, "key": key, "crl": crl}
        self.__dict__.update(
            {name: _path_or_pem(name, value) for name, value in files.items()},
            key_password=key_password,
            minimum_version=minimum_version,
            maximum_version=maximum_version,
            direct=direct,
            server_hostname=server_hostname,
        )


def is_pem(value: str | bytes) -> bool:
    """Whether the value is PEM text, not the path of a file."""
    return isinstance(value, bytes) or "-----BEGIN " in value


def _path_or_pem(name: str, value: Text) -> str | bytes | None:
    if isinstance(value, str | bytes) and not value:
        raise ConfigError(f"TlsConfig: {name} is empty: pass a path or PEM text, or leave it out")
    if value is None or isinstance(value, str | bytes):
        return value
    try:
        return fspath(value)
    except TypeError:
        raise TypeError(f"TlsConfig: {name} is {type(value).__name__}: pass a path, or PEM as str or bytes") from None
