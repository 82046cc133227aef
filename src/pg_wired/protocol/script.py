"""What already encoded messages will be answered with: the script of a request that a layer above has written."""

from __future__ import annotations

from ..error import ConfigError, ProtocolError
from . import messages, octets
from .types import ANSWERS, LONG_LIMIT

_HINT = "pass one Query, or extended messages that end in their one Sync"


def script(data: bytes) -> bytes:
    """The states that the answers to `data` lead through. ConfigError where it is not one whole, legal request."""
    states: list[int] = []
    letters = ""
    i = 0
    while i < len(data):
        n = octets.get_i32(data, i + 1) if len(data) - i >= 5 else 0
        if n < 4 or n > LONG_LIMIT or i + 1 + n > len(data):
            raise ConfigError(f"the message at byte {i} is cut off or has a wrong length: {_HINT}")
        letter = chr(data[i])
        body = data[i + 5 : i + 1 + n]
        answer = letter + chr(body[0]) if letter == "D" and body else letter
        if answer not in ANSWERS:
            raise ConfigError(f"message {letter!r} at byte {i} cannot be part of a shared request: {_HINT}")
        try:
            messages.decode_frontend(data[i], body)
        except ProtocolError as error:
            raise ConfigError(f"the message at byte {i}: {error}") from error
        states += ANSWERS[answer]
        letters += letter
        i += 1 + n
    if letters != "Q" and ("Q" in letters or letters.count("S") != 1 or letters[-1] != "S"):
        raise ConfigError(f"messages {letters!r} are not one request: {_HINT}")
    return bytes(states)
