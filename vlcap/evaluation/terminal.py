"""Tables for the terminal, which stay readable on a line of 80 letters."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

NAME = 8  # letters of a name on one line, at least


def terminal_table(title: str, name: str, headings: Sequence[str], wrapped: Sequence[str] = ()) -> Table:
    """An empty table. Its first column holds names, which are folded where the line is too short.

    Args:
        title: What stands above it.
        name: Heading of the first column.
        headings: Headings of the other columns, which hold numbers.
        wrapped: Those of them whose cells may take two lines.
    """
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(name, min_width=NAME, overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=heading not in wrapped)
    return table
