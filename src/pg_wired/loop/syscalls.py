"""The system calls for each request, in Python. `syscalls.pxd` has the same functions in C, for the compiled build.

`sock` is a non-blocking socket, and `fd` its descriptor.
"""

from __future__ import annotations

from socket import socket


def receive(sock: socket, fd: int, buffer: bytearray, at: int) -> int:
    """Call recv(2) once, to write after the first `at` bytes of `buffer`. Returns the number of bytes received.

    Returns 0 at the end of the stream, and -1 if there is nothing to receive now. Raises OSError.
    """
    try:
        return sock.recv_into(memoryview(buffer)[at:])
    except (BlockingIOError, InterruptedError):
        return -1


def send(sock: socket, fd: int, data: bytearray) -> int:
    """Call send(2) once. Returns the number of bytes sent, -1 if the socket takes none now. Raises OSError."""
    try:
        return sock.send(data)
    except (BlockingIOError, InterruptedError):
        return -1
