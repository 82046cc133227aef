"""Certificates of every kind, made when needed, and a server that presents one. Does not use pg_wired."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import NameOID

from .postgres import Postgres, Setting, Source

NAME = "localhost"
SETTINGS_FILE = "postgresql.auto.conf"
# RFC 8017, A.2.4: sha256WithRSAEncryption and sha1WithRSAEncryption, in DER.
SHA256_RSA, SHA1_RSA = bytes.fromhex("2a864886f70d01010b"), bytes.fromhex("2a864886f70d010105")
DAY = datetime.timedelta(days=1)


class Pem(NamedTuple):
    """A certificate with its chain, and its key."""

    certificate: str
    key: str

    def files(self) -> dict[str, str]:
        """The files of a server's data directory."""
        return {"server.crt": self.certificate, "server.key": self.key}

    def save(self, folder: Path, name: str) -> tuple[str, str]:
        """Write both files, the key readable only by its owner; return their paths."""
        paths = folder / f"{name}.crt", folder / f"{name}.key"
        for path, text in zip(paths, self, strict=True):
            path.touch(0o600)
            path.write_text(text)
        return str(paths[0]), str(paths[1])


def issued(authority: trustme.CA, *names: str, common_name: str | None = None, expired: bool = False) -> Pem:
    """A certificate for these names or addresses."""
    now = datetime.datetime.now(datetime.UTC)
    begin, end = (now - 2 * DAY, now - DAY) if expired else (None, None)
    made = authority.issue_cert(*names, common_name=common_name, not_before=begin, not_after=end)
    chain = b"".join(blob.bytes() for blob in made.cert_chain_pems)
    return Pem(chain.decode(), made.private_key_pem.bytes().decode())


def root(authority: trustme.CA) -> str:
    """The root certificate, for clients that trust this authority."""
    return authority.cert_pem.bytes().decode()


def revocations(authority: trustme.CA, *revoked: Pem) -> str:
    """The authority's list of revoked certificates."""
    key = serialization.load_pem_private_key(authority.private_key_pem.bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    issuer = x509.load_pem_x509_certificate(authority.cert_pem.bytes()).subject
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateRevocationListBuilder(issuer, now - DAY, now + DAY)
    for pem in revoked:
        number = x509.load_pem_x509_certificate(pem.certificate.encode()).serial_number
        entry = x509.RevokedCertificateBuilder(number, now - DAY).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def encrypted_key(pem: Pem, password: str) -> Pem:
    """The same certificate with an encrypted key."""
    key = serialization.load_pem_private_key(pem.key.encode(), None)
    how = serialization.BestAvailableEncryption(password.encode())
    text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)
    return Pem(pem.certificate, text.decode())


# For each signature: the kind of key, the hash, and whether RSA uses PSS padding.
SIGNATURES: dict[str, tuple[str, hashes.HashAlgorithm | None, bool]] = {
    "RSA-SHA1": ("rsa", hashes.SHA1(), False),
    "RSA-SHA256": ("rsa", hashes.SHA256(), False),
    "RSA-SHA384": ("rsa", hashes.SHA384(), False),
    "RSA-SHA512": ("rsa", hashes.SHA512(), False),
    "PSS-SHA384": ("rsa", hashes.SHA384(), True),
    "ECDSA-SHA256": ("ec", hashes.SHA256(), False),
    "ECDSA-SHA512": ("ec", hashes.SHA512(), False),
    "Ed25519": ("ed25519", None, False),
}


def self_signed(signature: str) -> Pem:
    """A self-signed certificate for localhost with this kind of signature."""
    kind, digest, is_pss = SIGNATURES[signature]
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
    if kind == "rsa":
        key = rsa.generate_private_key(65537, 2048)
    else:
        key = ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - DAY, now + DAY)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
    pss = padding.PSS(padding.MGF1(digest), padding.PSS.DIGEST_LENGTH) if is_pss and digest else None
    is_old = isinstance(digest, hashes.SHA1)
    made = builder.sign(key, hashes.SHA256() if is_old else digest, rsa_padding=pss)  # type: ignore[arg-type]
    if is_old:
        assert isinstance(key, rsa.RSAPrivateKey)
        made = signed_with_sha1(made, key)
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    return Pem(made.public_bytes(serialization.Encoding.PEM).decode(), text)


def signed_with_sha1(made: x509.Certificate, key: rsa.RSAPrivateKey) -> x509.Certificate:
    """The same certificate with a SHA-1 signature, which `sign` refuses to make. Both algorithm identifiers have the
    same length, and RSA's signature is at the end of the certificate."""
    body = made.tbs_certificate_bytes.replace(SHA256_RSA, SHA1_RSA)
    signature = key.sign(body, padding.PKCS1v15(), hashes.SHA1())
    whole = made.public_bytes(serialization.Encoding.DER).replace(SHA256_RSA, SHA1_RSA)
    return x509.load_der_x509_certificate(whole[: -len(signature)] + signature)


@contextmanager
def launch(
    pem: Pem,
    *,
    source: Source = "celerp",
    files: Mapping[str, str] | None = None,
    **settings: Setting,
) -> Iterator[Postgres]:
    """Start a PostgreSQL with this certificate. `ssl` is set in its SETTINGS_FILE, where it can be changed."""
    given = {**pem.files(), SETTINGS_FILE: "ssl = on\n", **(files or {})}
    with Postgres.launch(source=source, files=given, **settings) as server:
        yield server
