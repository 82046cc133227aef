"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, the client's side (RFC 5802, RFC 7677), as pure functions.

The caller chooses the nonce, and decides where the slow hashing runs. In an exchange, each value is made from the one
before:

    client_first(nonce, channel)            -> SASLInitialResponse
    Challenge.parse(server_first, ...)      <- AuthenticationSASLContinue
    salted_password(password, salt, iterations)
    challenge.answer(salted)                -> SASLResponse
    answer.verify(server_final)             <- AuthenticationSASLFinal
"""

from __future__ import annotations

import binascii
import re
from typing import NamedTuple

from ..errors import AuthenticationError, Outcome

MECHANISM = "SCRAM-SHA-256"
MECHANISM_PLUS = "SCRAM-SHA-256-PLUS"

# Our own limits: characters of the combined nonce, and bytes of the salt. PostgreSQL's nonce has 48 characters for both
# halves, and its salt 16 bytes (SCRAM_RAW_NONCE_LEN and SCRAM_DEFAULT_SALT_LEN in common/scram-common.h).
MAX_NONCE = 1024
MAX_SALT = 1024
_DIGEST_SIZE = 32  # bytes, of SHA-256

# RFC 5802, 7: attr-val.
_ATTRIBUTE = r"[A-Za-z]=[^\0,]+"


class Channel(NamedTuple):
    """What the client sends about channel binding (RFC 5802, 6): the gs2-header, and the data that follow it."""

    gs2_header: bytes
    data: bytes = b""

    def __repr__(self) -> str:
        return f"Channel({self.gs2_header!r}, ...)"


# RFC 5802, 7. "n": the client does not support channel binding. "y": it does, but thinks that the server does not.
# Neither header names another user.
UNBOUND = Channel(b"n,,")
NOT_OFFERED = Channel(b"y,,")


def bound_to(certificate_hash: bytes) -> Channel:
    """The Channel bound to the server's certificate, by RFC 5929's tls-server-end-point."""
    return Channel(b"p=tls-server-end-point,,", certificate_hash)


class Challenge(NamedTuple):
    """The checked contents of the server's first message. `salt` and `iterations` are for `salted_password`."""

    salt: bytes
    iterations: int
    nonce: str
    messages: bytes  # client-first-message-bare, a comma and server-first-message, as they were on the wire

    @classmethod
    def parse(cls, server_first: bytes, nonce: str, min_iterations: int, max_iterations: int) -> Challenge:
        """Parse the message that answers `client_first`. Raises AuthenticationError if it breaks a rule or a limit."""
        attributes = _attributes(server_first, "server-first-message", "rsi")
        combined, iterations = attributes["r"], attributes["i"]
        if len(combined) > MAX_NONCE or not all("!" <= char <= "~" for char in combined):
            raise _refusal(f"the nonce is not 1 to {MAX_NONCE} printable characters")
        if not combined.startswith(nonce) or combined == nonce:
            raise _refusal("the nonce does not extend the client's")
        salt = _base64(attributes["s"], "salt", MAX_SALT)
        if not (iterations.isascii() and iterations.isdigit()) or iterations.startswith("0"):
            raise _refusal("the iteration count is not a positive decimal number")
        # Count the digits first: int() raises its own ValueError for very long numbers.
        if len(iterations) > len(str(max_iterations)) or int(iterations) > max_iterations:
            raise _refusal(f"the server asks for more than {max_iterations} iterations (scram_max_iterations)")
        if int(iterations) < min_iterations:
            raise _refusal(f"the server asks for fewer than {min_iterations} iterations (scram_min_iterations)")
        return cls(salt, int(iterations), combined, _client_first_bare(nonce) + b"," + server_first)

    def answer(self, salted: bytes, channel: Channel = UNBOUND) -> Answer:
        """Return the client's final message and the signature expected from the server.

        `salted` is the result of `salted_password`. `channel` must be the one passed to `client_first`: the server
        compares them.
        """
        binding = binascii.b2a_base64(channel.gs2_header + channel.data, newline=False)
        without_proof = b"c=" + binding + b",r=" + self.nonce.encode()
        auth_message = self.messages + b"," + without_proof
        client_key = _hmac(salted, b"Client Key")
        signature = _hmac(_sha256(client_key), auth_message)
        proof = bytes(key ^ mask for key, mask in zip(client_key, signature, strict=True))
        client_final = without_proof + b",p=" + binascii.b2a_base64(proof, newline=False)
        return Answer(client_final, _hmac(_hmac(salted, b"Server Key"), auth_message))


class Answer(NamedTuple):
    """The client's final message, and the signature that only a server that knows the password can return."""

    client_final: bytes
    server_signature: bytes

    def __repr__(self) -> str:
        return "Answer(...)"

    def verify(self, server_final: bytes) -> None:
        """Raise AuthenticationError unless the message proves that the server knows the password too."""
        if server_final.startswith(b"e="):
            raise _refusal(f"the server says {server_final[2:102].decode('utf-8', 'replace')!r}")
        attributes = _attributes(server_final, "server-final-message", "v")
        signature = _base64(attributes["v"], "server signature", _DIGEST_SIZE)
        from hmac import compare_digest

        if not compare_digest(signature, self.server_signature):
            raise _refusal("the server's signature is wrong: it does not know the password, and may be an impostor")


def client_first(nonce: str, channel: Channel = UNBOUND) -> bytes:
    """Return the client's first message. `nonce` is printable ASCII without a comma, and never used before."""
    return channel.gs2_header + _client_first_bare(nonce)


def salted_password(password: bytes, salt: bytes, iterations: int) -> bytes:
    """Return RFC 5802's SaltedPassword, 32 bytes, of a password prepared by `saslprep`. This is the only slow step."""
    from hashlib import pbkdf2_hmac

    return pbkdf2_hmac("sha256", password, salt, iterations)


def _client_first_bare(nonce: str) -> bytes:
    # The user name stays empty, as in libpq: PostgreSQL uses the one from the StartupMessage.
    return b"n=,r=" + nonce.encode()


def _attributes(message: bytes, name: str, due: str) -> dict[str, str]:
    """Return the attributes of a message by letter: those in `due`, in order, then extensions (RFC 5802, 5.1 and 7).

    Raises AuthenticationError for a malformed message or a mandatory extension.
    """
    try:
        fields = message.decode().split(",")
    except UnicodeDecodeError:
        fields = []
    letters = "".join(text[:1] for text in fields)
    if "m" in letters:
        raise _refusal(f"the {name} has a mandatory extension (m=), and none is known")
    well_formed = all(re.fullmatch(_ATTRIBUTE, field) for field in fields) and len(set(letters)) == len(letters)
    if not well_formed or not letters.startswith(due):
        raise _refusal(f"the {name} is malformed: {', '.join(due)} are due, in this order and once each")
    return {text[0]: text[2:] for text in fields}


def _base64(text: str, name: str, limit: int) -> bytes:
    """Decode canonical base64 (RFC 4648, 3.5). Text that could exceed `limit` bytes is refused without decoding."""
    try:
        octets = binascii.a2b_base64(text) if len(text) <= (limit + 2) // 3 * 4 else b""
    except ValueError:
        octets = b""
    if not 1 <= len(octets) <= limit or binascii.b2a_base64(octets, newline=False).decode() != text:
        raise _refusal(f"the {name} is not base64 of 1 to {limit} bytes")
    return octets


def _hmac(key: bytes, message: bytes) -> bytes:
    from hmac import digest

    return digest(key, message, "sha256")


def _sha256(data: bytes) -> bytes:
    from hashlib import sha256  # this module's functions import what they need, because only a login needs it

    return sha256(data).digest()


def _refusal(reason: str) -> AuthenticationError:
    return AuthenticationError(f"{MECHANISM}: {reason}", Outcome.NOT_SENT)
