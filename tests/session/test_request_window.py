"""A window: what it records while open, and which requests it holds back. Its order in the queue: test_session."""

from __future__ import annotations

import pytest

from pg_wired.protocol import messages as m
from pg_wired.session.request import Window
from pg_wired.testing import describe
from tests.session.conversation import PREPARED, READY, Client, Sink, first, result


def test_a_window_is_handed_to_its_owner_once_it_is_open() -> None:
    client = Client()
    window = client.window("exclusive()", has_state=True, deadline=3.0)
    assert client.sinks[0].result is window
    assert (window.sql, window.has_state, window.deadline, window.is_window) == ("exclusive()", True, 3.0, True)
    assert (window.owner, window.tags, list(window.inside)) == (None, set(), [])


def test_a_window_opens_with_or_without_a_waiting_owner() -> None:
    Window(Sink(), "stream()", 0.0, False).open()
    window = Window(Sink(), "stream()", 0.0, False)
    window.sink = None
    window.open()


@pytest.mark.parametrize(
    ("tag", "kind"),
    [
        ("INSERT 0 17", "INSERT"),
        ("UPDATE 3", "UPDATE"),
        ("CREATE TABLE", "CREATE TABLE"),
        ("SET", "SET"),
        ("SELECT 3", "SELECT INTO"),
        ("", ""),
    ],
)
def test_tags_are_kept_without_their_numbers(tag: str, kind: str) -> None:
    client = Client()
    window = client.inside = client.window()
    client.simple("x")
    client.feed(m.CommandComplete(tag), READY)
    assert window.tags == {kind}


def test_a_select_tag_without_rows_is_noted_as_select_into() -> None:
    """SELECT INTO and CREATE TABLE AS also have the tag SELECT."""
    client = Client()
    window = client.inside = client.window()
    for sql in ("select 1", "select 2", "select into"):
        client.query(sql)
    client.feed(*first((b"1",)), *PREPARED[:2], m.RowDescription(()), m.BindComplete(), *result(()), READY)
    assert window.tags == {"SELECT"}
    client.feed(*PREPARED, m.BindComplete(), m.CommandComplete("SELECT 5"), READY)
    assert window.tags == {"SELECT", "SELECT INTO"}
    window.tags.clear()
    window.last_tag = ""
    client.simple("select; select into; select into")
    client.feed(describe(["a"], ()), *result((b"1",)), READY)
    assert window.tags == {"SELECT"}


def test_tags_of_requests_outside_the_window_are_not_noted() -> None:
    client = Client()
    client.simple("insert")
    window = client.window()
    client.feed(m.CommandComplete("INSERT 0 1"), READY)
    assert client.session.window is window and window.tags == set()


def test_only_a_window_with_state_may_leave_a_transaction_open() -> None:
    for has_state in (True, False):
        client = Client()
        client.inside = client.window(has_state=has_state)
        sink = client.simple("begin")
        client.take()
        client.feed(m.CommandComplete("BEGIN"), m.ReadyForQuery("T"))
        assert client.sent() == ([] if has_state else [m.Query("ROLLBACK")])
        assert sink.is_answered is has_state


def test_an_open_window_holds_back_other_requests() -> None:
    client = Client()
    window = client.window()
    outside = client.simple("outside")
    assert client.sent() == [] and not outside.is_answered
    client.session.leave(window)
    assert client.sent() == [m.Query("outside")]


def test_a_window_records_its_owner_and_a_copy_of_the_parameters() -> None:
    opened = Client().window()
    settings = {"TimeZone": "UTC"}
    opened.entered("a task", settings)
    settings["TimeZone"] = "CET"
    assert (opened.owner, opened.parameters) == ("a task", {"TimeZone": "UTC"})
    opened.owner_left(None)
    assert opened.owner is None
