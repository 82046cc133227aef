"""What a login needs from its user: the password, asked for at most once for each attempt, and the key made of it."""

from __future__ import annotations

import asyncio
import inspect

from . import scram
from .conninfo import ConnConfig
from .error import AuthenticationError, ConfigError, Outcome
from .hosts import HostConfig
from .protocol.startup import AskPassword, DeriveKey

# 4,096 iterations take a millisecond, 100,000 some twenty: above this the loop must not wait for them.
ITERATIONS_ON_LOOP = 20_000


class Credentials:
    """Of one attempt at one host; `salted` outlives it."""

    def __init__(self, config: ConnConfig, host: HostConfig, salted: scram.SaltedPasswords) -> None:
        self._config = config
        self._host = host
        self._salted = salted

    async def answer(self, step: AskPassword | DeriveKey) -> str | bytes | None:
        """What the handshake asks for. Raises AuthenticationError where a password callable fails."""
        return await (self._password() if isinstance(step, AskPassword) else self._key(step))

    async def _password(self) -> str | None:
        """The one that was given, or what a callable returns; else the password file's for this host."""
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
        """The salted password; one that was made before costs nothing."""
        kept = self._salted.get(step.password, step.salt, step.iterations)
        if kept is not None:
            return kept
        arguments = (step.password, step.salt, step.iterations)
        if step.iterations <= ITERATIONS_ON_LOOP:
            key = scram.salted_password(*arguments)
        else:
            key = await asyncio.get_running_loop().run_in_executor(None, scram.salted_password, *arguments)
        self._salted.put(*arguments, key)
        return key
