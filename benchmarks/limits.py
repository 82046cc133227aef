"""One sample of a limit that no driver can beat: pgbench, psql, or a socket without a parser. Prints a line of JSON."""

from __future__ import annotations

import argparse
import json
import re
import resource
import select
import subprocess
import tempfile
import time

from .work import COPIED, DEPTH, POINTS, SCAN, SELECT, SETUP, TEXT, Metrics

QUERY = SELECT.format(":id") + ";\n"
TRANSACTION = f"BEGIN;\n{SETUP};\n{QUERY}COMMIT;\n"


def _pipelined(request: str) -> str:
    return "\\startpipeline\n" + request + ("\\syncpipeline\n" + request) * (DEPTH - 1) + "\\endpipeline\n"


# Scripts of pgbench, with the number of requests in one run of each. `pipelined` sends a Sync after each request, as a
# driver with independent requests must: each request is a transaction, and is answered at once. With `one-sync` all of
# them are one transaction, and the server may answer in fewer packets.
SCRIPTS = {
    "single": (QUERY, 1),
    "pipelined": (_pipelined(QUERY), DEPTH),
    "transactions": (_pipelined(TRANSACTION), DEPTH),
    "one-sync": ("\\startpipeline\n" + QUERY * DEPTH + "\\endpipeline\n", DEPTH),
}


def pgbench(script: str, seconds: float) -> Metrics:
    """Return the wall time per request, as pgbench reports it without connecting. pgbench runs for whole seconds."""
    text, requests = SCRIPTS[script]
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(f"\\set id random(1, {POINTS})\n{text}")
        file.flush()
        duration = str(max(1, round(seconds)))
        command = ["pgbench", "-n", "-M", "prepared", "-c", "1", "-T", duration, "-f", file.name]
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    match = re.search(r"^tps = ([0-9.]+)", said, re.MULTILINE)
    assert match, said
    rate = float(match[1]) * requests
    return {"wall_us": 1e6 / rate, "rate": rate / 1000}


def drain() -> Metrics:
    """Read all rows in binary into one buffer, which each read overwrites. The MB held are the MB on the wire."""
    from pg_wired.protocol import messages

    from .with_socket import BUFFER_SIZE, SCAN_REQUEST, logged_in

    with logged_in() as sock:
        # Terminate makes the server close after the answer, so that the drain need not look for its end.
        request = SCAN_REQUEST + messages.encode(messages.Terminate())
        sock.setblocking(False)
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        buffer = bytearray(BUFFER_SIZE)
        size, end = 0, 0.0
        wall, cpu = time.perf_counter(), time.process_time()
        sock.send(request)
        while poll.poll() and (n := sock.recv_into(buffer)):
            size += n
            end = time.perf_counter()
        return {"wall_s": end - wall, "cpu_s": time.process_time() - cpu, "held_mb": size / 1e6}


# Commands for psql that copy the rows as a user of psql would.
COPIES = {
    "copy-out": (r"\copy (" + SCAN + ") to '/dev/null'",),
    "copy-in": (f"TRUNCATE {COPIED}", rf"\copy {COPIED} from '{TEXT}'"),
}


def psql(*commands: str) -> Metrics:
    """Run each command in its own psql process; return the times of the last one, including its start and login."""
    for command in commands:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        wall = time.perf_counter()
        subprocess.run(["psql", "-Xqc", command], check=True)
        wall = time.perf_counter() - wall
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"wall_s": wall, "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits", description=__doc__)
    parser.add_argument("work", choices=[*SCRIPTS, *COPIES, "drain"])
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="how long pgbench asks")
    options = parser.parse_args()
    if options.work in SCRIPTS:
        metrics = pgbench(options.work, options.seconds)
    else:
        metrics = psql(*COPIES[options.work]) if options.work in COPIES else drain()
    print(json.dumps(metrics))


if __name__ == "__main__":
    main()
