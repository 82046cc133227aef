"""psqlpy: prepared statements, which are its default; its pool, its pipeline, and rows as tuples."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any
from urllib.parse import quote

import psqlpy

from .work import CONNECTIONS, DEPTH, SCAN, SELECT, SETUP, Fetch, Task

QUERY = SELECT.format("$1")


def _dsn() -> str:
    """Return a connection string made from libpq's variables, which psqlpy does not read."""
    user, password, host, database = (
        quote(os.environ[name], safe="") for name in ("PGUSER", "PGPASSWORD", "PGHOST", "PGDATABASE")
    )
    return f"postgresql://{user}:{password}@{host}:{os.environ['PGPORT']}/{database}?sslmode=disable"


def _pool() -> psqlpy.ConnectionPool:
    return psqlpy.ConnectionPool(dsn=_dsn(), max_db_pool_size=CONNECTIONS)


@asynccontextmanager
async def one() -> AsyncIterator[Task]:
    """One connection."""
    conn = await psqlpy.connect(dsn=_dsn())

    async def task(keys: Iterable[int]) -> str:
        value = ""
        for key in keys:
            value = await conn.fetch_val(QUERY, [key])
        return value

    yield task
    conn.close()


@asynccontextmanager
async def pool() -> AsyncIterator[Task]:
    """A pool, from which each request takes a connection."""
    pool = _pool()

    async def task(keys: Iterable[int]) -> str:
        value = ""
        for key in keys:
            async with pool.acquire() as conn:
                value = await conn.fetch_val(QUERY, [key])
        return value

    yield task
    pool.close()


@asynccontextmanager
async def transactions() -> AsyncIterator[Task]:
    """Transactions as the documentation shows them."""
    pool = _pool()

    async def task(keys: Iterable[int]) -> str:
        value = ""
        for key in keys:
            async with pool.acquire() as conn, conn.transaction() as transaction:
                await transaction.execute_batch(SETUP)
                value = str(await transaction.fetch_val(QUERY, [key]))
        return value

    yield task
    pool.close()


@asynccontextmanager
async def pipelines() -> AsyncIterator[Task]:
    """Pipelines, which psqlpy has only in a transaction."""
    conn = await psqlpy.connect(dsn=_dsn())

    async def task(clock: Iterable[int]) -> str:
        value, keys = "", iter(clock)
        while some := list(islice(keys, DEPTH)):
            async with conn.transaction() as transaction:
                results = await transaction.pipeline([(QUERY, [key]) for key in some])
            value = [result.result(as_tuple=True)[0][0] for result in results][-1]
        return value

    yield task
    conn.close()


@asynccontextmanager
async def fetch() -> AsyncIterator[Fetch]:
    """Fetch all rows as tuples of Python objects."""
    conn = await psqlpy.connect(dsn=_dsn())

    async def take() -> Sequence[Any]:
        result = await conn.fetch(SCAN)
        return result.result(as_tuple=True)

    yield take
    conn.close()
