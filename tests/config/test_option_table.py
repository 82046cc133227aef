"""That docs/connecting.md says of every option what the code does."""

from __future__ import annotations

from tests.config.option_table import parts, table


def test_the_page_has_the_table_of_the_code() -> None:
    assert parts()[1] == table(), "write it anew with: python -m tests.config.option_table"
