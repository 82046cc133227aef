"""Portal: a query's rows in portions, inside a transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ..errors import ConfigError, UsageError
from ..protocol import frontend, messages
from ..protocol.records import FieldDescription
from ..protocol.rows import Rows
from ..protocol.types import Oid, TransactionStatus, Value
from ..session.request import Request, encoded_request
from .core import Core


class Portal:
    """`async with mine.portal(sql, params) as portal: rows = await portal.fetch(100)`, inside `exclusive()`.

    `fields` are the columns, known once the block is entered. `is_suspended` says whether there may be more rows. A
    portal ends with its transaction (protocol chapter, "Extended Query").
    """

    def __init__(self, core: Core, submit: Callable[[Request], None], name: str, bind: bytes) -> None:
        self._core = core
        self._submit = submit
        self._name = name
        self._bind = bind
        self.fields: tuple[FieldDescription, ...] = ()
        self.is_suspended = True

    async def _run(self, *items: messages.FrontendMessage, head: bytes = b"") -> Rows:
        reply: asyncio.Future[Rows] = self._core.loop.create_future()
        data = head + messages.encode(*items, messages.Sync())
        request = encoded_request(reply, data, False, 0.0, self.fields)
        self._submit(request)
        rows = await reply
        self.fields = request.fields
        return rows

    async def __aenter__(self) -> Portal:
        if self._core.session.transaction_status is TransactionStatus.IDLE:
            raise UsageError("a portal lives in a transaction: say BEGIN first")
        await self._run(messages.Describe("P", self._name), head=self._bind)
        return self

    async def fetch(self, count: int) -> Rows:
        """The next rows, at most `count`; fewer at the end, and UsageError after it."""
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count < 1 << 31:
            raise ConfigError(f"count is {count!r}: pass a number of rows from 1 to {(1 << 31) - 1}")
        if not self.is_suspended:
            raise UsageError("the portal has given all its rows")
        rows = await self._run(messages.Execute(self._name, count))
        self.is_suspended = not rows.command_tag and len(rows) == count
        return rows

    async def __aexit__(self, *exc: object) -> None:
        # The server accepts Close in a failed transaction, too, and after its end.
        if self._core.session.failure is None:
            await self._run(messages.Close("P", self._name))


def bound(
    name: str,
    sql: str,
    params: Sequence[Value],
    param_oids: Sequence[Oid],
    param_formats: int | Sequence[int],
    result_formats: int | Sequence[int],
) -> bytes:
    """Parse of the unnamed statement, and its Bind to the portal `name`. Raises for arguments that cannot be sent."""
    values = frontend.values(params)
    codes = frontend.formats(param_formats, "param_formats")
    frontend.check_count(codes, len(values), "param_formats")
    return messages.encode(
        messages.Parse("", frontend.text(sql, "sql"), frontend.oids(param_oids)),
        messages.Bind(name, "", _listed(codes), values, _listed(frontend.formats(result_formats, "result_formats"))),
    )


def _listed(codes: bytes) -> tuple[int, ...]:
    return tuple([codes[i + 1] for i in range(2, len(codes), 2)])
