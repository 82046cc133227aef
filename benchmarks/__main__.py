"""Runs the whole comparison, with interleaved samples, against servers that it starts; prints tables, keeps samples."""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from . import report
from .growth import BENT
from .plan import FULL, QUICK, Sample, Scale, growth, plan
from .results import Results, Taken, save
from .server import Servers, placed, shares
from .work import DEPTH, OUTPUT, ROOT

DEADLINE = 120.0  # seconds for one sample; the slowest takes about four
EXPLANATION = """\
Each sample is a process of its own, all samples of a round in a new order; medians over {rounds} rounds, with the
smallest and the largest. Clients are on one core, the servers on the others. "2.00x" needs half of what the other needs
on the same loop and transport. Less is better, but for 1000/s. The budgets are on the Unix socket; over loopback TCP
the server itself needs longer for each Sync.
Several tasks: pg_wired has 1 connection, or a pool of 2, the others 10. asyncpg's pool as it comes sends a query to
reset a connection after each use; "no reset" has its option `reset` do nothing. A bare queue of connections is faster
than a pool and looks after nothing. pgbench has 1 connection, sends {depth} requests, waits for all of their answers,
and says Sync after each, as pg_wired does; "one Sync": after all, which the server then runs as one transaction.
Latency: from when a request is due to its answer.
Rows: values are bytes with pg_wired, Python objects with the others. The drain reads the answer and throws it away; its
MB are those on the wire. "held" is until the rows are there, and before one of them is touched.
Transactions: pg_wired sends all of one in one write; asyncpg's pool sends BEGIN and SET LOCAL together, the select, and
COMMIT, the fewest round trips that it can do with; "transaction()" is what its documentation shows. pgbench sends
{depth} of them at a time.
Connect: pg_wired with one connector, as its pool does, which hashes the password once; "each alone": each time.
Pipelines: {depth} queries and one Sync, one after the other. asyncpg has none: it asks one by one. psqlpy's are
in a transaction.
COPY: data in memory, from and to; psql's is a whole process, with its start and its login, from and to a file.
Notifications: another process's. The server holds them back while the listener is in a transaction; measured from its
COMMIT to the last of them.
Growth: what one costs; "bends up" is {bent} times the least so far."""


def take(sample: Sample, variables: dict[str, str]) -> dict[str, float]:
    """Run the sample's command and return its metrics. If it fails, this process exits with the command's output."""
    command = [sys.executable, "-m", *sample.command]
    try:
        done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        sys.exit(f"{sample.name} took more than {DEADLINE:.0f} s: {' '.join(command)}")
    if done.returncode:
        sys.exit(f"{sample.name} failed: {' '.join(command)}\n{done.stderr}")
    metrics: dict[str, float] = json.loads(done.stdout)
    return metrics


def run(servers: Servers, samples: Sequence[Sample], scale: Scale) -> list[Taken]:
    """Run all rounds. Each round has its own order, so that no sample always follows the same other sample."""
    for sample in {sample for sample in samples if sample.line == "import"}:
        take(sample, servers.environment())  # the first run compiles the package
    taken = []
    for number in range(max(scale.rounds, scale.growth)):
        order = [each for each in samples if number < (scale.growth if each.point else scale.rounds)]
        print(f"round {number + 1}, {len(order)} samples", file=sys.stderr, flush=True)
        random.Random(number).shuffle(order)
        for sample in order:
            taken.append(Taken(sample, number, take(sample, servers.environment(sample.transport))))
    place = {sample: number for number, sample in enumerate(samples)}
    return sorted(taken, key=lambda each: (place[each.sample], each.round))


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small counts, no growth: to see that it works")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"default {FULL.rounds}, quick {QUICK.rounds}")
    parser.add_argument("--only", default="", metavar="PATTERN", help="of names as 64-tasks/unix/uvloop/pg_wired")
    parser.add_argument("--list", action="store_true", help="print the names, and measure nothing")
    parser.add_argument("--json", type=Path, default=OUTPUT / "results.json", metavar="PATH", help="all samples")
    parser.add_argument(
        "--postgres", choices=("embedded", "system"), default="embedded", help="whose server; not TLS's"
    )
    return parser


def main(options: Sequence[str] | None = None, scale: Scale | None = None) -> None:
    """Run the benchmark with these command-line options. `scale` replaces the full and the quick sizes."""
    parser = arguments()
    given = parser.parse_args(options)
    scale = scale or (QUICK if given.quick else FULL)
    scale = scale._replace(rounds=given.rounds or scale.rounds)
    ours, its = shares(os.sched_getaffinity(0))
    everything = [*plan(scale), *(growth(scale) if scale.growth else ())]
    samples = [sample for sample in everything if re.search(given.only, sample.name)]
    if not samples:
        parser.error(f"--only {given.only}: there is no such sample")
    if given.list:
        print(*sorted({sample.name for sample in samples}), sep="\n")
        return
    with placed(its), Servers.launch(samples, scale, given.postgres) as servers, placed(ours):
        facts = report.machine(servers.said, servers.settings)
        facts["cores"] = f"clients on {sorted(ours)}, servers on {sorted(its)}"
        results = Results(facts, scale, run(servers, samples, scale))
    explanation = EXPLANATION.format(rounds=scale.rounds, depth=DEPTH, bent=BENT)
    print(*report.show(results, explanation), sep="\n")
    save(given.json, results)
    print(f"\nall samples: {given.json}")


if __name__ == "__main__":
    main()
