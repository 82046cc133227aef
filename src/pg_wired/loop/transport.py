"""One non-blocking socket on the event loop: it reads into buffers, and sends what they have. It knows no protocol.

A plain socket is read and written by system calls (`syscalls`). TLS adds three things: decrypted data that the file
descriptor does not show; reads that must write, and writes that must read; and slices that are kept and repeated
unchanged, because a failed `SSLSocket.send` may have sent a part of them. Any other object with `recv_into` and `send`
is used by these two methods (`runtime`).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

from ..protocol.buffers import Buffers
from . import syscalls
from .owner import Owner

# The largest TLS record (RFC 8446, 5.1).
TLS_SLICE_BYTES = 16 * 1024
# Bytes read per wake-up before yielding to the loop; the last read may exceed them.
READ_BURST_BYTES = 64 * 1024
# Seconds until a look for the end of the connection, where the loop does not show it. A read that finds nothing costs
# 2 us.
END_CHECK_SECONDS = 0.05


class Transport:
    """Owns `sock` from now on. `closed` is done when the socket is closed, for whatever reason."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, buffers: Buffers) -> None:
        self.loop = loop
        self.closed: asyncio.Future[None] = loop.create_future()
        self._sock = sock
        self._fd = sock.fileno()
        self.owner = Owner(loop, "connection")
        self.writes = 0
        self.bytes_in = 0
        self._buffers = buffers
        self._buffer = bytearray()  # what `_view` shows
        self._view = memoryview(self._buffer)
        self._is_tls = isinstance(sock, ssl.SSLSocket)
        self._is_plain = isinstance(sock, socket.socket) and not self._is_tls
        # What the methods of SSLSocket call after checks that are made here already.
        self._tls: Any = getattr(sock, "_sslobj", sock) if type(sock) is ssl.SSLSocket else sock
        self._slice = b""
        self._is_paused = self._reads_soon = False
        self._end_check: asyncio.TimerHandle | None = None
        self._is_writing = False
        self._is_flushing = False
        self._writes_after_read = False
        self._write_error: OSError | None = None
        self._drained: asyncio.Future[None] | None = None
        # asyncio's own loop calls again as long as there is something to read. uvloop does not: when the peer has reset
        # the connection, libuv stops polling, and its one call has to find both the last data and the end.
        reads_on = self._is_tls or not isinstance(loop, asyncio.SelectorEventLoop)
        self._readable = self._read_on if reads_on else self._read_once
        loop.add_reader(self._fd, self._readable)

    @property
    def is_closed(self) -> bool:
        return self._fd < 0

    def is_open(self) -> bool:
        return self._fd >= 0

    def check_owner(self) -> None:
        """Refuse another thread, another loop and a forked child with UsageError."""
        self.owner.check()

    def hand_over(self, buffers: Buffers) -> None:
        """From now on read into other buffers, and send what those have."""
        self._buffers = buffers

    # ---- reading

    def pause(self) -> None:
        """Stop reading, so that the server has to stop sending."""
        self._is_paused = True
        if self._fd >= 0:
            self.loop.remove_reader(self._fd)

    def resume(self) -> None:
        """Read again after `pause`."""
        if not self._is_paused:
            return
        self._is_paused = False
        if self._fd >= 0:
            self.loop.add_reader(self._fd, self._readable)
            if self._is_tls:  # data that is decrypted already does not show on the file descriptor
                self._read_soon()

    def read_now(self) -> None:
        """Take what has arrived without waiting for the loop to say so."""
        if not self._is_paused:
            self._readable()

    def _read_once(self) -> None:
        """A second read, only to see EAGAIN, would gain nothing."""
        self._read()

    def _read_on(self) -> None:
        """Read until nothing is left, or all requests are answered: that is how a wake-up usually ends."""
        total = 0
        while total < READ_BURST_BYTES and not self._reads_soon:
            space = len(self._buffers.buffer) - self._buffers.tail
            n = 0 if self._is_paused else self._read()
            if n == 0 or (self._buffers.is_complete and not (self._is_tls and self._pending())):
                return
            if n < space and not self._is_tls:
                self._check_for_end()
                return
            total += n
        self._read_soon()

    def _check_for_end(self) -> None:
        """All that had arrived is read. The end of the connection may follow, for which uvloop does not call."""
        if self._end_check is None:
            self._end_check = self.loop.call_later(END_CHECK_SECONDS, self._check_now)

    def _check_now(self) -> None:
        self._end_check = None
        self._read_on()

    def _read_soon(self) -> None:
        """Read on in the next iteration of the loop; once, however often it is asked for."""
        if not self._reads_soon:
            self._reads_soon = True
            self.loop.call_soon(self._read_more)

    def _read_more(self) -> None:
        self._reads_soon = False
        self._read_on()

    def _pending(self) -> int:
        waiting: int = self._tls.pending()
        return waiting

    def _read_out(self) -> None:
        """Writing has failed: read the rest, which is the last that will ever arrive."""
        while self._read():
            pass
        if self._fd >= 0:
            self._end(self._write_error)

    def _read(self) -> int:
        """One read; returns how many bytes it brought."""
        if self._fd < 0:
            return 0
        buffers = self._buffers
        try:
            if self._is_plain:
                n = syscalls.receive(self._sock, self._fd, buffers.buffer, buffers.tail)
            else:
                n = self._receive(buffers)
        except OSError as error:
            self._end(self._write_error or error)
            return 0
        if self._writes_after_read:
            self._writes_after_read = False
            self._want_write()
        if n <= 0:
            if n == 0:
                self._end(self._write_error)
            return 0
        self.bytes_in += n
        try:
            buffers.received(n)
        except BaseException as error:  # whatever it was, the stream cannot be continued
            self._end(error)
            raise
        if buffers.failure is not None:
            self._close()
        elif buffers.out:
            self.flush()
        return n if self._fd >= 0 else 0

    def _receive(self, buffers: Buffers) -> int:
        """One read through TLS, or by `recv_into`; -1 where nothing is there."""
        if buffers.buffer is not self._buffer:
            self._buffer = buffers.buffer
            self._view = memoryview(self._buffer)
        view = self._view[buffers.tail :] if buffers.tail else self._view
        try:
            n: int = self._tls.read(len(view), view) if self._is_tls else self._sock.recv_into(view)
            return n
        except ssl.SSLWantWriteError:
            self._want_write()
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
            pass
        return -1

    # ---- writing

    def flush_soon(self) -> None:
        """Write at the end of this iteration of the loop all that has come together until then."""
        if not self._is_flushing:
            self._is_flushing = True
            self.loop.call_soon(self._flush_last)

    def _flush_last(self) -> None:
        self._is_flushing = False
        self.flush()

    def flush(self) -> None:
        """Write now what the socket takes, and the rest when it takes more."""
        if self._is_writing or self._writes_after_read or self._fd < 0 or self._write_error is not None:
            return
        self._write()

    def _write(self) -> None:
        buffers = self._buffers
        try:
            if self._is_tls:
                self._send_slices(buffers)
            elif buffers.out:
                n = syscalls.send(self._sock, self._fd, buffers.out) if self._is_plain else self._sock.send(buffers.out)
                if n > 0:
                    self.writes += 1
                    buffers.sent(n)
        except ssl.SSLWantReadError:  # a handshake of TLS inside the stream: writing goes on after a read
            self._writes_after_read = True
            self._stop_writing()
            return
        except (BlockingIOError, InterruptedError, ssl.SSLWantWriteError):
            pass
        except OSError as error:
            # The server's last words may still be waiting to be read, and explain more.
            self._write_error = error
            self._stop_writing()
            self.loop.call_soon(self._read_out)
            return
        if buffers.out or self._slice:
            self._want_write()
        else:
            self._stop_writing()

    def _send_slices(self, buffers: Buffers) -> None:
        while self._slice or buffers.out:
            if not self._slice:
                self._slice = bytes(buffers.out[:TLS_SLICE_BYTES])
                buffers.sent(len(self._slice))
            n = self._tls.write(self._slice)
            self.writes += 1
            self._slice = self._slice[n:]

    async def drain(self) -> None:
        """Wait until the socket has taken all there was to send, or has failed."""
        while self._is_writing:
            if self._drained is None or self._drained.done():
                self._drained = self.loop.create_future()
            await asyncio.shield(self._drained)

    def _want_write(self) -> None:
        if not self._is_writing:
            self._is_writing = True
            self.loop.add_writer(self._fd, self._writable)

    def _stop_writing(self) -> None:
        if self._is_writing:
            self._is_writing = False
            if self._fd >= 0:
                self.loop.remove_writer(self._fd)
            if self._drained is not None and not self._drained.done():
                self._drained.set_result(None)

    def _writable(self) -> None:
        self._write()
        if self._is_tls:  # a read may have waited for this
            self._read_on()

    # ---- the end

    def abort(self) -> None:
        """Close at once; all waiting requests fail."""
        self._end(None)

    def _end(self, cause: BaseException | None) -> None:
        if self.owner.has_loop:
            self._buffers.lost(cause)
        self._close()

    def _close(self) -> None:
        if self._fd < 0:
            return
        if self._end_check is not None:
            self._end_check.cancel()
        if self.owner.has_loop:
            self.loop.remove_reader(self._fd)
            self._stop_writing()
            self.closed.set_result(None)
        self._fd = -1
        self._tls = None
        self._sock.close()
