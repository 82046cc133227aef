"""COPY ... FROM STDIN: data from any source to the server, with back-pressure. The data is not parsed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

from ..errors import Outcome, PgWireError, UsageError
from ..protocol import copy_binary
from ..session.request import COPY_IN, copy_request
from ..session.session import Session
from .incoming import Incoming

if TYPE_CHECKING:
    from .lease import AcquireTimeout, Lease
from .watchdog import CANCEL_GRACE_SECONDS

Buffer: TypeAlias = bytes | bytearray | memoryview
Source: TypeAlias = Buffer | BinaryIO | Iterable[Buffer] | AsyncIterable[Buffer]

# The size of a CopyData: small buffers are collected up to it, larger ones are cut. Larger ones gain nothing.
COPY_FRAME_BYTES = 256 * 1024
# Encoded bytes that wait for the socket before the source has to wait.
HIGH_WATER_BYTES = 1024 * 1024
# Time for the answer to CopyFail. A server that reads answers at once; one that runs a trigger has to be cancelled.
COPY_FAIL_SECONDS = 0.05


def _no_parts(part: object) -> int:
    return 0


class CopyIn:
    """One COPY ... FROM STDIN."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._incoming = Incoming(lease, 1, _no_parts)

    async def run(self, sql: str, source: Source, deadline: float, acquire_timeout: AcquireTimeout) -> int:
        """Run it; returns the row count."""
        reply = self._incoming.reply
        request = copy_request(reply, sql, self._incoming, COPY_IN, deadline)
        chunks = _chunks(source)
        await self._lease.enter(acquire_timeout, deadline)
        try:
            self._lease.submit(request)
            await self._incoming.until_begun()
            if not reply.done():
                await self._send_while_asked(chunks)
            await reply
        except BaseException:
            self._incoming.stop()
            self._fail("the client has given up")
            raise
        finally:
            try:
                await self._lease.leave_after(reply)
            finally:
                await chunks.aclose()
        if not self._incoming.has_begun:
            raise UsageError("not a COPY ... FROM STDIN: it ran, and took no data", Outcome.UNKNOWN)
        return reply.result()[0].rows_affected or 0

    async def _send_while_asked(self, chunks: AsyncIterator[Buffer]) -> None:
        """Send until all is sent, or the server or the deadline ends it: then the source is not waited for."""
        loop, reply, limit = self._lease.loop, self._incoming.reply, asyncio.timeout(None)

        def give_up(_: object) -> None:
            with suppress(RuntimeError):  # all is sent already
                limit.reschedule(loop.time())

        try:
            async with limit:
                reply.add_done_callback(give_up)
                await self._send(chunks)
                reply.remove_done_callback(give_up)
        except BaseException as error:
            if isinstance(error, TimeoutError) and limit.expired():
                return
            self._fail(f"{type(error).__name__}: {error}")
            await self._until_answered()
            raise

    async def _send(self, chunks: AsyncIterator[Buffer]) -> None:
        """Send all of the source, then CopyDone; nothing more once the server has failed."""
        frame = bytearray()
        async for chunk in chunks:
            if not frame and len(chunk) == COPY_FRAME_BYTES:
                await self._write(chunk)
            else:
                frame += chunk
            while len(frame) >= COPY_FRAME_BYTES:
                await self._write(frame[:COPY_FRAME_BYTES])
                del frame[:COPY_FRAME_BYTES]
            await asyncio.sleep(0)  # let the answers be read: a source may never wait
            if not self._session.is_copying_in:
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

    def _fail(self, reason: str) -> None:
        """Send CopyFail, if the server still waits for data."""
        if self._session.is_copying_in:
            self._session.send_copy_fail(reason)
            self._lease.core.transport.flush()

    async def _until_answered(self) -> None:
        """Wait for the answer to CopyFail, which says nothing new. A server that is busy elsewhere is cancelled."""
        reply = self._incoming.reply
        await asyncio.wait([reply], timeout=COPY_FAIL_SECONDS)
        if not reply.done():
            with suppress(PgWireError):
                await self._lease.core.cancel_running()
            await asyncio.wait([reply], timeout=CANCEL_GRACE_SECONDS)


# ---- sources


def _pieces(chunk: Buffer) -> Iterator[Buffer]:
    """A buffer in pieces of a frame at most, without copying it."""
    if not isinstance(chunk, (bytes, bytearray, memoryview)):
        raise TypeError(f"the source of a COPY gave {type(chunk).__name__}: it has to give bytes")
    with memoryview(chunk).cast("B") as view:  # the source may use the buffer again once it is asked for more
        for i in range(0, len(view), COPY_FRAME_BYTES):
            with view[i : i + COPY_FRAME_BYTES] as piece:
                yield piece


async def _chunks(source: Source) -> AsyncGenerator[Buffer, None]:
    """The buffers of any kind of source, which is closed with this generator."""
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
    """Rows in COPY's binary format, in buffers of about COPY_FRAME_BYTES."""
    out = bytearray(copy_binary.HEADER)
    for row in rows:
        copy_binary.append_row(out, row)
        if len(out) >= COPY_FRAME_BYTES:
            yield bytes(out)
            out.clear()
    yield bytes(out) + copy_binary.TRAILER
