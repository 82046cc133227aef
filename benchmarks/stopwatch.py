"""A stopwatch for wall time, CPU time of this process, and the share of a core that the server used meanwhile."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from .work import Metrics

SERVER = "BENCHMARK_SERVER"  # the environment variable with the process ID of the server that is measured
TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds; the unit in which proc(5) counts the time of children that have ended
ENDED = slice(13, 15)  # cutime and cstime in /proc/PID/stat, among the fields after the name


class Stopwatch:
    """Measures from its creation, in seconds. Creating it first collects all garbage."""

    def __init__(self) -> None:
        gc.collect()
        self._running, self._ended = _running(), _ended()
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def times(self) -> tuple[float, float]:
        """Return the wall time and this process's CPU time, in seconds."""
        return time.perf_counter() - self._wall, time.process_time() - self._cpu

    def busy(self) -> float:
        """Return the percentage of one core that the server's processes used. Near 100 the server is the bottleneck."""
        wall, _ = self.times()
        return needed(self._running, _running(), _ended() - self._ended) / wall * 100

    def each(self, count: int) -> Metrics:
        """Return the times divided by `count`, in microseconds, the rate in 1000/s, and how busy the server was."""
        wall, cpu = self.times()
        times = {"wall_us": wall / count * 1e6, "cpu_us": cpu / count * 1e6, "rate": count / wall / 1000}
        return times | {"busy": self.busy()}


def needed(before: Mapping[str, float], now: Mapping[str, float], ended: float) -> float:
    """Return the CPU seconds that the server's processes used, from the seconds of each process before and now.

    `ended` is the total CPU time of the processes that have ended meanwhile. The time that they had used before is
    subtracted from it; the result is at least 0, because `ended` is known only to the tick.
    """
    known = sum(seconds for pid, seconds in before.items() if pid not in now)
    return sum(seconds - before.get(pid, 0.0) for pid, seconds in now.items()) + max(0.0, ended - known)


def _running() -> dict[str, float]:
    """Return the CPU seconds that the server, and each of its child processes, has used so far."""
    server = os.environ[SERVER]
    found = {}
    for pid in [server, *Path("/proc", server, "task", server, "children").read_text().split()]:
        with suppress(FileNotFoundError, ProcessLookupError):  # the process has ended meanwhile
            found[pid] = int(Path("/proc", pid, "schedstat").read_text().split()[0]) / 1e9
    return found


def _ended() -> float:
    """Return the total CPU seconds of the server's child processes that have ended."""
    fields = Path("/proc", os.environ[SERVER], "stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[ENDED])) * TICK
