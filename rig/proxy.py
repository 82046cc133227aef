"""A TCP proxy that misbehaves on demand: it holds bytes back, cuts connections, sends small segments. Any protocol.

Each direction has its own faults, which can be changed at any time and apply to all connections:

    async with Proxy(server.host, server.port) as proxy:
        conn = await AsyncConn.connect(f"{server.dsn} {proxy.address}")
        proxy.down.hold()  # no data arrives from the server any more
"""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Literal, TypeAlias

End: TypeAlias = Literal["fin", "rst"]

READ = 65536  # bytes
RST = struct.pack("ii", 1, 0)  # socket(7): linger for 0 seconds


class Direction:
    """The faults and counters of one direction."""

    def __init__(self) -> None:
        self.segment = READ  # the maximum number of bytes passed on at once
        self.delay = 0.0  # seconds before each of them
        self.cut_at: int | None = None  # this many bytes of a connection are passed on; then both its ends see `end`
        self.end: End = "fin"
        self.passed = 0  # bytes in total
        self._flows = asyncio.Event()
        self._flows.set()

    @property
    def is_held(self) -> bool:
        """Whether nothing is passed on."""
        return not self._flows.is_set()

    def hold(self) -> None:
        """Pass nothing on; data fills the buffers of the sockets."""
        self._flows.clear()

    def release(self) -> None:
        """Continue, beginning with the data that was held."""
        self._flows.set()

    async def pump(self, source: socket.socket, sink: socket.socket) -> End:
        """Pass data on until one end closes or `cut_at` is reached; return how to end the connection."""
        loop = asyncio.get_running_loop()
        done = 0
        while True:
            try:
                data = await loop.sock_recv(source, self.segment)
            except ConnectionResetError:
                return "rst"
            await self._flows.wait()
            if self.delay:
                await asyncio.sleep(self.delay)
            if not data:
                return "fin"
            if self.cut_at is not None and done + len(data) >= self.cut_at:
                await loop.sock_sendall(sink, data[: self.cut_at - done])
                return self.end
            await loop.sock_sendall(sink, data)
            done += len(data)
            self.passed += len(data)


class Proxy:
    """A proxy to one server; `up` is the direction to the server, `down` from it. Ends with its `async with` block."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.up = Direction()
        self.down = Direction()
        self.accepted = 0
        self._cores: dict[asyncio.Task[None], tuple[socket.socket, ...]] = {}
        self._listener = socket.create_server(("127.0.0.1", 0))

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def address(self) -> str:
        """The host and port of the proxy, for a connection string."""
        return f"host=127.0.0.1 port={self.port}"

    @property
    def connections(self) -> int:
        return len(self._cores)

    def cut(self, end: End = "fin") -> None:
        """End every connection, at both sides."""
        for core, sockets in self._cores.items():
            _close(sockets, end)
            core.cancel()

    def hold(self) -> None:
        """Hold both directions; connections stay open."""
        self.up.hold()
        self.down.hold()

    def release(self) -> None:
        """Release both directions."""
        self.up.release()
        self.down.release()

    async def __aenter__(self) -> Proxy:
        self._listener.setblocking(False)
        self._accepting = asyncio.create_task(self._accept())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._accepting.cancel()
        self.cut("rst")
        await asyncio.gather(self._accepting, *self._cores, return_exceptions=True)
        self._listener.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(self._listener)
            self.accepted += 1
            server = socket.socket()
            for sock in (client, server):
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            core = asyncio.create_task(self._serve(client, server))
            self._cores[core] = (client, server)
            core.add_done_callback(self._cores.pop)

    async def _serve(self, client: socket.socket, server: socket.socket) -> None:
        end: End = "rst"  # for the client, if there is no server
        pumps: list[asyncio.Task[End]] = []
        try:
            await asyncio.get_running_loop().sock_connect(server, self.target)
            ways = ((self.up, client, server), (self.down, server, client))
            pumps = [asyncio.create_task(way.pump(source, sink)) for way, source, sink in ways]
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            end = done.pop().result()
        except OSError:
            pass
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            _close((client, server), end)


def _close(sockets: tuple[socket.socket, ...], end: End) -> None:
    for sock in sockets:
        with sock, suppress(OSError):  # closed already, or not connected
            if end == "rst":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
            else:
                sock.shutdown(socket.SHUT_RDWR)
