"""One sample of what importing a package costs: two new processes, with it and without. Prints a line of JSON."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from .work import Metrics

BASE = "import asyncio, ssl"  # what everybody who talks to a server has imported anyway


def _seconds(code: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - begin


def measure(package: str) -> Metrics:
    """Milliseconds from start to end of a process, side by side so that a busy machine counts for both."""
    base, whole = _seconds(BASE) * 1000, _seconds(f"{BASE}, {package}") * 1000
    return {"base_ms": base, "wall_ms": whole, "more_ms": whole - base}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
