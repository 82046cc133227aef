"""Hosts of a connection string: how lists of them are matched, and the address of each."""

from __future__ import annotations

import pytest

from pg_wired import ConnConfig
from pg_wired.config import hosts


@pytest.mark.parametrize(
    ("host", "is_unix", "socket_path", "address"),
    [
        ("/run/pg", True, "/run/pg/.s.PGSQL.77", "/run/pg/.s.PGSQL.77"),
        ("@pg", True, "@pg/.s.PGSQL.77", "\0pg/.s.PGSQL.77"),
        ("::1", False, None, ("::1", 77)),
        ("db.example", False, None, ("db.example", 77)),
    ],
)
def test_a_host_and_a_port_give_the_address_to_connect_to(
    host: str, is_unix: bool, socket_path: str | None, address: object
) -> None:
    (place,) = ConnConfig.parse(host=host, port=77, user="u").hosts
    assert (place.is_unix, place.socket_path, place.address) == (is_unix, socket_path, address)


@pytest.mark.parametrize(
    ("dsn", "places"),
    [
        ("host=a,b hostaddr=::1,", [("::1", 5432), ("b", 5432)]),
        ("host=/run/pg,b hostaddr=::1,", [("::1", 5432), ("b", 5432)]),
        ("hostaddr=::1,127.1 port=,7", [("::1", 5432), ("127.1", 7)]),
        ("hostaddr=::1,127.0.0.1 port=8", [("::1", 8), ("127.0.0.1", 8)]),
        ("hostaddr=fe80::1%lo", [("fe80::1%lo", 5432)]),
        ("host=a,,@c", [("a", 5432), "/here/.s.PGSQL.5432", "\0c/.s.PGSQL.5432"]),
        ("host=a hostaddr=''", [("a", 5432)]),
    ],
)
def test_lists_of_hosts_addresses_and_ports_are_matched_by_position(
    monkeypatch: pytest.MonkeyPatch, dsn: str, places: list[object]
) -> None:
    monkeypatch.setattr(hosts, "default_host", lambda: "/here")
    config = ConnConfig.parse(f"user=u {dsn}")
    assert [place.address for place in config.hosts] == places
    assert [place.is_unix for place in config.hosts] == [isinstance(place, str) for place in places]
    first = config.hosts[0]
    assert (config.host, config.hostaddr, config.port) == (first.host, first.hostaddr, first.port)
