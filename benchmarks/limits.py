"""One sample of what no driver can beat: pgbench, and a socket whose bytes nobody looks at. Prints a line of JSON."""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import socket
import subprocess
import tempfile
import time

from .work import POINTS, SCAN, SELECT, Metrics

DEPTH = 50  # requests in flight on pgbench's one connection
BUFFER_SIZE = 256 * 1024  # as large as pg_wired's own
QUERY = SELECT.format(":id") + ";\n"

# Scripts of pgbench, with the number of requests in one run of each. `pipelined` has a Sync for each request, as a
# driver needs it whose requests are independent: each is a transaction, and answered at once. With `one-sync` all of
# them are one transaction, answered in as few packets as the server likes.
SCRIPTS = {
    "single": (QUERY, 1),
    "pipelined": ("\\startpipeline\n" + QUERY + ("\\syncpipeline\n" + QUERY) * (DEPTH - 1) + "\\endpipeline\n", DEPTH),
    "one-sync": ("\\startpipeline\n" + QUERY * DEPTH + "\\endpipeline\n", DEPTH),
}


def pgbench(script: str, seconds: float) -> Metrics:
    """Wall time per request, as pgbench reports it, connecting excluded. It runs for whole seconds."""
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
    """All rows in binary, read into one buffer again and again until the last. As MB held count those on the wire."""
    import psycopg  # to log in; pgbench needs it not

    from pg_wired.protocol import messages

    with psycopg.connect() as login, socket.socket(fileno=os.dup(login.fileno())) as sock:
        request = messages.encode(
            messages.Parse("", SCAN),
            messages.Bind(result_formats=(1,)),
            messages.Execute(),
            messages.Sync(),
            messages.Terminate(),  # so that the answer's end needs not be looked for: the server closes behind it
        )
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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits", description=__doc__)
    parser.add_argument("work", choices=[*SCRIPTS, "drain"])
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="how long pgbench asks")
    options = parser.parse_args()
    print(json.dumps(drain() if options.work == "drain" else pgbench(options.work, options.seconds)))


if __name__ == "__main__":
    main()
