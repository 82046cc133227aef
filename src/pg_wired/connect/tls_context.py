"""From a ConnConfig to an `ssl.SSLContext`, with libpq's rules for files (fe-secure-openssl.c, initialize_SSL).

It reads files and opens no socket. Where libpq passes over a file that is not there, so does this, unless a comment
says why not.
"""

from __future__ import annotations

import os
import ssl
import stat
from contextlib import ExitStack

from ..config.config import ConnConfig, home_directory
from ..config.tls import TlsConfig, TlsMode, is_pem
from ..errors import ConfigError, IoError, Outcome
from .tls_handshake import ALPN

FOLDER = ".postgresql"
SYSTEM = "system"
# RFC 8996 has TLS 1.0 and 1.1 deprecated. libpq takes them where it is told to; here such a minimum means 1.2.
_VERSIONS = {
    "TLSv1": ssl.TLSVersion.TLSv1_2,
    "TLSv1.1": ssl.TLSVersion.TLSv1_2,
    "TLSv1.2": ssl.TLSVersion.TLSv1_2,
    "TLSv1.3": ssl.TLSVersion.TLSv1_3,
}
_OLD = ("TLSv1", "TLSv1.1")
# PEM text becomes a file here: no path to be shown.
_IN_MEMORY = "/proc/self/fd/"


def make_context(config: ConnConfig) -> ssl.SSLContext:
    """The context for every connection of this configuration: `tls` itself where it is one, else made from the options.

    Raises ConfigError, which names the option and the file that is wrong, and IoError where PEM text finds no room.
    """
    if isinstance(config.tls, ssl.SSLContext):
        return config.tls
    return _Maker(config).make()


class _Maker:
    """Makes one context. TlsConfig stands in the place of the options where it says something."""

    def __init__(self, config: ConnConfig) -> None:
        self.config = config
        self.tls = config.tls if isinstance(config.tls, TlsConfig) else TlsConfig()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.options |= ssl.OP_NO_RENEGOTIATION  # as libpq since 14 (fe-secure-openssl.c)

    def make(self) -> ssl.SSLContext:
        context = self.context
        context.check_hostname = False  # before verify_mode, which may not be CERT_NONE beside it
        context.verify_mode = ssl.CERT_NONE
        self._set_versions()
        if self._load_roots():
            context.verify_mode = ssl.CERT_REQUIRED
            self._load_crl()
        elif self.tls.crl:
            raise ConfigError("TlsConfig: a crl needs the roots of the certificates that it revokes: pass roots=")
        context.check_hostname = self.config.sslmode is TlsMode.VERIFY_FULL
        if self.config.sslcertmode != "disable":
            self._load_certificate()
        else:
            self._check_named()
        context.set_alpn_protocols([ALPN])
        return context

    def _set_versions(self) -> None:
        low = self.tls.minimum_version or self.config.ssl_min_protocol_version or "TLSv1.2"
        high = self.tls.maximum_version or self.config.ssl_max_protocol_version
        for name, version in (("minimum", low), ("maximum", high)):
            if version is not None and version not in _VERSIONS:
                raise ConfigError(
                    f"the {name} TLS version {version!r} is not known: write one of {', '.join(_VERSIONS)}"
                )
        self.context.minimum_version = _VERSIONS[low]
        if high is None:
            return
        if high in _OLD or _VERSIONS[high] < _VERSIONS[low]:
            raise ConfigError(f"no TLS version is left between {low} and {high}; TLSv1.2 and later are supported")
        self.context.maximum_version = _VERSIONS[high]

    # ---- what the server's certificate is checked against

    def _load_roots(self) -> bool:
        """Whether there is something to check it against: then it is checked, whatever the mode, as libpq does."""
        roots = self.tls.roots or self.config.sslrootcert
        if roots == SYSTEM:
            if self.config.sslmode is not TlsMode.VERIFY_FULL:
                # Anybody can have a certificate for a name of his own from one of those.
                raise ConfigError(
                    "the system's roots need sslmode=verify-full: without a name to check they prove nothing"
                )
            self.context.set_default_verify_paths()
            return True
        with ExitStack() as stack:
            path = _place(stack, roots, "root.crt")
            if os.path.exists(path):
                self._load_file("root certificates", path)
                return True
        if self.tls.roots or self.config.sslmode.is_verified:
            raise ConfigError(
                f"root certificate file {path!r} does not exist: provide it, use the system's roots with "
                "sslrootcert=system, or do without verification (sslmode=require)"
            )
        return False

    def _load_crl(self) -> None:
        """Revoked certificates: every certificate of the chain is then checked for a CRL of its issuer."""
        crl, folder = self.tls.crl or self.config.sslcrl, self.config.sslcrldir
        if crl or not folder:
            with ExitStack() as stack:
                path = _place(stack, crl, "root.crl")
                if not crl and not os.path.exists(path):
                    return
                self._load_file("certificate revocation list", path)  # libpq goes on without one that is lost
        if folder:
            if not os.path.isdir(folder):
                raise ConfigError(f"the folder of certificate revocation lists {folder!r} does not exist (sslcrldir)")
            self.context.load_verify_locations(capath=folder)
        self.context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN

    def _load_file(self, what: str, path: str) -> None:
        try:
            self.context.load_verify_locations(cafile=path)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(f"could not read the {what} from {_shown(path)}: {_reason(error)}") from error

    # ---- what the client shows

    def _load_certificate(self) -> None:
        """The client's certificate and key, where there is one."""
        certificate = self.tls.certificate or self.config.sslcert
        key = self.tls.key if self.tls.certificate else self.config.sslkey
        with ExitStack() as stack:
            path = _place(stack, certificate, "postgresql.crt")
            if not os.path.exists(path):
                self._check_can_do_without(path)
                return
            is_one = self.tls.certificate is not None and key is None  # both are in there
            _check_may_be_path(key)
            key_path = path if is_one else _place(stack, key, "postgresql.key")
            shown = "" if self.tls.certificate else f" {_shown(key_path)}"  # what TlsConfig has may be no path
            if is_one:
                shown = " (no key was given, so it is to be with the certificate)"
            _check_key(key_path, shown)
            self._load_pair(path, key_path, shown)

    def _check_named(self) -> None:
        """What TlsConfig names must exist, also where sslcertmode=disable has no use for it."""
        for name, value in (("certificate", self.tls.certificate), ("key", self.tls.key)):
            if value is not None and not is_pem(value) and not os.path.exists(value):
                raise ConfigError(f"TlsConfig: the file that {name} names does not exist")

    def _check_can_do_without(self, path: str) -> None:
        if self.tls.certificate or self.config.sslcertmode == "require":
            raise ConfigError(f"the client certificate {path!r} does not exist (sslcert)")

    def _load_pair(self, certificate: str, key: str, shown: str) -> None:
        secret = self.tls.key_password or self.config.sslpassword or ""
        try:
            # Without a password given OpenSSL would ask on the terminal.
            self.context.load_cert_chain(certificate, key, password=lambda: secret)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"could not read the client certificate {_shown(certificate)} with its key{shown}: {_reason(error)}; "
                "do they belong together, and is sslpassword right?"
            ) from error


def _place(stack: ExitStack, value: str | bytes | None, default: str) -> str:
    """The path of what an option names or holds; without one, of the default in ~/.postgresql.

    OpenSSL's functions take CRLs and keys from files alone, so text becomes one that only we can read, until the stack
    unwinds.
    """
    if not value:
        return os.path.join(home_directory(os.environ) or "~", FOLDER, default)
    if not is_pem(value):
        return os.fsdecode(value)
    try:
        fd = os.memfd_create("pem", os.MFD_CLOEXEC)
        stack.callback(os.close, fd)
        os.fchmod(fd, 0o600)
        os.write(fd, value.encode() if isinstance(value, str) else value)
    except OSError as error:  # too many files, or no memory
        raise IoError(f"no file in memory for PEM text: {error.strerror}", Outcome.NOT_SENT) from error
    return f"{_IN_MEMORY}{fd}"


def _shown(path: str) -> str:
    """What messages say of it."""
    return "the PEM text given" if path.startswith(_IN_MEMORY) else repr(path)


def _check_may_be_path(key: str | bytes | None) -> None:
    """Refuse what is rather a key itself, and show nothing; 255 is NAME_MAX, the longest name that a file can have."""
    if isinstance(key, str) and not is_pem(key) and ("\n" in key or len(key) > 255) and not os.path.exists(key):
        raise ConfigError("the key is neither PEM text (-----BEGIN ...) nor the path of a file")


def _check_key(path: str, shown: str) -> None:
    """libpq's rule for the permissions of a private key (initialize_SSL). `shown` is what messages say of the path."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise ConfigError(f"there is a client certificate, but not its key{shown}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"the private key{shown} is not a regular file")
    forbidden = stat.S_IRWXO | (stat.S_IWGRP | stat.S_IXGRP if status.st_uid == 0 else stat.S_IRWXG)
    if status.st_mode & forbidden:
        raise ConfigError(f"the private key{shown} is open to others: chmod 0600 it (0640 will do where root owns it)")


def _reason(error: OSError | ValueError) -> str:
    """OpenSSL's word for it, or the operating system's; neither has anything of a file or a password in it."""
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None)
    return str(reason or "it is not what PEM is")
