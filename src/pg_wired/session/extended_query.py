"""Encodes an extended query: Close of evicted statements, Parse and Describe if needed, Bind, Execute and Sync.

The choice of messages depends on what the statement cache knows about the statement, and on whether it is reliable at
this point. This module reads no answers.
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
    """Append the messages of a query to `out`, and set the script and the statement of the request.

    `group` is the number of its sync group. With `is_in_group`, earlier items of that group have been encoded.
    """
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
    if request.is_item:  # a later request brings the Sync
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
    """Whether the request must use an unnamed statement with its own Parse.

    That is so if the name may not exist on the server when the request runs, or if the name must be closed first while
    a sync group is open.
    """
    if statement.number == 0:
        return is_in_group and statement.name in cache.closing
    if request.is_repaired:  # a repair does not depend on the Parse of another request
        return True
    # An item cannot be sent again if that Parse fails; only a request that is a sync group by itself can.
    is_safe = statement.is_safe and not request.is_item
    return not (statement.is_parsed or is_safe or statement.group == group)


def close_evicted(out: bytearray, cache: statements.StatementCache) -> bytes:
    """Append a Close for each name to be closed, at the start of a sync group. Returns the states of their answers."""
    from ..protocol import messages

    names = cache.take_closing()
    out += messages.encode(*[messages.Close("S", name) for name in names])
    return bytes([State.CLOSE] * len(names))
