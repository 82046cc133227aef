"""COPY ... TO STDOUT: data or rows as they arrive, with back-pressure to the server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO, Generic, TypeVar, cast

from ..errors import ConfigError, Outcome, UsageError
from ..protocol import copy_binary, messages
from ..protocol.types import Row
from ..session.request import COPY_OUT, copy_request
from .incoming import Incoming

if TYPE_CHECKING:
    from .lease import AcquireTimeout, Lease

T = TypeVar("T")

# Buffers that are kept before the server has to wait; each is what one read brought, 256 KiB at most.
MAX_KEPT_BUFFERS = 8


def _one(part: object) -> int:
    return 1


class CopyOut(Generic[T]):
    """`async with conn.copy_out(sql) as data: async for buffer in data`.

    Leaving the block early has the server stop; the connection goes on. `copy_header` says what follows: whether it is
    binary, and the format of each column; None before it has arrived. It runs once, and has one reader.
    """

    def __init__(self, lease: Lease, sql: str, deadline: float, acquire_timeout: AcquireTimeout) -> None:
        self._incoming = Incoming(lease, MAX_KEPT_BUFFERS, _one)
        self._acquire_timeout = acquire_timeout
        self._request = copy_request(self._incoming.reply, sql, self._incoming, COPY_OUT, deadline)
        self._rest: Iterator[T] = iter(())

    @property
    def copy_header(self) -> messages.CopyOutResponse | None:
        """The server's CopyOutResponse; None before it has arrived."""
        header: messages.CopyOutResponse | None = self._incoming.first
        return header

    async def __aenter__(self) -> CopyOut[T]:
        await self._incoming.enter(self._request, self._acquire_timeout, "a COPY runs once: call copy_out() again")
        if not self._incoming.has_begun:
            await self.aclose()
            raise UsageError("not a COPY ... TO STDOUT: it ran, and its result was thrown away", Outcome.UNKNOWN)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Have the server stop, if it has not, and give the connection back."""
        await self._incoming.leave()

    def __aiter__(self) -> AsyncIterator[T]:
        return self if self._incoming.is_entered else LooseReader(self)

    async def __anext__(self) -> T:
        while True:
            for part in self._rest:
                return part
            data = await self._incoming.next()
            if data is None:
                self._ended()
                raise StopAsyncIteration
            self._rest = iter(self._parts(data))

    async def write_to(self, file: BinaryIO) -> int:
        """Write all data into a binary file; returns the row count. For use without `async with`."""
        async with self:
            async for data in self:
                file.write(cast(bytes, data))
        return self.row_count

    @property
    def row_count(self) -> int:
        """The number of rows in the command tag; 0 before the end."""
        results = self._incoming.results
        return results[0].rows_affected or 0 if isinstance(results, list) else 0

    def _parts(self, data: bytes) -> Iterable[T]:
        return cast(Iterable[T], (data,))

    def _ended(self) -> None:
        """All data has arrived."""


class LooseReader(Generic[T]):
    """Reads a CopyOut without `async with`: opens it at the first step, and closes it when it is dropped."""

    def __init__(self, copy: CopyOut[T]) -> None:
        self._copy = copy
        self._is_open = self._is_over = False

    def __aiter__(self) -> LooseReader[T]:
        return self

    async def __anext__(self) -> T:
        if self._is_over:
            raise StopAsyncIteration
        try:
            if not self._is_open:
                self._is_open = True
                await self._copy.__aenter__()
            return await anext(self._copy)
        except BaseException:
            self._is_over = True
            await self._copy.aclose()
            raise

    def __del__(self) -> None:
        if self._is_open:
            self._copy._incoming.abandon()


class CopyOutRows(CopyOut[Row]):
    """The same for the binary format, row by row."""

    def __init__(self, lease: Lease, sql: str, deadline: float, acquire_timeout: AcquireTimeout) -> None:
        super().__init__(lease, sql, deadline, acquire_timeout)
        self._decoder = copy_binary.RowDecoder()

    def _parts(self, data: bytes) -> Iterable[Row]:
        if self.copy_header is not None and self.copy_header.format != 1:
            text = "copy_out_rows() reads the binary format: say COPY ... TO STDOUT (FORMAT binary)"
            raise ConfigError(text, Outcome.UNKNOWN)
        return self._decoder.feed(data)

    def _ended(self) -> None:
        self._decoder.end()
