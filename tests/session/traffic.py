"""Random traffic between a session and the model server, from a seed: `python -m tests.session.traffic SEED...`.

Prints everything observable about each run as JSON, and the build that ran it. Two builds must print the same runs.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from random import Random
from typing import Any

from pg_wired.errors import PgWireError, ProtocolError
from pg_wired.protocol import messages as m
from pg_wired.session import session
from pg_wired.session.request import COPY_OUT
from tests.session.conversation import Client, Consumer, Sink
from tests.session.server_model import Server

SQLS = ["select $", "select $, $", "select 1", "values $", "show $", "insert $", "fail", ""]
SIMPLE = [
    "select 1; insert 1; select 2",
    "select 1; fail",
    "",
    "begin",
    "commit",
    "rollback",
    "discard all",
    "copy out",
]
SETUPS = ["set local x", "fail", "commit", "rollback; begin", "set local x; set local y"]
STEPS = 60
# Fractions of the runs whose inbound stream is damaged, and whose connection is lost midway.
DAMAGED, CUT = 0.3, 0.2


class Traffic:
    """One run. Its decisions depend only on the seed and on what it observes of session and server."""

    def __init__(self, seed: str) -> None:
        self.rng = Random(seed)
        self.client = Client(
            cache=self.rng.choice([0, 1, 2, 256]),
            max_in_flight=self.rng.choice([1, 3, 256]),
            parameters={"client_encoding": "UTF8"},
        )
        self.client.session.notifications.capacity = 3
        self.server = Server()
        self.takers: list[Consumer] = []
        self.asked: list[tuple[Sink, str, list[bytes | None]]] = []
        self.inbound = b""
        self.sent = hashlib.sha256()
        self.refused: list[str] = []
        self.clock = 0.0
        # The relative frequency of each action.
        self.actions: dict[Callable[[], object], int] = {
            self.query: 9,
            self.simple: 2,
            self.describe: 1,
            self.encoded: 1,
            self.group: 3,
            self.transaction: 2,
            self.copy: 1,
            self.window: 5,
            self.cancel: 2,
            self.expire: 1,
            self.alter: 1,
            self.noise: 1,
            self.serve: 8,
            self.receive: 12,
        }

    def run(self) -> dict[str, Any]:
        for _ in range(STEPS):
            [action] = self.rng.choices(list(self.actions), list(self.actions.values()))
            try:
                action()
            except PgWireError as refusal:
                self.refused.append(f"{type(refusal).__name__}: {refusal} ({refusal.outcome})")
        is_damaged = self.rng.random() < DAMAGED
        if is_damaged:
            self.damage()
        if self.rng.random() < CUT:
            self.client.session.lost(None)
        self.settle()
        if is_damaged:
            self.client.session.lost(None)
        for sink in self.client.sinks:
            assert sink.done(), "somebody waits for ever"
        if not is_damaged:
            assert not isinstance(self.client.session.failure, ProtocolError), self.client.session.failure
            self.check_answers()
        return self.seen()

    def check_answers(self) -> None:
        """Each request got its own rows."""
        for sink, sql, params in self.asked:
            for row in sink.result if sink.result is not None else ():
                assert row[: 1 + len(params)] == (sql.encode(), *params), "somebody else's row"

    # ---- actions of callers

    def query(self) -> None:
        sql = self.rng.choice(SQLS)
        params = [self.value() for _ in range(sql.count("$"))]
        oids = self.rng.choice([(), (), (25,)])
        deadline = self.rng.choice([0.0, 0.0, self.clock + 3])
        sink = self.client.query(sql, *params, oids=oids, result_formats=self.rng.choice([0, 1]), deadline=deadline)
        self.asked.append((sink, sql, params))

    def value(self) -> bytes | None:
        return self.rng.choice(
            [None, b"", self.rng.randbytes(8), self.rng.randbytes(self.rng.choice([3, 300, 70_000]))]
        )

    def simple(self) -> None:
        self.client.simple(self.rng.choice(SIMPLE))

    def describe(self) -> None:
        self.client.describe(self.rng.choice(SQLS))

    def encoded(self) -> None:
        parts = [m.Parse("", "select $"), m.Bind(params=(b"x",)), m.Describe("P"), m.Execute(), m.Sync()]
        self.client.encoded(*parts, drain=self.rng.random() < 0.5)

    def group(self) -> None:
        """Submit a sync group; only inside a window, as pipelines are."""
        if self.client.inside is None:
            return
        for _ in range(self.rng.randrange(4)):
            sql = self.rng.choice(SQLS)
            params = [self.value() for _ in range(sql.count("$"))]
            self.asked.append((self.client.item(sql, *params), sql, params))
        self.client.sync()

    def transaction(self) -> None:
        value = self.value()
        self.asked.append((self.client.transaction(self.rng.choice(SETUPS), "select $", value), "select $", [value]))

    def copy(self) -> None:
        self.takers.append(Consumer())
        self.client.copy(self.rng.choice(["copy out", "select 1", "fail"]), COPY_OUT, self.takers[-1])

    def window(self) -> None:
        """Open a window, enter it, or leave it, depending on the current state."""
        client = self.client
        if client.inside is not None:
            if not client.session.waiting() and client.session.transaction_status.value == "I":
                client.session.leave(client.inside)
                client.inside = None
        elif client.session.window is None:
            client.window(has_state=self.rng.random() < 0.5)
        else:
            client.inside = client.session.window

    def cancel(self) -> None:
        waiting = [sink for sink in self.client.sinks if not sink.done()]
        if waiting:
            self.rng.choice(waiting).cancelled = True

    # ---- other events

    def expire(self) -> None:
        self.clock += 1
        self.client.expire(self.clock)

    def alter(self) -> None:
        self.server.versions[self.rng.choice(SQLS[:5])] += 1
        self.server.refusals[self.rng.choice(SQLS[:6])] += self.rng.randrange(2)

    def noise(self) -> None:
        self.inbound += m.encode(m.NotificationResponse(1, "c", str(self.clock)), m.NoticeResponse((("C", "01000"),)))

    def serve(self) -> None:
        data = self.client.take()
        self.sent.update(data)
        self.inbound += self.server.answer(data)

    def receive(self) -> None:
        n = self.rng.choice([1, 5, 50, 500, len(self.inbound)])
        part, self.inbound = self.inbound[:n], self.inbound[n:]
        self.client.feed(part)

    def damage(self) -> None:
        """Replace, drop or insert one byte of the bytes in transit."""
        self.serve()
        if not self.inbound:
            return
        data = bytearray(self.inbound)
        i = self.rng.randrange(len(data))
        data[i : i + self.rng.randrange(2)] = self.rng.randbytes(self.rng.randrange(2))
        self.inbound = bytes(data)

    def settle(self) -> None:
        """Continue until nothing is in progress and every window is closed."""
        state = self.client.session
        self.client.inside = None
        while state.failure is None:
            self.serve()
            self.client.feed(self.inbound)
            self.inbound = b""
            if state.window is not None and not state.inflight and not state.window.inside:
                state.leave(state.window)
            elif not state.out:
                return

    # ---- observable results

    def seen(self) -> dict[str, Any]:
        state = self.client.session
        queue = state.notifications
        return {
            "answers": [brief(sink.shown()) if sink.is_answered else "" for sink in self.client.sinks],
            "takers": [brief((consumer.headers, consumer.parts)) for consumer in self.takers],
            "refused": self.refused,
            "sent": self.sent.hexdigest(),
            "ran": hashlib.sha256(repr(self.server.executed).encode()).hexdigest(),
            "cache": sorted(map(repr, state.statements.keys.values())),
            "state": repr(
                (state.state, state.tail, state.transaction_status, state.reason, state.failure, state.holds)
            ),
            "notifications": [queue.received, queue.dropped, len(queue)],
        }


def brief(value: object) -> str:
    """The repr of `value`; for a long one, its beginning and a digest."""
    text = repr(value)
    return text if len(text) < 500 else f"{text[:100]}... {hashlib.sha256(text.encode()).hexdigest()}"


def build() -> str:
    """The build that is running: compiled or interpreted."""
    return "compiled" if str(session.__file__).endswith(".so") else "interpreted"


def main(seeds: list[str]) -> None:
    json.dump({"build": build(), "runs": {seed: Traffic(seed).run() for seed in seeds}}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
