"""The verbs of scripts, without sockets: answers to a group of messages, and incomplete messages."""

from __future__ import annotations

import pytest

from pg_wired.protocol import messages as m
from pg_wired.testing import MemoryPG, describe

ROWS = [(b"1", b"one"), (b"2", None)]


class Client:
    """The smallest client that MemoryPG works with."""

    def __init__(self, *messages: m.Message) -> None:
        self.out = bytearray(m.encode(*messages))
        self.fed = b""

    def feed(self, data: bytes) -> None:
        self.fed += data


def test_memory_pg_answers_each_message_of_a_group() -> None:
    client = Client(
        m.Close("S", "old"),
        m.Parse("s", "q"),
        m.Bind(),
        m.Describe("P"),
        m.Execute(),
        m.Flush(),
        m.Sync(),
        m.Query("q"),
    )
    pg = MemoryPG(client)
    assert len(pg.answer_rows(ROWS)) == 7
    rows = (m.DataRow(ROWS[0]), m.DataRow(ROWS[1]), m.CommandComplete("SELECT 2"))
    described = describe(["c1", "c2"], ())
    assert client.fed == m.encode(
        m.CloseComplete(), m.ParseComplete(), m.BindComplete(), described, *rows, m.ReadyForQuery("I")
    )
    assert not client.out
    client.fed = b""
    pg.answer_rows([], "BEGIN", status="T")
    assert client.fed == m.encode(m.CommandComplete("BEGIN"), m.ReadyForQuery("T"))


def test_memory_pg_has_the_verbs_of_a_script() -> None:
    client = Client(m.Sync(), m.Flush(), m.Bind(), m.Sync(), m.Terminate())
    pg = MemoryPG(client)
    assert pg.recv() == m.Sync()
    assert pg.expect(m.Flush) == [m.Flush()]
    assert pg.group() == [m.Bind(), m.Sync()]
    pg.send(m.NoData(), b"raw")
    assert client.fed == b"n\0\0\0\4raw"


def test_memory_pg_fails_at_once_when_a_message_is_missing() -> None:
    pg = MemoryPG(Client(m.Flush()))
    with pytest.raises(AssertionError, match="the client sent no whole message, only b'', and no more") as caught:
        pg.group()
    assert caught.value.__notes__ == ["F\t4\tFlush"]


def test_one_format_applies_to_all_columns_and_several_to_one_each() -> None:
    formats = [(), (1,), (1, 0)]
    described = [describe(["a", "b"], each) for each in formats]
    assert [
        [field.format for field in message.fields] for message in described if isinstance(message, m.RowDescription)
    ] == [
        [0, 0],
        [1, 1],
        [1, 0],
    ]


def test_the_transcript_leaves_out_the_content_of_large_messages() -> None:
    client = Client(m.CopyData(bytes(2**20)), m.Sync(), m.Parse("", ""))
    pg = MemoryPG(client)
    pg.expect(m.CopyData, m.Sync)
    pg.send(m.CopyData(bytes(2**20)), bytes(2**20))
    with pytest.raises(AssertionError) as caught:
        pg.expect(m.Query)
    assert caught.value.__notes__[0].splitlines() == [
        "F\t1048581\tCopyData\t not kept",
        "F\t4\tSync",
        "B\t1048581\tCopyData\t not kept",
        f"B\t1048576\tbytes\t {bytes(64)!r}",
        'F\t8\tParse\t "" "" 0',
    ]
