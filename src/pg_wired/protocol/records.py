"""Named tuples that are part of the public interface.

They are loaded with the first connect, because making a NamedTuple class takes long.
"""

from __future__ import annotations

from typing import NamedTuple

from .types import Oid


class FieldDescription(NamedTuple):
    """The description of one column of a result, from RowDescription.

    - `name`: the name of the column.
    - `table_oid`, `column_id`: the table and the attribute number that the column comes from; 0 if it is not a table
      column.
    - `type_oid`, `type_size`, `type_modifier`: pg_type.oid, pg_type.typlen (negative for a variable width) and
      pg_attribute.atttypmod.
    - `format`: the FormatCode that was requested for the column.

    Source: protocol chapter, "Message Formats", RowDescription.
    """

    name: str
    table_oid: Oid
    column_id: int
    type_oid: Oid
    type_size: int
    type_modifier: int
    format: int


class StatementDescription(NamedTuple):
    """The server's description of a statement: the OIDs of its parameter types, and its columns, if it returns any."""

    param_oids: tuple[Oid, ...]
    fields: tuple[FieldDescription, ...]


class Notification(NamedTuple):
    """A notification sent by NOTIFY: the process id of the sending server process, the channel and the payload."""

    pid: int
    channel: str
    payload: str


class NotificationGap(NamedTuple):
    """Takes the place of `dropped` notifications that were lost because the receiver's queue was full."""

    dropped: int


class ListenerGap(NamedTuple):
    """Marks the place where a listener lost its connection and connected again.

    The connection was lost for `seconds`; the number of notifications sent in that time is not known. `dropped` counts
    the notifications that had arrived here and were dropped because the queue was full. `before` and `after` are the
    process ids of the server processes of the old and the new connection.
    """

    dropped: int
    seconds: float
    before: int | None
    after: int | None


def wider(gap: NotificationGap | ListenerGap, following: object) -> NotificationGap | ListenerGap:
    """Merge a gap with the item after it, if that is a gap too; otherwise return the first one unchanged."""
    if not isinstance(following, NotificationGap | ListenerGap):
        return gap
    dropped = gap.dropped + following.dropped
    if isinstance(gap, ListenerGap) and isinstance(following, ListenerGap):
        return ListenerGap(dropped, gap.seconds + following.seconds, gap.before, following.after)
    return (gap if isinstance(gap, ListenerGap) else following)._replace(dropped=dropped)
