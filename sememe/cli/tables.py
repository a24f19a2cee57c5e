"""Data frames as tables for the terminal."""

import polars as pl
from rich.table import Table


def frame_table(frame: pl.DataFrame, *, title: str) -> Table:
    """A table with one line per row; floats with four digits."""
    table = Table(title=title, title_justify="left")
    for name, dtype in frame.schema.items():
        table.add_column(name, justify="right" if dtype.is_numeric() else "left")
    for row in frame.iter_rows():
        table.add_row(*(f"{value:.4f}" if isinstance(value, float) else str(value) for value in row))
    return table
