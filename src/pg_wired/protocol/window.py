"""A window: a time in which the requests of one owner alone run on a shared connection."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from .requests import Request

if TYPE_CHECKING:
    from .requests import Sink


class Window(Request):
    """Waits in order among the requests; once it has its turn its sink gets it, and only `inside` is encoded.

    `sql` names it in errors. With `has_state`, its requests may leave a transaction open behind them.
    """

    def __init__(self, sink: Sink, name: str, deadline: float, has_state: bool) -> None:
        super().__init__(sink, name, deadline)
        self.is_window = True
        self.has_state = has_state
        self.parameters: dict[str, str] = {}  # the server's settings when it was opened
        self.owner: object = None  # the task inside
        self.last_tag = ""  # of a result with rows: nothing to be seen in it again
        self.tags: set[str] = set()  # the command tags seen inside, without their numbers
        self.inside: deque[Request] = deque()

    def saw(self, tag: str, is_without_rows: bool) -> None:
        """Note what may have changed the session. SELECT INTO and CREATE TABLE AS have SELECT's tag, but no rows."""
        if not is_without_rows:
            self.last_tag = tag
        kind = tag.rstrip("0123456789 ")
        self.tags.add("SELECT INTO" if kind == "SELECT" and is_without_rows else kind)

    def open(self) -> None:
        """Tell the owner that its time has come."""
        if self.sink is not None:
            self.sink.set_result(self)
