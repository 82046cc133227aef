"""What a pool can tell of itself: a snapshot for its users, and the sums behind it."""

from __future__ import annotations

from typing import NamedTuple

from ..client.core import Core


class PoolStats(NamedTuple):
    """A pool at one moment. Counters go on from its beginning, over all connections it ever had."""

    size: int  # shared connections it is to have
    alive: int  # shared connections that take requests
    in_flight: int  # shared requests that are submitted and not answered
    waiting: int  # requests that wait for a shared connection to come up, and verbs that wait for one of their own
    lent: int  # connections in somebody's hands, or on their way back
    idle: int  # connections that wait to be lent
    opening: int  # connections being made
    connects: int
    connect_failures: int
    moved: int  # requests that left a lost connection for another one, unsent
    requests: int  # all that were encoded, our own included
    writes: int  # requests / writes is how well they share
    bytes_in: int
    bytes_out: int
    longest_wait: float  # seconds that anybody has waited for a connection of its own
    dropped_notifications: int


class Totals:
    """Sums over connections."""

    def __init__(self) -> None:
        self.requests = 0
        self.writes = 0
        self.bytes_in = 0
        self.bytes_out = 0

    def add(self, core: Core) -> None:
        """What one connection has done so far."""
        self.requests += core.session.numbers
        self.writes += core.transport.writes
        self.bytes_in += core.transport.bytes_in
        self.bytes_out += core.session.handed

    def copy(self) -> Totals:
        """The same sums, to be added to."""
        twin = Totals()
        twin.__dict__.update(self.__dict__)
        return twin
