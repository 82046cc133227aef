"""The hash that binds a login to a certificate (RFC 5929), and the reason given if there is none."""

from __future__ import annotations

import hashlib
import ssl
import sys

import pytest

from pg_wired.auth.channel_binding import MISSING, end_point
from rig.certificates import SIGNATURES, self_signed

HASHES = {
    "RSA-SHA1": "sha256",  # RFC 5929, 4.1: SHA-256 replaces SHA-1
    "RSA-SHA256": "sha256",
    "RSA-SHA384": "sha384",
    "RSA-SHA512": "sha512",
    "PSS-SHA384": "sha384",
    "ECDSA-SHA256": "sha256",
    "ECDSA-SHA512": "sha512",
}


def der(signature: str) -> bytes:
    return ssl.PEM_cert_to_DER_cert(self_signed(signature).certificate)


@pytest.mark.parametrize("signature", SIGNATURES)
def test_the_certificate_is_hashed_with_the_hash_of_its_signature(signature: str) -> None:
    certificate = der(signature)
    if signature in HASHES:
        assert end_point(certificate) == (hashlib.new(HASHES[signature], certificate).digest(), "")
    else:
        assert end_point(certificate) == (None, "Ed25519 certificates have no hash (RFC 5929, 4.1)")


def test_an_unreadable_certificate_gives_no_binding() -> None:
    for certificate in (b"", None):
        assert end_point(certificate) == (None, "the server showed no certificate")
    whole = der("ECDSA-SHA256")
    for broken in (whole[:50], b"nonsense", whole.replace(bytes.fromhex("2a8648ce3d040302"), bytes(8))):
        binding, why = end_point(broken)
        assert binding is None and "unknown kind" in why


@pytest.mark.parametrize("version", [1, 4, 9])
def test_an_unknown_x509_version_gives_no_binding(version: int) -> None:
    """RFC 5280, 4.1: [0] EXPLICIT INTEGER, and 2 is v3."""
    whole = der("ECDSA-SHA256")
    binding, why = end_point(
        whole.replace(bytes.fromhex("a003020102"), bytes.fromhex("a0030201") + bytes([version]), 1)
    )
    assert binding is None and "unknown kind" in why


def test_without_the_cryptography_package_there_is_no_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert end_point(b"some") == (None, MISSING)
    assert "pip install pg-wired[tls]" in MISSING
