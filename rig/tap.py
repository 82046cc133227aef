"""A tap on the line between clients and a server: keeps what went through, and can cut it. Knows TLS's records."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Line:
    """One connection: `up` is what the client sent, `down` what the server did."""

    def __init__(self) -> None:
        self.up = bytearray()
        self.down = bytearray()


class Tap:
    """`cut_at`: so many bytes of the server's are passed on, and then the client sees the end of the stream."""

    def __init__(self, host: str, port: int, cut_at: int | None = None) -> None:
        self.target = host, port
        self.cut_at = cut_at
        self.lines: list[Line] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Tap:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        line = Line()
        self.lines.append(line)
        with suppress(OSError, asyncio.CancelledError):
            below, above = await asyncio.open_connection(*self.target)
            pumps = [
                asyncio.ensure_future(self._pump(reader, above, line.up, None)),
                asyncio.ensure_future(self._pump(below, writer, line.down, self.cut_at)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
                above.close()
        writer.close()

    @staticmethod
    async def _pump(
        source: asyncio.StreamReader, sink: asyncio.StreamWriter, kept: bytearray, limit: int | None
    ) -> None:
        while (limit is None or len(kept) < limit) and (data := await source.read(65536)):
            passed = data if limit is None else data[: limit - len(kept)]
            kept += passed
            sink.write(passed)
            await sink.drain()


def records(stream: bytes) -> list[tuple[int, int]]:
    """Where TLS records (RFC 8446, 5.1) begin in a stream, and their types; what is not whole ends the list."""
    found, at = [], 0
    while at + 5 <= len(stream):
        end = at + 5 + int.from_bytes(stream[at + 3 : at + 5], "big")
        if end > len(stream):
            break
        found.append((at, stream[at]))
        at = end
    return found
