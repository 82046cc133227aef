"""How an extended query is sent: Close of what was evicted, Parse and Describe where needed, Bind, Execute, Sync.

It decides by what the cache knows of the statement, and whether that can be relied on; it knows no answers.
"""

from __future__ import annotations

from ..protocol import frontend
from . import statements
from .request import Request
from .table import State

EXECUTE_SYNC = frontend.EXECUTE + frontend.SYNC
DESCRIBE_EXECUTE_SYNC = frontend.DESCRIBE_EXECUTE + frontend.SYNC
FIRST_USE = bytes([State.PARSE, State.PARAMETERS, State.FIELDS, State.BIND, State.EXECUTE, State.SYNC])
DESCRIBED_USE = bytes([State.BIND, State.FIELDS, State.EXECUTE, State.SYNC])
LATER_USE = bytes([State.BIND, State.EXECUTE, State.SYNC])
LATER_ITEM = LATER_USE[:2]


def append(out: bytearray, request: Request, cache: statements.StatementCache, group: int, is_in_group: bool) -> None:
    """Append a query to `out`, and note its script and statement; `group` numbers the sync group it belongs to."""
    if request.is_unnamed:
        statement = cache.unnamed(request.sql, request.oids)
    else:
        statement = cache.find(request.sql, request.oids)
        if (request.is_repaired or not statement.is_described) and _needs_own_parse(
            request, statement, cache, group, is_in_group
        ):
            statement = cache.unnamed(request.sql, request.oids)
    request.statement = statement
    statement.shape(request.param_formats, request.result_formats, len(request.params))
    tail = EXECUTE_SYNC
    closing = close_evicted(out, cache) if cache.closing and not is_in_group else b""
    if statement.number == 0:
        from ..protocol import messages

        statement.number = request.number
        statement.group = group
        statement.is_safe = not is_in_group and not request.may_stay_open and request.unit is None
        request.parses = True
        request.script = closing + FIRST_USE
        out += messages.encode(
            messages.Parse(statement.name, statement.sql, statement.given_oids),
            messages.Describe("S", statement.name),
        )
    elif statement.is_described:
        request.script = closing + LATER_USE if closing else LATER_USE
        request.fields = statement.shown
        request.columns = statement.columns
    else:
        request.script = closing + DESCRIBED_USE
        tail = DESCRIBE_EXECUTE_SYNC
    if request.is_item:  # its Sync comes later
        request.script = LATER_ITEM if request.script is LATER_USE else request.script[: len(request.script) - 1]
        tail = frontend.EXECUTE if tail is EXECUTE_SYNC else frontend.DESCRIBE_EXECUTE
    frontend.bind(out, statement.head, request.params, request.result_formats, tail)


def _needs_own_parse(
    request: Request,
    statement: statements.Statement,
    cache: statements.StatementCache,
    group: int,
    is_in_group: bool,
) -> bool:
    """Whether the name cannot be relied on, or not be given before a Close that would stand inside a group."""
    if statement.number == 0:
        return is_in_group and statement.name in cache.closing
    if request.is_repaired:  # a repair relies on nobody else's Parse
        return True
    # Only a request of its own group can be sent once more if that Parse fails.
    is_safe = statement.is_safe and not request.is_item
    return not (statement.is_parsed or is_safe or statement.group == group)


def close_evicted(out: bytearray, cache: statements.StatementCache) -> bytes:
    """Append a Close for each statement that left the cache, where a sync group begins; returns their states."""
    from ..protocol import messages

    names = cache.take_closing()
    out += messages.encode(*[messages.Close("S", name) for name in names])
    return bytes([State.CLOSE] * len(names))
