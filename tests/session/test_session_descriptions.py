"""The columns of a result: described until they are known, in the requested formats, one for each value of a row."""

from __future__ import annotations

import pytest

from pg_wired.errors import ProtocolError
from pg_wired.protocol import messages as m
from pg_wired.testing import describe
from tests.session.conversation import PREPARED, READY, Client, described, first, later, result


def test_each_use_is_described_until_the_first_answer_has_arrived() -> None:
    client = Client()
    sinks = [client.query("select 1", result_formats=1), client.query("select 1")]
    assert client.tags() == "PDBES" + "BDES"
    client.feed(*first((b"\1",)), *described((b"1",)))
    sinks.append(client.query("select 1", result_formats=[1]))
    assert client.tags() == "BES"
    client.feed(*later((b"\2",)))
    assert [list(sink.result) for sink in sinks] == [[(b"\1",)], [(b"1",)], [(b"\2",)]]
    assert [[field.format for field in sink.result.fields] for sink in sinks] == [[1], [0], [1]]


@pytest.mark.parametrize("names", [(), ("a", "a"), ("a",) * 1664])
def test_a_row_must_have_as_many_columns_as_were_described(names: tuple[str, ...]) -> None:
    client = Client()
    row = (b"x",) * len(names)
    columns = m.RowDescription(tuple(describe(["a"], ()).fields * len(names)))  # type: ignore[union-attr]
    sink = client.query("select")
    client.feed(*PREPARED[:2], columns, m.BindComplete(), *result(row), READY)
    again = client.query("select")
    client.feed(*later(row, row))
    assert (list(sink.result), len(sink.result.fields), list(again.result)) == ([row], len(names), [row, row])
    last = client.query("select")
    client.feed(m.BindComplete(), m.DataRow((*row, None)))
    assert "where" in str(last.error) and isinstance(last.error, ProtocolError)


def test_a_row_of_a_statement_described_without_columns_is_refused() -> None:
    client = Client()
    sink = client.query("insert")
    client.feed(*PREPARED, m.BindComplete(), m.DataRow(()))
    assert isinstance(sink.error, ProtocolError) and sink.result is None
