"""docs/connecting.md describes every option as the code defines it."""

from __future__ import annotations

from tests.config.option_table import parts, table


def test_the_page_has_the_tables_generated_from_the_code() -> None:
    assert parts()[1] == table(), "write it anew with: python -m tests.config.option_table"
