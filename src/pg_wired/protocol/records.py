"""The records that callers get. They are loaded with the first connect: a NamedTuple takes long to make."""

from __future__ import annotations

from typing import NamedTuple

from .types import Oid


class FieldDescription(NamedTuple):
    """One column of a result, as RowDescription has it. `format` is what was asked for."""

    name: str
    table_oid: Oid
    column_id: int
    type_oid: Oid
    type_size: int
    type_modifier: int
    format: int


class StatementDescription(NamedTuple):
    """What the server says of a statement: its parameter types, and its columns (empty where it returns none)."""

    param_oids: tuple[Oid, ...]
    fields: tuple[FieldDescription, ...]


class Notification(NamedTuple):
    """What NOTIFY sent: the process id of the sender, the channel and the payload."""

    pid: int
    channel: str
    payload: str


class NotificationGap(NamedTuple):
    """Stands where notifications were lost, `dropped` of them."""

    dropped: int


class ListenerGap(NamedTuple):
    """Stands where a listener had lost its connection, for `seconds`; `dropped` of those that had come were lost too.

    What was sent meanwhile nobody counts. `before` and `after` are the server processes of both connections.
    """

    dropped: int
    seconds: float
    before: int | None
    after: int | None


def wider(gap: NotificationGap | ListenerGap, following: object) -> NotificationGap | ListenerGap:
    """One gap for two, with nothing between them."""
    if not isinstance(following, NotificationGap | ListenerGap):
        return gap
    dropped = gap.dropped + following.dropped
    if isinstance(gap, ListenerGap) and isinstance(following, ListenerGap):
        return ListenerGap(dropped, gap.seconds + following.seconds, gap.before, following.after)
    return (gap if isinstance(gap, ListenerGap) else following)._replace(dropped=dropped)
