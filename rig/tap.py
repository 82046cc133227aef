"""A proxy that records data between clients and a server, and can cut it. It knows only TLS record headers."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Self, TypeAlias

Target: TypeAlias = tuple[str, int]
Edit: TypeAlias = Callable[[bytes], bytes]

READ = 65536  # bytes


class Between:
    """Listen on a port of loopback, and pass each connection to `serve`; all end with the `async with` block."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.port = 0
        self._context = context
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection; it is closed afterwards."""
        raise NotImplementedError

    async def open(self, target: Target) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection to `target`."""
        reader, writer = await asyncio.open_connection(*target)
        self._writers.append(writer)
        return reader, writer

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0, ssl=self._context)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.close()
        for writer in self._writers:
            with suppress(OSError):  # the other end may have closed first
                await writer.wait_closed()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self.serve(reader, writer)
        except (OSError, EOFError):
            pass
        finally:
            writer.close()


class Line:
    """The data of one connection: `up` from the client, `down` from the server."""

    def __init__(self) -> None:
        self.up = bytearray()
        self.down = bytearray()


class Tap(Between):
    """Record each connection. After `cut_at` bytes from the server, the client sees the end of the stream."""

    def __init__(self, target: Target, cut_at: int | None = None) -> None:
        super().__init__()
        self.target = target
        self.cut_at = cut_at
        self.lines: list[Line] = []

    def edited(self, data: bytes) -> bytes:
        """What the client gets when the server sends `data`."""
        return data

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Line()
        self.lines.append(line)
        from_server, to_server = await self.open(self.target)

        def up(data: bytes) -> bytes:
            line.up += data
            return data

        def down(data: bytes) -> bytes:
            line.down += data
            return self.edited(data)

        await both_ways((reader, to_server, up, None), (from_server, writer, down, self.cut_at))
        to_server.close()


async def both_ways(*ways: tuple[asyncio.StreamReader, asyncio.StreamWriter, Edit, int | None]) -> None:
    """Pump in all these ways until the first of them ends."""
    pumps = [asyncio.ensure_future(_pump(*way)) for way in ways]
    try:
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, edit: Edit, limit: int | None) -> None:
    """Pass data on until the source ends, or `limit` bytes have come from it."""
    left = limit
    while left != 0 and (data := await source.read(READ if left is None else min(left, READ))):
        left = None if left is None else left - len(data)
        sink.write(edit(data))
        await sink.drain()


def records(stream: bytes) -> list[tuple[int, int]]:
    """The start and type of each TLS record (RFC 8446, 5.1) in a stream, up to the first incomplete one."""
    found, at = [], 0
    while at + 5 <= len(stream):
        end = at + 5 + int.from_bytes(stream[at + 3 : at + 5], "big")
        if end > len(stream):
            break
        found.append((at, stream[at]))
        at = end
    return found
