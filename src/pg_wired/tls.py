"""TLS as libpq's words have it. It opens no socket."""

from __future__ import annotations

from enum import Enum


class TlsMode(Enum):
    """libpq's `sslmode`: whether TLS is tried, demanded, and what of the server's certificate is checked."""

    DISABLE = "disable"
    ALLOW = "allow"
    PREFER = "prefer"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"
