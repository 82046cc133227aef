"""SCRAM-SHA-256: the vector of the RFC, exchanges with an independent server, and servers that lie."""

from __future__ import annotations

import dataclasses
import pickle
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_wired.auth.scram import (
    NOT_OFFERED,
    UNBOUND,
    Answer,
    Challenge,
    Channel,
    bound_to,
    client_first,
    salted_password,
)
from pg_wired.connect.credentials import SaltedPasswords
from pg_wired.errors import AuthenticationError, Outcome
from rig.scram_server import ProofError, ScramServer

NONCE = "rOprNGfwEbeRWgbNEkqO"
CAP = 100_000
SALT = b"W22ZaJ0SNY7soEsUEjb6gQ=="
NONCES = st.text([chr(code) for code in range(0x21, 0x7F) if chr(code) != ","], min_size=1, max_size=40)
EXTENSIONS = st.sampled_from([b"", b",x=1", b",A=b=c,z=\xc3\xa9 ="])
SERVERS = st.builds(
    ScramServer,
    password=st.binary(max_size=80),
    salt=st.binary(min_size=1, max_size=80),
    iterations=st.integers(1, 20),
    nonce=NONCES.map(str.encode),
    first_extensions=EXTENSIONS,
    final_extensions=EXTENSIONS,
)


def server_first(
    nonce: bytes = NONCE.encode() + b"server", salt: bytes = SALT, iterations: bytes = b"4096", *more: bytes
) -> bytes:
    return b",".join((b"r=" + nonce, b"s=" + salt, b"i=" + iterations, *more))


def refused(message: bytes) -> str:
    """The reason why the client refuses this server-first-message."""
    with pytest.raises(AuthenticationError) as caught:
        Challenge.parse(message, NONCE, 1, CAP)
    assert caught.value.outcome is Outcome.NOT_SENT
    return str(caught.value)


def test_the_vector_of_rfc_7677_is_reproduced() -> None:
    """Section 3. PostgreSQL clients leave the user name empty; the vector has one, so the test inserts it."""
    first = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    challenge = Challenge.parse(first, NONCE, 4096, 4096)._replace(
        messages=b"n=user,r=" + NONCE.encode() + b"," + first
    )
    answer = challenge.answer(salted_password(b"pencil", challenge.salt, challenge.iterations))
    assert answer.client_final == (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    answer.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")


def test_client_first_leaves_the_user_name_empty() -> None:
    assert client_first("abc") == b"n,,n=,r=abc"


@given(server=SERVERS, nonce=NONCES)
def test_an_exchange_with_an_independent_server_succeeds(server: ScramServer, nonce: str) -> None:
    challenge = Challenge.parse(server.first(client_first(nonce)), nonce, 1, 20)
    assert (challenge.salt, challenge.iterations) == (server.salt, server.iterations)
    answer = challenge.answer(salted_password(server.password, challenge.salt, challenge.iterations))
    answer.verify(server.final(answer.client_final))


HASHES = st.binary(min_size=1, max_size=64)


@given(server=SERVERS, nonce=NONCES, binding=HASHES)
def test_an_exchange_bound_to_the_certificate_succeeds(server: ScramServer, nonce: str, binding: bytes) -> None:
    server = dataclasses.replace(server, binding=binding)
    channel = bound_to(binding)
    assert client_first(nonce, channel).startswith(b"p=tls-server-end-point,,n=,r=")
    challenge = Challenge.parse(server.first(client_first(nonce, channel), "SCRAM-SHA-256-PLUS"), nonce, 1, 20)
    answer = challenge.answer(salted_password(server.password, challenge.salt, challenge.iterations), channel)
    answer.verify(server.final(answer.client_final))


@given(server=SERVERS, nonce=NONCES, ours=HASHES, theirs=HASHES)
def test_the_server_refuses_a_proof_bound_to_another_certificate(
    server: ScramServer, nonce: str, ours: bytes, theirs: bytes
) -> None:
    """A man in the middle of TLS has another certificate, so the proof does not match that of the server."""
    server = dataclasses.replace(server, binding=theirs)
    challenge = Challenge.parse(server.first(client_first(nonce, bound_to(ours)), "SCRAM-SHA-256-PLUS"), nonce, 1, 20)
    answer = challenge.answer(salted_password(server.password, challenge.salt, challenge.iterations), bound_to(ours))
    if ours != theirs:
        with pytest.raises(ProofError):
            server.final(answer.client_final)


@pytest.mark.parametrize(
    ("channel", "binding", "mechanism", "is_taken"),
    [
        (UNBOUND, None, "SCRAM-SHA-256", True),
        (NOT_OFFERED, None, "SCRAM-SHA-256", True),
        (UNBOUND, b"hash", "SCRAM-SHA-256", True),
        (NOT_OFFERED, b"hash", "SCRAM-SHA-256", False),  # -PLUS was removed from the offer
        (bound_to(b"hash"), b"hash", "SCRAM-SHA-256", False),
        (bound_to(b"hash"), b"hash", "SCRAM-SHA-256-PLUS", True),
        (UNBOUND, b"hash", "SCRAM-SHA-256-PLUS", False),
        (bound_to(b"hash"), None, "SCRAM-SHA-256-PLUS", False),
    ],
)
def test_the_server_accepts_exactly_the_matching_channel_flags(
    channel: Channel, binding: bytes | None, mechanism: str, is_taken: bool
) -> None:
    server = ScramServer(b"p", b"salt", 1, b"server", binding=binding)
    try:
        challenge = Challenge.parse(server.first(client_first(NONCE, channel), mechanism), NONCE, 1, CAP)
        answer = challenge.answer(salted_password(b"p", b"salt", 1), channel)
        answer.verify(server.final(answer.client_final))
    except ProofError:
        assert not is_taken
    else:
        assert is_taken


def test_the_repr_of_a_channel_shows_its_header() -> None:
    assert repr(bound_to(b"hash")) == "Channel(b'p=tls-server-end-point,,', ...)"


@given(server=SERVERS, nonce=NONCES, wrong=st.binary(max_size=80))
def test_the_server_refuses_the_proof_of_a_wrong_password(server: ScramServer, nonce: str, wrong: bytes) -> None:
    challenge = Challenge.parse(server.first(client_first(nonce)), nonce, 1, 20)
    answer = challenge.answer(salted_password(wrong, challenge.salt, challenge.iterations))
    if wrong.rstrip(b"\0") != server.password.rstrip(b"\0"):  # HMAC pads a key with zeros
        with pytest.raises(ProofError):
            server.final(answer.client_final)


@given(server=SERVERS, nonce=NONCES, binding=st.none() | HASHES, data=st.data())
def test_one_changed_byte_of_any_message_ends_the_exchange(
    server: ScramServer, nonce: str, binding: bytes | None, data: st.DataObject
) -> None:
    server = dataclasses.replace(server, binding=binding)
    channel = data.draw(st.sampled_from([UNBOUND, NOT_OFFERED])) if binding is None else bound_to(binding)
    victim = data.draw(st.sampled_from(["client-first", "server-first", "client-final", "server-final"]))

    def pass_on(name: str, message: bytes) -> bytes:
        if name != victim:
            return message
        # The bytes after the verifier are not signed (RFC 5802, 7), so they are left unchanged.
        signed = message[: 2 + 44] if name == "server-final" else message
        index = data.draw(st.integers(0, len(signed) - 1))
        octet = data.draw(st.integers(0, 255).filter(lambda octet: octet != message[index]))
        return message[:index] + bytes([octet]) + message[index + 1 :]

    with pytest.raises((AuthenticationError, ProofError)):
        first = pass_on("client-first", client_first(nonce, channel))
        challenge = Challenge.parse(pass_on("server-first", server.first(first, server.mechanisms[0])), nonce, 1, 100)
        answer = challenge.answer(salted_password(server.password, challenge.salt, challenge.iterations), channel)
        answer.verify(pass_on("server-final", server.final(pass_on("client-final", answer.client_final))))


@pytest.mark.parametrize(
    "iterations",
    [b"0", b"-1", b"+1", b"4096x", b" 4096", b"4096 ", b"04096", b"4_096", b"1e3", b"0x10", "٤".encode(), b"1.0"],
)
def test_an_iteration_count_that_is_no_positive_decimal_number_is_refused(iterations: bytes) -> None:
    assert "not a positive decimal number" in refused(server_first(iterations=iterations))


@pytest.mark.parametrize("iterations", [CAP + 1, 999_999, 2**31 - 1, 10**30, "9" * 20_000])
def test_an_iteration_count_above_the_cap_is_refused(iterations: int | str) -> None:
    reason = refused(server_first(iterations=str(iterations).encode()))
    assert reason == "SCRAM-SHA-256: the server asks for more than 100000 iterations (scram_max_iterations)"


@pytest.mark.parametrize(("asked", "least"), [(4095, 4096), (1, 2), (9, 10)])
def test_an_iteration_count_below_the_minimum_is_refused(asked: int, least: int) -> None:
    with pytest.raises(AuthenticationError) as caught:
        Challenge.parse(server_first(iterations=b"%d" % asked), NONCE, least, CAP)
    assert (
        str(caught.value) == f"SCRAM-SHA-256: the server asks for fewer than {least} iterations (scram_min_iterations)"
    )
    assert Challenge.parse(server_first(iterations=b"%d" % least), NONCE, least, CAP).iterations == least


@pytest.mark.parametrize("iterations", [1, CAP])
def test_iteration_counts_up_to_the_cap_are_accepted(iterations: int) -> None:
    assert Challenge.parse(server_first(iterations=b"%d" % iterations), NONCE, 1, CAP).iterations == iterations


@pytest.mark.parametrize(
    ("nonce", "reason"),
    [
        (NONCE.encode(), "does not extend"),
        (NONCE.encode()[:-1], "does not extend"),
        (b"x" + NONCE.encode(), "does not extend"),
        (NONCE.lower().encode() + b"x", "does not extend"),
        (NONCE.encode() + b" x", "printable"),
        (NONCE.encode() + b"\x7f", "printable"),
        (NONCE.encode() + "é".encode(), "printable"),
        (NONCE.encode() + b"\n", "printable"),
        (NONCE.encode() + b"x" * (1024 - len(NONCE) + 1), "1 to 1024 printable"),
        (NONCE.encode() + b"x" * 65_536, "1 to 1024 printable"),
    ],
)
def test_a_nonce_that_is_not_a_printable_extension_of_ours_is_refused(nonce: bytes, reason: str) -> None:
    assert reason in refused(server_first(nonce))


def test_a_nonce_of_1024_characters_is_accepted() -> None:
    nonce = NONCE + "x" * (1024 - len(NONCE))
    assert Challenge.parse(server_first(nonce.encode()), NONCE, 1, CAP).nonce == nonce


@pytest.mark.parametrize(
    "salt",
    [
        *(b"A", b"AAA", b"QQ=", b"QQ", b"QQ===", b"QR==", b"Q Q==", b"QQ==\n", b"QQ==QQ==", b"=", b"====", b"Q-_="),
        *("é".encode(), b64encode(bytes(1025)), b64encode(bytes(65_536))),
    ],
    ids=lambda salt: repr(salt[:20]),
)
def test_a_salt_that_is_not_short_canonical_base64_is_refused(salt: bytes) -> None:
    assert "the salt is not base64 of 1 to 1024 bytes" in refused(server_first(salt=salt))


@pytest.mark.parametrize("size", [1, 2, 3, 1023, 1024])
def test_salts_of_1_to_1024_bytes_are_accepted(size: int) -> None:
    assert Challenge.parse(server_first(salt=b64encode(bytes(size))), NONCE, 1, CAP).salt == bytes(size)


NONCE_FIELD, SALT_FIELD, COUNT_FIELD = server_first().split(b",")
WELL_FORMED = {b"r": NONCE_FIELD, b"s": SALT_FIELD, b"i": COUNT_FIELD}


@pytest.mark.parametrize(
    "fields",
    [
        *("", ",", "r", "x", "r,s", "r,i", "s,i", "s,r,i", "r,i,s", "i,s,r"),
        *("r,s,i,i", "r,r,s,i", "r,s,i,r", "r,s,s,i", "r,s,i,x=1,x=1", "r,s,i,x=1,i"),
        *("r,s,i,", ",r,s,i", "r,,s,i", "x=1,r,s,i", "r,x=1,s,i"),
        *("r,s,i,x", "r,s,i,x=", "r,s,i,1=x", "r,s,i,xy=1", "r,s,i, x=1", "r,s,i,x=\0", "r,s,i,x=\udcff", "R=x,s,i"),
        *("r,s=,i", "r=,s,i", "r,s,i=", "e=other-error", "v=" + "A" * 43 + "=", "r;s;i"),
    ],
)
def test_a_malformed_server_first_message_is_refused(fields: str) -> None:
    octets = [field.encode("utf-8", "surrogateescape") for field in fields.split(",")]
    message = b",".join(WELL_FORMED.get(field, field) for field in octets)
    reason = "the server-first-message is malformed: r, s, i are due, in this order and once each"
    assert refused(message) == f"SCRAM-SHA-256: {reason}"


@pytest.mark.parametrize("message", [b"m=x," + server_first(), server_first() + b",m=x"])
def test_a_mandatory_extension_is_refused(message: bytes) -> None:
    assert "mandatory extension" in refused(message)


SIGNATURE = bytes(range(32))


@pytest.mark.parametrize("extensions", [b"", b",x=1", b",x=1,y=a=b"])
def test_the_right_server_signature_is_accepted_with_any_extensions(extensions: bytes) -> None:
    Answer(b"", SIGNATURE).verify(b"v=" + b64encode(SIGNATURE) + extensions)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"v=" + b64encode(SIGNATURE[::-1]), "signature is wrong"),
        (b"v=" + b64encode(SIGNATURE[:-1]), "signature is wrong"),
        (b"v=" + b64encode(SIGNATURE + b"\0"), "not base64 of 1 to 32 bytes"),
        (b"v=" + b64encode(bytes(4096)), "not base64 of 1 to 32 bytes"),
        (b"v=" + b64encode(SIGNATURE)[:-1], "not base64 of 1 to 32 bytes"),
        (b"v=junk!", "not base64"),
        (b"v=", "malformed"),
        (b"", "malformed"),
        (b"\xff", "malformed"),
        (b"x=1,v=" + b64encode(SIGNATURE), "malformed"),
        (b"v=" + b64encode(SIGNATURE) + b",v=" + b64encode(SIGNATURE), "malformed"),
        (b"v=" + b64encode(SIGNATURE) + b",m=1", "mandatory extension"),
        (b"e=other-error", "the server says 'other-error'"),
        (b"e=invalid-proof,v=" + b64encode(SIGNATURE), "the server says 'invalid-proof,v="),
        (b"e=\x1b[2J\xff" + b"x" * 9999, "the server says '\\x1b[2J\N{REPLACEMENT CHARACTER}xxx"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_a_wrong_server_final_message_is_refused_with_the_reason(message: bytes, reason: str) -> None:
    with pytest.raises(AuthenticationError) as caught:
        Answer(b"", SIGNATURE).verify(message)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 300
    assert caught.value.outcome is Outcome.NOT_SENT


TRIPLES = st.tuples(st.binary(max_size=3), st.binary(max_size=3), st.integers(1, 3))


@given(st.lists(TRIPLES, max_size=40), st.integers(1, 5))
def test_salted_passwords_are_cached_by_password_salt_and_iterations(
    asked: list[tuple[bytes, bytes, int]], capacity: int
) -> None:
    cache = SaltedPasswords(capacity)
    model: dict[tuple[bytes, bytes, int], bytes] = {}  # the least recently used comes first
    for triple in asked:
        known = cache.get(*triple)
        assert known == model.get(triple)
        if known is None:
            cache.put(*triple, salted_password(*triple))
        model[triple] = salted_password(*triple)
        model = dict([*((key, model[key]) for key in model if key != triple), (triple, model[triple])][-capacity:])
        assert len(cache) == len(model) <= capacity


def test_the_cache_of_salted_passwords_keeps_no_password() -> None:
    cache = SaltedPasswords()
    cache.put(b"tops3cret", b"salt", 4096, b"salted")
    kept = pickle.dumps(vars(cache)) + repr(cache).encode()
    assert b"tops3cret" not in kept and b"salted" not in repr(cache).encode()
    assert cache.get(b"tops3cret", b"salt", 4096) == b"salted"
    assert cache.get(b"ttops3cret", b"sal", 4096) is None  # the length of the salt is part of the key


def test_the_repr_of_an_answer_hides_the_proof() -> None:
    assert repr(Answer(b"c=biws,r=x,p=proof", SIGNATURE)) == "Answer(...)"
