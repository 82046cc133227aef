"""A real primary and streaming standby, which can be stopped, promoted and rejoined. Does not use pg_wired."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .postgres import DEADLINE, POLL, LaunchError, Mode, Postgres, Setting, Source

# By default a standby retries its primary every five seconds, and wal_sender_timeout is a minute.
IMPATIENT: dict[str, Setting] = {"wal_retrieve_retry_interval": "100ms", "wal_sender_timeout": "10s"}


class Node(Postgres):
    """One of the two servers. It starts as an independent primary."""

    def follow(self, primary: Node) -> None:
        """Delete its data, and become a standby of that server from a base backup; keep its port."""
        self.stop("immediate")
        shutil.rmtree(self._data)
        source = f"{primary.dsn} application_name={self.port}"
        self._finish(self._run("pg_basebackup", "-D", self._data, "-d", source, "-c", "fast", "--no-sync"))
        self._write(self._data / "standby.signal", "")
        # Drop the primary's ALTER SYSTEM settings, with which this server would wait for a standby when promoted.
        self._write(self._data / "postgresql.auto.conf", "")
        self._settings = {**self._settings, "primary_conninfo": source}
        self.password = primary.password
        self._describe()
        self.start()

    def promote(self) -> None:
        """Make the standby a primary; returns when it takes writes."""
        self._finish(self._run("pg_ctl", "promote", "-w", "-D", self._data))

    def sql(self, statement: str) -> str:
        """The output of psql for a statement."""
        command = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", self.dsn, "-c", statement]
        return self._finish(self._run(*command)).strip()

    def until_sql(self, statement: str) -> None:
        """Repeat the query until it returns true. Raise LaunchError after DEADLINE."""
        limit = time.monotonic() + DEADLINE
        while self.sql(statement) != "t":
            if time.monotonic() > limit:
                raise self._failed(f"come to {statement}")
            time.sleep(POLL)

    def _finish(self, process: subprocess.Popen[bytes]) -> str:
        try:
            said = process.communicate(timeout=DEADLINE)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            process.kill()
            said = process.communicate()[0].decode(errors="replace")
        if process.returncode:
            raise LaunchError(f"{process.args!r} failed:\n{said}")
        return said


class Cluster:
    """`fail_over` swaps `primary` and `standby`. All methods block: call them from a thread when a loop is running."""

    def __init__(self, primary: Node, standby: Node, synchronous: bool) -> None:
        self.primary = primary
        self.standby = standby
        self.synchronous = synchronous

    @classmethod
    @contextmanager
    def launch(
        cls, *, source: Source | None = None, synchronous: bool = True, **settings: Setting
    ) -> Iterator[Cluster]:
        """Start both servers with these settings, the standby in step; stop and remove them at the end.

        With `synchronous` a COMMIT is acknowledged once the standby has it too (synchronous_commit is on).
        """
        every: dict[str, Any] = IMPATIENT | settings
        with Node.launch(source=source, **every) as primary, Node.launch(source=source, **every) as standby:
            cluster = cls(primary, standby, synchronous)
            cluster._join()
            yield cluster

    @property
    def is_in_step(self) -> bool:
        """Whether the standby replicates, synchronously or asynchronously as configured."""
        return self.primary.sql(self._in_step) == "t"

    @property
    def _in_step(self) -> str:
        state = "sync" if self.synchronous else "async"
        name = f"application_name = '{self.standby.port}'"
        return f"select count(*) = 1 from pg_stat_replication where {name} and sync_state = '{state}'"

    @property
    def dsn(self) -> str:
        """A dsn with both servers, the current primary first."""
        nodes = (self.primary, self.standby)
        hosts, ports = ",".join(node.host for node in nodes), ",".join(str(node.port) for node in nodes)
        one = self.primary
        return f"host={hosts} port={ports} user={one.user} password={one.password} dbname={one.dbname}"

    def promote(self) -> None:
        """Promote the standby and swap the two. The old primary is left as it is, running or not."""
        self.standby.promote()
        self.primary, self.standby = self.standby, self.primary

    def fail_over(self, mode: Mode = "immediate") -> None:
        """Stop the primary, and promote the standby."""
        self.primary.stop(mode)
        self.promote()

    def rejoin(self) -> None:
        """Make the other server the standby of the primary, and wait until it is in step."""
        if self.synchronous:  # otherwise no write would be acknowledged while there is no standby
            self._wait_for_standby(False)
        self._join()

    def _join(self) -> None:
        self.standby.follow(self.primary)
        if self.synchronous:
            self._wait_for_standby(True)
        self.primary.until_sql(self._in_step)

    def _wait_for_standby(self, does_so: bool) -> None:
        names = f'"{self.standby.port}"' if does_so else ""
        self.primary.sql(f"alter system set synchronous_standby_names = '{names}'")
        self.primary.sql("select pg_reload_conf()")
        self.primary.until_sql(f"select current_setting('synchronous_standby_names') = '{names}'")
