"""One sample of the cost of importing a package: two new processes, with and without it. Prints a line of JSON."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from .work import Metrics

BASE = "import asyncio, ssl"  # modules that every program with a connection to a server imports anyway


def _seconds(code: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - begin


def measure(package: str) -> Metrics:
    """Return the milliseconds that a process takes without and with the package.

    One process runs right after the other, so that a busy machine affects both.
    """
    base, whole = _seconds(BASE) * 1000, _seconds(f"{BASE}, {package}") * 1000
    return {"base_ms": base, "wall_ms": whole, "more_ms": whole - base}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
