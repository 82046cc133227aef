"""What a socket is asked for each request, in Python; `syscalls.pxd` says the same in C.

`fd` is the descriptor of `sock`, which does not block.
"""

from __future__ import annotations

from socket import socket


def receive(sock: socket, fd: int, buffer: bytearray, at: int) -> int:
    """One recv(2) behind the first `at` bytes; 0 at the end, -1 where nothing is there. Raises OSError."""
    try:
        return sock.recv_into(memoryview(buffer)[at:])
    except (BlockingIOError, InterruptedError):
        return -1


def send(sock: socket, fd: int, data: bytearray) -> int:
    """One send(2), and how much of `data` it took; -1 where the socket takes nothing now. Raises OSError."""
    try:
        return sock.send(data)
    except (BlockingIOError, InterruptedError):
        return -1
