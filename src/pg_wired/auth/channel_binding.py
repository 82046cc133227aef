"""The tls-server-end-point data that binds a SCRAM exchange to the server's certificate (RFC 5929, 4). No sockets."""

from __future__ import annotations

# RFC 5929, 4.1: if the signature uses one of these hash functions, SHA-256 is used instead.
_WEAK = ("md5", "sha1")
# Signature algorithms without a hash function, by object identifier (RFC 8410, 3).
_HASHLESS = {"1.3.101.112": "Ed25519", "1.3.101.113": "Ed448"}
MISSING = "the package cryptography is not installed: pip install pg-wired[tls]"


def is_readable() -> bool:
    """Whether certificates can be read here. The first call imports `cryptography`, which takes about 60 ms."""
    try:
        from cryptography import x509  # noqa: F401
    except ImportError:
        return False
    return True


def end_point(der: bytes | None) -> tuple[bytes | None, str]:
    """Hash a server's certificate with the hash function of its signature.

    `der` is the result of `SSLSocket.getpeercert(binary_form=True)`. Returns the hash and "", or None and the reason
    why there is no hash.
    """
    if not der:
        return None, "the server showed no certificate"
    if not is_readable():
        return None, MISSING
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        certificate = x509.load_der_x509_certificate(der)
        algorithm = certificate.signature_hash_algorithm
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):  # InvalidVersion derives from Exception alone
        return None, "the signature of the server's certificate is of an unknown kind"
    if algorithm is None:
        kind = _HASHLESS.get(certificate.signature_algorithm_oid.dotted_string, "such")
        return None, f"{kind} certificates have no hash (RFC 5929, 4.1)"
    name = "sha256" if algorithm.name in _WEAK else algorithm.name.replace("-", "_")
    import hashlib  # imported here, because only logins over TLS need it

    if name not in hashlib.algorithms_available:
        return None, f"the server's certificate is signed with {algorithm.name}, which is not available here"
    return hashlib.new(name, der).digest(), ""
