"""The server side of SCRAM-SHA-256 and -PLUS, independent of the client's code, so that each tests the other."""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from hashlib import pbkdf2_hmac, sha256
from hmac import digest


class ProofError(Exception):
    """The client broke the exchange, or does not know the password."""


@dataclass(slots=True)
class ScramServer:
    """One exchange: `first` answers the client's first message, `final` its last. `nonce` is the server's half.

    `binding` is the hash of its certificate; if given, -PLUS is offered too. `first_extensions` and `final_extensions`
    are appended unchanged, such as b",x=1".
    """

    password: bytes
    salt: bytes
    iterations: int
    nonce: bytes
    first_extensions: bytes = b""
    final_extensions: bytes = b""
    binding: bytes | None = None
    gs2_header: bytes = field(init=False, default=b"")
    _client_first_bare: bytes = field(init=False, default=b"")
    _server_first: bytes = field(init=False, default=b"")

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """The mechanisms it offers, in PostgreSQL's order."""
        return ("SCRAM-SHA-256",) if self.binding is None else ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256")

    def first(self, client_first: bytes, mechanism: str = "SCRAM-SHA-256") -> bytes:
        """The server-first-message. Raises ProofError if header and mechanism do not fit (RFC 5802, 6)."""
        flag, _, rest = client_first.partition(b",,")
        self.gs2_header, self._client_first_bare = flag + b",,", rest
        # "y" says that the client supports binding and saw no -PLUS in the offer: then it was removed in transit.
        plain = (b"n", b"y") if self.binding is None else (b"n",)
        fitting = plain if mechanism == "SCRAM-SHA-256" else (b"p=tls-server-end-point",)
        if mechanism not in self.mechanisms or flag not in fitting or not rest.startswith(b"n=,r="):
            raise ProofError(f"not a client-first-message of {mechanism}: {client_first!r}")
        nonce = self._client_first_bare[5:] + self.nonce
        self._server_first = b"r=%b,s=%b,i=%d" % (nonce, b64encode(self.salt), self.iterations) + self.first_extensions
        return self._server_first

    def final(self, client_final: bytes) -> bytes:
        """The server-final-message for a client-final-message. Raises ProofError if the proof is wrong."""
        without_proof, _, proof = client_final.rpartition(b",p=")
        nonce = self._client_first_bare[5:] + self.nonce
        data = (self.binding or b"") if self.gs2_header.startswith(b"p") else b""
        if without_proof != b"c=" + b64encode(self.gs2_header + data) + b",r=" + nonce:
            raise ProofError(f"not a client-final-message for this exchange: {client_final!r}")
        auth_message = b",".join((self._client_first_bare, self._server_first, without_proof))
        salted = pbkdf2_hmac("sha256", self.password, self.salt, self.iterations)
        # RFC 5802, 3: the server keeps only H(ClientKey), and recovers ClientKey from the proof.
        stored_key = sha256(digest(salted, b"Client Key", "sha256")).digest()
        signature = digest(stored_key, auth_message, "sha256")
        client_key = bytes(octet ^ mask for octet, mask in zip(_proof(proof), signature, strict=True))
        if sha256(client_key).digest() != stored_key:
            raise ProofError("the proof is wrong")
        server_key = digest(salted, b"Server Key", "sha256")
        return b"v=" + b64encode(digest(server_key, auth_message, "sha256")) + self.final_extensions


def _proof(text: bytes) -> bytes:
    try:
        proof = b64decode(text)
    except ValueError:
        proof = b""
    if len(proof) != 32 or b64encode(proof) != text:
        raise ProofError(f"the proof is not base64 of 32 bytes: {text!r}")
    return proof
