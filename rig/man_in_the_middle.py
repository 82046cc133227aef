"""A man in the middle that terminates TLS on both sides and can change the server's data. Does not use pg_wired."""

from __future__ import annotations

import asyncio
import ssl

from .tap import Between, Edit, Target, both_ways

# Protocol chapter, "Message Formats", SSLRequest.
SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")


def unchanged(data: bytes) -> bytes:
    return data


def without_plus(data: bytes) -> bytes:
    """Remove the mechanism with channel binding from an AuthenticationSASL message."""
    plus = b"SCRAM-SHA-256-PLUS\0"
    if plus not in data:
        return data
    data = data.replace(plus, b"")
    return data[:1] + (len(data) - 1).to_bytes(4, "big") + data[5:]


class Middle(Between):
    """Present the certificate of `context`, speak TLS to the server at `target`, and pass its data through `edit`.

    Without a target it is a TLS server that disconnects after the client's first byte.
    """

    def __init__(
        self, context: ssl.SSLContext, target: Target | None, edit: Edit = unchanged, is_direct: bool = False
    ) -> None:
        super().__init__(context if is_direct else None)
        self.context = context
        self.target = target
        self.edit = edit
        self.is_direct = is_direct

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.is_direct:
            assert await reader.readexactly(8) == SSL_REQUEST
            writer.write(b"S")
            await writer.start_tls(self.context)
        if self.target is None:
            await reader.read(1)
            return
        from_server, to_server = await self.open(self.target)
        to_server.write(SSL_REQUEST)
        assert await from_server.readexactly(1) == b"S"
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusting.check_hostname = False
        trusting.verify_mode = ssl.CERT_NONE
        await to_server.start_tls(trusting)
        await both_ways((reader, to_server, unchanged, None), (from_server, writer, self.edit, None))
        to_server.close()
