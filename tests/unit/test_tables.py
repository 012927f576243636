"""Tables as reports print them."""

from __future__ import annotations

from aimcost.report.table import plain_table, table

ROWS = [["q_proj", 1.5, None], ["a long operation", 20, "µs"]]


def test_a_plain_table() -> None:
    """A column takes its longest cell, or its header and two; ends of lines are bare."""
    assert table(ROWS, ["op", "time", "unit"]) == (
        "op                  time    unit\n"
        "----------------  ------  ------\n"
        "q_proj               1.5\n"
        "a long operation      20      µs"
    )
    assert table(ROWS, ["op", "time", "unit"], align=["right", "left", "left"]).splitlines()[2:] == [
        "          q_proj  1.5",
        "a long operation  20      µs",
    ]


def test_a_plain_table_is_laid_out_as_tabulate_does() -> None:
    rows = [["├─ vision tower", "1", ""], ["", "12.345", "80 %–2"], ["x" * 30, "", ""]]
    for headers in (["", "FLOPs", "band"], ["a heading that is wider than all of its cells", "y", "z"]):
        assert plain_table(rows, headers) == table(rows, headers)
        assert plain_table([], headers) == table([], headers)
    odd = [["a\x1b[2J", "b\n"]]
    assert plain_table(odd, ["x", "y"]) == table(odd, ["x", "y"])


def test_without_rows_headers_are_flush_left() -> None:
    assert table([], ["op", "time"]) == "op    time\n----  ------"


def test_a_markdown_table() -> None:
    assert table(ROWS[1:], ["op", "time", "unit"], left=2, style="github") == (
        "| op               | time   |   unit |\n"
        "|------------------|--------|--------|\n"
        "| a long operation | 20     |     µs |"
    )
