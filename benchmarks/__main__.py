"""Runs the whole comparison against a server of its own, interleaved, and prints one table."""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from rig.postgres import Postgres

from . import report
from .plan import FULL, LINES, ONE_TASK, QUICK, Sample, Scale, plan
from .report import Taken
from .server import SETTINGS, environment, fill, pinned
from .work import DEPTH, OUTPUT, ROOT

DEADLINE = 120.0  # seconds for one sample; the slowest takes about four
EXPLANATION = """\
Each sample is a process of its own, all samples of a round in a new order; medians over {rounds} rounds.
Columns "asyncpg" and "limit": 2.00x needs half of what asyncpg needs on the same loop, or what the line's limit needs.
The limits are pgbench, pgbench pipelined, the bare drain, and psql. Less is better, but for 1000/s.
Several tasks: pg_wired has 1 connection, the others 10. asyncpg's pool has its option `reset` set to do nothing, as
nothing is reset on a shared connection; as it comes, it sends one more query after each. A bare queue of connections is
faster than a pool and looks after nothing. pgbench has 1 connection, sends 50 requests, waits for all of their answers,
and says Sync after each, as pg_wired does; "one Sync": after all 50, which the server then runs as one transaction.
Rows: values are bytes with pg_wired, Python objects with the others. The drain reads the answer and throws it away; its
MB are those on the wire.
Transactions: pg_wired sends all of one in one write, on 1 connection, or on 2 that the tasks take in turns (there is no
pool yet); asyncpg's pool of 10 sends BEGIN and SET LOCAL together, the select, and COMMIT, the fewest round trips that
it can do with; "transaction()" is what its documentation shows. pgbench sends {depth} of them at a time.
Pipelines: {depth} queries and one Sync, one pipeline after the other. asyncpg has none: it asks one by one.
COPY: data in memory, from and to; psql's is a whole process, with its start and its login, from and to a file.
Notifications: another process's. The server holds them back while the listener is in a transaction; measured from its
COMMIT to the last of them."""


def take(sample: Sample, variables: dict[str, str]) -> dict[str, float]:
    """Run it; ends this process where it fails."""
    command = [sys.executable, "-m", *sample.command]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=DEADLINE)
    if done.returncode:
        sys.exit(f"{sample.name} failed: {' '.join(command)}\n{done.stderr}")
    metrics: dict[str, float] = json.loads(done.stdout)
    return metrics


def run(server: Postgres, samples: Sequence[Sample], scale: Scale, core: int | None = None) -> list[Taken]:
    """All rounds; each in an order of its own, so that nobody always follows the same neighbour."""
    variables = environment(server)
    fill(server, scale.rows)
    for sample in {sample for sample in samples if sample.line == "import"}:
        take(sample, variables)  # the first one compiles the package
    taken = []
    for number in range(scale.rounds):
        print(f"round {number + 1} of {scale.rounds}, {len(samples)} samples", file=sys.stderr, flush=True)
        order = list(samples)
        random.Random(number).shuffle(order)
        for sample in order:
            with pinned(server, core) if core is not None and sample.line == ONE_TASK else nullcontext():
                taken.append(Taken(sample, number, take(sample, variables)))
    return sorted(taken, key=lambda each: (samples.index(each.sample), each.round))


def show(facts: dict[str, str], taken: Sequence[Taken], scale: Scale) -> None:
    """Print it all."""
    for name, fact in facts.items():
        print(f"{name + ':':<11}{fact}")
    print("\n" + EXPLANATION.format(rounds=scale.rounds, depth=DEPTH))
    for line in LINES:
        if any(each.sample.line == line.name for each in taken):
            title = line.title.format(**scale._asdict())
            print(f"\n{title}" + (f"; {facts['one task']}" if line.name == ONE_TASK else ""))
            print("\n".join(report.table(line, taken)))


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small counts: to see that it works, not to quote")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"default {FULL.rounds}, quick {QUICK.rounds}")
    parser.add_argument("--only", default="", metavar="PATTERN", help="of names as 64-tasks/uvloop/pg_wired")
    parser.add_argument("--json", type=Path, default=OUTPUT / "results.json", metavar="PATH", help="all samples")
    parser.add_argument("--pin", action="store_true", help="one task: client and server on the same core")
    return parser


def main(options: Sequence[str] | None = None, scale: Scale | None = None) -> None:
    """As on the command line; `scale` instead of the sizes that it chooses from."""
    parser = arguments()
    given = parser.parse_args(options)
    scale = scale or (QUICK if given.quick else FULL)
    scale = scale._replace(rounds=given.rounds or scale.rounds)
    core = max(os.sched_getaffinity(0)) if given.pin else None
    samples = [sample for sample in plan(scale) if re.search(given.only, sample.name)]
    if not samples:
        parser.error(f"--only {given.only}: there is no such sample")
    with Postgres.launch(source="embedded", **SETTINGS) as server:
        facts = report.machine(server.version, ", ".join(f"{name}={value}" for name, value in SETTINGS.items()))
        facts["one task"] = "cores as the kernel chooses" if core is None else f"client and server on core {core}"
        taken = run(server, samples, scale, core)
    show(facts, taken, scale)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    everything = [{"name": sample.name, "round": number, **metrics} for sample, number, metrics in taken]
    given.json.write_text(json.dumps({"facts": facts, "scale": scale._asdict(), "samples": everything}, indent=1))
    print(f"\nall samples: {given.json}")


if __name__ == "__main__":
    main()
