"""Wall time, CPU time of this process, and how much of a core the server needed meanwhile."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path

from .work import Metrics

SERVER = "BENCHMARK_SERVER"  # the variable with the process id of the server that is measured
TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds; proc(5) counts what children needed that have ended in these
ENDED = slice(13, 15)  # cutime and cstime in /proc/PID/stat, behind the name


class Stopwatch:
    """Counts from when it was made, in seconds. The garbage of before is gone."""

    def __init__(self) -> None:
        gc.collect()
        self._server = _server_time()
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def times(self) -> tuple[float, float]:
        """Wall time, and this process's CPU time."""
        return time.perf_counter() - self._wall, time.process_time() - self._cpu

    def busy(self) -> float:
        """How many percent of one core the server's processes needed; near 100 it is the server that one waits for."""
        wall, _ = self.times()
        return (_server_time() - self._server) / wall * 100

    def each(self, count: int) -> Metrics:
        """The times of one of so many."""
        wall, cpu = self.times()
        times = {"wall_us": wall / count * 1e6, "cpu_us": cpu / count * 1e6, "rate": count / wall / 1000}
        return times | {"busy": self.busy()}


def _server_time() -> float:
    """Seconds of CPU that the server and its processes have needed so far, also those that have ended."""
    server = os.environ[SERVER]
    process = Path("/proc", server)
    ended = sum(map(int, process.joinpath("stat").read_text().rpartition(")")[2].split()[ENDED])) * TICK
    running = process.joinpath("task", server, "children").read_text().split()
    return ended + sum(map(_running, [server, *running]))


def _running(pid: str) -> float:
    try:
        return int(Path("/proc", pid, "schedstat").read_text().split()[0]) / 1e9
    except (FileNotFoundError, ProcessLookupError):  # it has ended since
        return 0.0
