"""Wall time, CPU time of this process, and how much of a core the server needed meanwhile."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from .work import Metrics

SERVER = "BENCHMARK_SERVER"  # the variable with the process id of the server that is measured
TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds; proc(5) counts what children needed that have ended in these
ENDED = slice(13, 15)  # cutime and cstime in /proc/PID/stat, behind the name


class Stopwatch:
    """Counts from when it was made, in seconds. The garbage of before is gone."""

    def __init__(self) -> None:
        gc.collect()
        self._running, self._ended = _running(), _ended()
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def times(self) -> tuple[float, float]:
        """Wall time, and this process's CPU time."""
        return time.perf_counter() - self._wall, time.process_time() - self._cpu

    def busy(self) -> float:
        """How many percent of one core the server's processes needed; near 100 it is the server that one waits for."""
        wall, _ = self.times()
        return needed(self._running, _running(), _ended() - self._ended) / wall * 100

    def each(self, count: int) -> Metrics:
        """The times of one of so many."""
        wall, cpu = self.times()
        times = {"wall_us": wall / count * 1e6, "cpu_us": cpu / count * 1e6, "rate": count / wall / 1000}
        return times | {"busy": self.busy()}


def needed(before: Mapping[str, float], now: Mapping[str, float], ended: float) -> float:
    """Seconds of CPU, from those of each process before and now; `ended` is what those needed, ever, that have ended.

    Of them what was needed before is taken off; no less than nothing is left, for `ended` is known to a tick alone.
    """
    known = sum(seconds for pid, seconds in before.items() if pid not in now)
    return sum(seconds - before.get(pid, 0.0) for pid, seconds in now.items()) + max(0.0, ended - known)


def _running() -> dict[str, float]:
    """Seconds of CPU that the server, and each process of its, has needed so far."""
    server = os.environ[SERVER]
    found = {}
    for pid in [server, *Path("/proc", server, "task", server, "children").read_text().split()]:
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
            found[pid] = int(Path("/proc", pid, "schedstat").read_text().split()[0]) / 1e9
    return found


def _ended() -> float:
    """The same of all its processes that have ended."""
    fields = Path("/proc", os.environ[SERVER], "stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[ENDED])) * TICK
