"""The test cluster: the standby has every acknowledged write, can be promoted, and the old primary rejoins."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from rig.cluster import Cluster
from rig.postgres import LaunchError

pytestmark = pytest.mark.servers

PROMISE = "select setting from pg_settings where name = 'synchronous_standby_names'"


def test_primary_and_standby_swap_roles_twice_without_losing_a_write(cluster: Cluster) -> None:
    cluster.primary.sql("drop table if exists seen; create table seen(a int)")
    ports = []
    for number in range(2):
        old = cluster.primary
        old.sql(f"insert into seen values ({number})")
        assert cluster.standby.sql("select pg_is_in_recovery()") == "t"
        assert cluster.standby.port != old.port and old.sql(PROMISE) == f'"{cluster.standby.port}"'
        cluster.fail_over()
        # The acknowledged write is there at once, without waiting for it.
        assert cluster.primary.sql("select count(*) from seen") == str(number + 1)
        assert cluster.primary.sql("select pg_is_in_recovery()") == "f" and cluster.standby is old
        ports.append(cluster.primary.port)
        cluster.rejoin()
        assert old.sql("select pg_is_in_recovery()") == "t"
        cluster.primary.sql("insert into seen values (-1); delete from seen where a = -1")
    assert len(set(ports)) == 2


def test_a_standby_refuses_writes(cluster: Cluster) -> None:
    with pytest.raises(LaunchError, match="read-only transaction"):
        cluster.standby.sql("create table nothing()")


def test_without_the_standby_no_write_is_acknowledged(cluster: Cluster) -> None:
    cluster.standby.stop("immediate")
    with ThreadPoolExecutor() as threads:
        writing = threads.submit(cluster.primary.sql, "create table promised()")
        cluster.primary.until_sql("select count(*) = 1 from pg_stat_activity where wait_event = 'SyncRep'")
        assert not writing.done()
        cluster.rejoin()
        assert writing.result() == ""
