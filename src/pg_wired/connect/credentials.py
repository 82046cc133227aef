"""What a login needs from the user: the password, asked for at most once in an attempt, and the key made of it."""

from __future__ import annotations

import inspect

from ..auth.handshake import AskPassword, DeriveKey
from ..config.config import ConnConfig
from ..config.hosts import HostConfig
from ..errors import AuthenticationError, ConfigError, Outcome
from ..loop.runtime import Runtime

# 4,096 iterations take a millisecond, 100,000 some twenty. More iterations than these are computed in a thread.
MAX_ITERATIONS_ON_LOOP = 20_000


class SaltedPasswords:
    """The last salted passwords: a reconnect with the same password, salt and iterations costs no hashing.

    Keeps at most `capacity` of them, and no password: a SHA-256 of all that goes in stands for it. A reader of this
    process's memory could log in with what is kept, as with the password in the ConnConfig.
    """

    def __init__(self, capacity: int = 64) -> None:
        self._kept: dict[bytes, bytes] = {}
        self._capacity = capacity

    def get(self, password: bytes, salt: bytes, iterations: int) -> bytes | None:
        """The result of `scram.salted_password` if it is kept, which is then the last to be dropped; else None."""
        key = self._key(password, salt, iterations)
        # A dict keeps the order in which keys were added: taken out and put back, it is the youngest.
        salted = self._kept.pop(key, None)
        if salted is not None:
            self._kept[key] = salted
        return salted

    def put(self, password: bytes, salt: bytes, iterations: int, salted: bytes) -> None:
        """Keep a result of `scram.salted_password`."""
        self._kept[self._key(password, salt, iterations)] = salted
        if len(self._kept) > self._capacity:
            del self._kept[next(iter(self._kept))]

    def __len__(self) -> int:
        return len(self._kept)

    def _key(self, password: bytes, salt: bytes, iterations: int) -> bytes:
        # The salt's length keeps the border between salt and password from moving.
        from hashlib import sha256  # a login is early enough for it

        return sha256(b"%d,%d," % (iterations, len(salt)) + salt + password).digest()


class Credentials:
    """The credentials of one attempt at one host; `salted` is shared by all attempts."""

    def __init__(self, config: ConnConfig, host: HostConfig, salted: SaltedPasswords, runtime: Runtime) -> None:
        self._runtime = runtime
        self._config = config
        self._host = host
        self._salted = salted

    async def answer(self, step: AskPassword | DeriveKey) -> str | bytes | None:
        """Answer a question of the handshake. Raises AuthenticationError if a password callable fails."""
        return await (self._password() if isinstance(step, AskPassword) else self._key(step))

    async def _password(self) -> str | None:
        """The password that was given, or a callable returns; else the one of the password file for this host."""
        password = self._config.password
        if not callable(password):
            return password or self._host.password
        try:
            given = password()
            if inspect.isawaitable(given):
                given = await given
        except Exception as error:
            text = f"the password callable failed: {type(error).__name__}"
            raise AuthenticationError(text, Outcome.NOT_SENT) from error
        if not isinstance(given, str):
            raise ConfigError(
                f"the password callable returned {type(given).__name__}: return str, or an awaitable of it"
            )
        return given

    async def _key(self, step: DeriveKey) -> bytes:
        """The salted password, from the cache if it is there."""
        kept = self._salted.get(step.password, step.salt, step.iterations)
        if kept is not None:
            return kept
        from ..auth.scram import salted_password

        arguments = (step.password, step.salt, step.iterations)
        if step.iterations <= MAX_ITERATIONS_ON_LOOP:
            key = salted_password(*arguments)
        else:
            key = await self._runtime.in_thread(salted_password, *arguments)
        self._salted.put(*arguments, key)
        return key
