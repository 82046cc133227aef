"""COPY in and out: data between the server and a source or reader, with back-pressure both ways. It parses no data."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, Generic, TypeAlias, TypeVar, cast

from ..errors import ConfigError, Outcome, PgWireError, UsageError
from ..protocol import copy_binary, messages
from ..protocol.types import Row
from ..session.request import COPY_IN, COPY_OUT, copy_request
from ..session.session import Session
from .lease import AcquireTimeout, Lease
from .row_stream import Inflow
from .watchdog import CANCEL_GRACE_SECONDS

Buffer: TypeAlias = bytes | bytearray | memoryview
Source: TypeAlias = Buffer | BinaryIO | Iterable[Buffer] | AsyncIterable[Buffer]
T = TypeVar("T")

# Bytes of a CopyData: small buffers are gathered to so many, larger ones cut. More gains nothing.
COPY_FRAME_BYTES = 256 * 1024
# Encoded bytes that wait for the socket before the source has to.
HIGH_WATER_BYTES = 1024 * 1024
# Seconds. A server that reads answers CopyFail at once; one that runs a trigger has to be cancelled.
COPY_FAIL_SECONDS = 0.05


class CopyIn:
    """One COPY ... FROM STDIN."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._inflow = Inflow(lease, 1)

    def header(self, header: messages.CopyInResponse) -> None:
        self._inflow.header_arrived()

    def take(self, part: object, n: int) -> None:
        """Nothing comes but the end."""

    async def run(self, sql: str, source: Source, deadline: float, acquire_timeout: AcquireTimeout) -> int:
        """The whole of it; returns the row count."""
        reply = self._inflow.reply
        request = copy_request(cast(Any, reply), sql, self, COPY_IN, deadline)
        chunks = _chunks(source)
        await self._lease.enter(acquire_timeout, deadline)
        try:
            self._lease.submit(request)
            while not self._inflow.has_header and not reply.done():
                await self._inflow.wait()
            if not reply.done():
                await self._send_while_asked(chunks)
            await reply
        except BaseException:
            self._inflow.stop()
            self._fail("the client has given up")
            raise
        finally:
            await self._lease.leave_behind(reply)
            await chunks.aclose()
        if not self._inflow.has_header:
            raise UsageError("not a COPY ... FROM STDIN: it ran, and took no data", Outcome.UNKNOWN)
        results = cast(Any, reply.result())
        return results[0].rows_affected or 0

    async def _send_while_asked(self, chunks: AsyncIterator[Buffer]) -> None:
        """Until all is sent, or the server or the deadline has ended it: then the source is not waited for."""
        loop, reply, patience = self._lease.loop, self._inflow.reply, asyncio.timeout(None)

        def give_up(_: object) -> None:
            with suppress(RuntimeError):  # all is sent already
                patience.reschedule(loop.time())

        try:
            async with patience:
                reply.add_done_callback(give_up)
                await self._send(chunks)
                reply.remove_done_callback(give_up)
        except BaseException as error:
            if isinstance(error, TimeoutError) and patience.expired():
                return
            self._fail(f"{type(error).__name__}: {error}")
            await self._settled()
            raise

    async def _send(self, chunks: AsyncIterator[Buffer]) -> None:
        """All of the source, then CopyDone. Nothing more once the server has failed."""
        frame = bytearray()
        async for chunk in chunks:
            if not frame and len(chunk) == COPY_FRAME_BYTES:
                await self._write(chunk)
            else:
                frame += chunk
            while len(frame) >= COPY_FRAME_BYTES:
                await self._write(frame[:COPY_FRAME_BYTES])
                del frame[:COPY_FRAME_BYTES]
            if self._inflow.reply.done():
                return
        if frame:
            await self._write(frame)
        if self._session.is_copying_in:
            self._session.send_copy_done()
            self._lease.core.transport.flush()

    @property
    def _session(self) -> Session:
        return self._lease.core.session

    async def _write(self, data: Buffer) -> None:
        session, transport = self._session, self._lease.core.transport
        if not session.is_copying_in:
            return
        session.send_copy_data(data)
        transport.flush()
        if len(session.out) > HIGH_WATER_BYTES:
            await transport.drain()
        else:
            await asyncio.sleep(0)  # let the answers be read

    def _fail(self, reason: str) -> None:
        """CopyFail, if that is still to be said."""
        if self._session.is_copying_in:
            self._session.send_copy_fail(reason)
            self._lease.core.transport.flush()

    async def _settled(self) -> None:
        """Wait for the server's answer to CopyFail, which says nothing new; if it is busy elsewhere, it has to stop."""
        reply = self._inflow.reply
        await asyncio.wait([reply], timeout=COPY_FAIL_SECONDS)
        if not reply.done():
            with suppress(PgWireError):
                await self._lease.core.cancel_running()
            await asyncio.wait([reply], timeout=CANCEL_GRACE_SECONDS)


def _pieces(chunk: Buffer) -> Iterator[Buffer]:
    """A buffer in pieces of a frame at most, without copying it."""
    if not isinstance(chunk, (bytes, bytearray, memoryview)):
        raise TypeError(f"the source of a COPY gave {type(chunk).__name__}: it has to give bytes")
    with memoryview(chunk).cast("B") as view:  # which the source may use again once it is asked for more
        for i in range(0, len(view), COPY_FRAME_BYTES):
            with view[i : i + COPY_FRAME_BYTES] as piece:
                yield piece


async def _chunks(source: Source) -> AsyncGenerator[Buffer, None]:
    """The source's buffers, whatever kind of source it is; closed with it."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        for piece in _pieces(source):
            yield piece
    elif isinstance(source, AsyncIterable):
        iterator = aiter(source)
        try:
            async for chunk in iterator:
                for piece in _pieces(chunk):
                    yield piece
        finally:
            if hasattr(iterator, "aclose"):
                await iterator.aclose()
    elif hasattr(source, "read"):
        while chunk := source.read(COPY_FRAME_BYTES):
            for piece in _pieces(chunk):
                yield piece
    elif isinstance(source, Iterable) and not isinstance(source, str):
        for chunk in source:
            for piece in _pieces(chunk):
                yield piece
    else:
        raise TypeError(f"source is {type(source).__name__}: pass bytes, a binary file, or an iterable of buffers")


def binary_rows(rows: Iterable[Sequence[bytes | None]]) -> Iterator[bytes]:
    """Rows in COPY's binary format, in buffers of some FRAME bytes."""
    out = bytearray(copy_binary.HEADER)
    for row in rows:
        copy_binary.append_row(out, row)
        if len(out) >= COPY_FRAME_BYTES:
            yield bytes(out)
            out.clear()
    yield bytes(out) + copy_binary.TRAILER


class CopyOut(Generic[T]):
    """`async with conn.copy_out(sql) as data: async for buffer in data`; left early, it frees the connection.

    `copy_header` says what comes: whether binary, and the format of each column; None before it has come.
    """

    # Buffers kept before the server has to wait; one is what a read brought, 256 KiB at most.
    LIMIT = 8

    def __init__(self, lease: Lease, sql: str, deadline: float, acquire_timeout: AcquireTimeout) -> None:
        self._inflow = Inflow(lease, self.LIMIT)
        self._lease = lease
        self._acquire_timeout = acquire_timeout
        self._request = copy_request(cast(Any, self._inflow.reply), sql, self, COPY_OUT, deadline)
        self._is_entered = False
        self._rest: Iterator[T] = iter(())
        self.copy_header: messages.CopyOutResponse | None = None

    def header(self, header: messages.CopyOutResponse) -> None:
        self.copy_header = header
        self._inflow.header_arrived()

    def take(self, data: bytes, n: int) -> None:
        self._inflow.arrived(data, 1, n)

    async def __aenter__(self) -> CopyOut[T]:
        if self._is_entered:
            raise UsageError("a COPY runs once: call copy_out() again")
        self._is_entered = True
        await self._lease.enter(self._acquire_timeout, self._request.deadline)
        reply = self._inflow.reply
        try:
            self._lease.submit(self._request)
            while not self._inflow.has_header and not reply.done():
                await self._inflow.wait()
            if not self._inflow.has_header:
                reply.result()
                raise UsageError("not a COPY ... TO STDOUT: it ran, and its result was thrown away", Outcome.UNKNOWN)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Have the server stop, if it has not, and give the connection back."""
        self._inflow.stop()
        await self._lease.leave_behind(self._inflow.reply)

    def __aiter__(self) -> AsyncIterator[T]:
        return self if self._is_entered else LooseReader(self)

    async def __anext__(self) -> T:
        while True:
            for part in self._rest:
                return part
            self._lease.check_open()
            data = await self._inflow.next()
            if data is None:
                self._ended()
                raise StopAsyncIteration
            self._rest = iter(self._parts(cast(bytes, data)))

    async def write_to(self, file: BinaryIO) -> int:
        """Write all of it into a binary file; returns the row count. For use without `async with`."""
        async with self:
            async for data in self:
                file.write(cast(bytes, data))
        return self.row_count

    @property
    def row_count(self) -> int:
        """The rows of the command tag; 0 before the end."""
        reply = self._inflow.reply
        results = cast(Any, reply.result()) if reply.done() and not reply.cancelled() and not reply.exception() else []
        return results[0].rows_affected or 0 if results else 0

    def abandon(self) -> None:
        """Whoever read it has dropped it."""
        self._lease.abandon(self.aclose())

    def _parts(self, data: bytes) -> Iterable[T]:
        return cast(Iterable[T], (data,))

    def _ended(self) -> None:
        """All has come."""


class LooseReader(Generic[T]):
    """Reads a CopyOut without `async with`: opens it with the first step, and closes it when it is dropped."""

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
            self._copy.abandon()


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
