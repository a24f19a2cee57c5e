"""Opening files for a check: broken lines are reported and read as far as they go, and every row knows its place."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
from polars.io.plugins import register_io_source

from sememe.core.errors import DataError
from sememe.data.file_formats import PLACE, RawTable, format_of, recbole_columns, scan_files, without_blank_lines
from sememe.data.line_checks import (
    JsonTypes,
    check_json_lines,
    check_plain_lines,
    check_separated_lines,
    line_chunks,
    parse_object,
    text_lines,
)
from sememe.data.problems import Problem

PLACE_BITS = 40
SEPARATED = {"csv": (",", True), "tsv": ("\t", True), "recbole": ("\t", False)}
"""Format -> its separator, and whether fields may be quoted."""

_SAMPLE_LINES = 1000


@dataclass
class LenientScanner:
    """Opens files one table at a time, and remembers what was wrong with them and where each row came from."""

    problems: list[Problem] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    """The upper bits of a place are an index into this."""
    json_types: dict[str, JsonTypes] = field(default_factory=dict)
    """File name -> types of its keys."""

    def scan(self, files: tuple[Path, ...]) -> RawTable:
        """The table in `files`, without columns where none of them can be opened."""
        frames, formats = [], []
        for path in files:
            try:
                frames.append(self._scan_one(path))
                formats.append(format_of(path))
            except DataError as error:
                rule = "empty file" if path.is_file() and path.stat().st_size == 0 else "unreadable file"
                self.problems.append(Problem(path.name, rule, error.problem, error.fix))
        name = files[0].name if len(files) == 1 else f"{files[0].name} and {len(files) - 1} more"
        if not frames:
            return RawTable(pl.LazyFrame(), name=name, files=files)
        return RawTable(
            pl.concat(frames, how="diagonal_relaxed"),
            name=name,
            files=files,
            format=str(formats[0]),
            typed=formats[0] in ("parquet", "arrow"),
        )

    def _scan_one(self, path: Path) -> pl.LazyFrame:
        plain = scan_header(path)
        number = len(self.files)
        self.files.append(path)
        kind = format_of(path)
        if kind in SEPARATED:
            separator, quoted = SEPARATED[kind]
            self.problems += check_separated_lines(path, separator=separator, quoted=quoted)
            rows = _separated(path, plain, separator=separator, quoted=quoted)
            return without_blank_lines(_place(rows, file=number, offset=2))
        if kind == "jsonl":
            problems, types = check_json_lines(path)
            self.problems += problems
            self.json_types[path.name] = types
            return _json_lines(path, file=number)
        if kind == "lines":
            self.problems += check_plain_lines(path)
            return _plain_lines(path, file=number)
        return _place(plain.frame, file=number, offset=1)


def scan_header(path: Path) -> RawTable:
    """The file `path` with its columns; JSON lines are not looked at, since one broken line would hide the others."""
    if format_of(path) in ("jsonl", "lines") and path.is_file() and path.stat().st_size:
        return RawTable(pl.LazyFrame(), name=path.name)
    return scan_files((path,))


def place_of(place: int) -> tuple[int, int]:
    """(index of the file, row or line) of a place."""
    return place >> PLACE_BITS, place & ((1 << PLACE_BITS) - 1)


def _place(frame: pl.LazyFrame, *, file: int, offset: int) -> pl.LazyFrame:
    counted = frame.with_row_index(PLACE)
    return counted.with_columns(pl.col(PLACE).cast(pl.Int64) + (offset + (file << PLACE_BITS)))


def _separated(path: Path, plain: RawTable, *, separator: str, quoted: bool) -> pl.LazyFrame:
    frame = pl.scan_csv(
        path,
        separator=separator,
        quote_char='"' if quoted else None,
        infer_schema=False,
        encoding="utf8-lossy",
        truncate_ragged_lines=True,
        glob=False,
    )
    own = frame.collect_schema().names()
    if not quoted:
        return frame.select(recbole_columns(own))
    return frame.rename(dict(zip(own, plain.frame.collect_schema().names(), strict=True)))


def _plain_lines(path: Path, *, file: int) -> pl.LazyFrame:
    words = pl.col("line").str.strip_chars().str.split(" ")
    lines = text_lines(path).filter(pl.col("line").str.strip_chars() != "")
    return lines.select(
        words.list.first().alias("user_id"),
        words.list.slice(1).alias("item_ids"),
        (pl.col("number").cast(pl.Int64) + (file << PLACE_BITS)).alias(PLACE),
    )


def _json_lines(path: Path, *, file: int) -> pl.LazyFrame:
    """The objects of `path` with every value as text, or as a list of texts; broken lines are passed over."""
    schema = _json_schema(path)

    def read(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        left = n_rows
        for chunk in line_chunks(path):
            frame = _json_frame(chunk, schema=schema, file=file)
            frame = frame if left is None else frame.head(left)
            left = None if left is None else left - frame.height
            frame = frame if predicate is None else frame.filter(predicate)
            yield frame if with_columns is None else frame.select(with_columns)
            if left == 0:
                return

    return register_io_source(read, schema=schema)


def _json_schema(path: Path) -> dict[str, Any]:
    lines = (line for chunk in line_chunks(path) for line in chunk["line"])
    schema: dict[str, Any] = {PLACE: pl.Int64}
    for line in islice(lines, _SAMPLE_LINES):
        for key, value in (parse_object(line) or {}).items():
            schema.setdefault(key, pl.List(pl.String) if isinstance(value, list) else pl.String)
    return schema


def _json_frame(chunk: pl.DataFrame, *, schema: dict[str, Any], file: int) -> pl.DataFrame:
    columns: dict[str, list[Any]] = {name: [] for name in schema}
    for number, line in zip(chunk["number"], chunk["line"], strict=True):
        record = parse_object(line)
        if record is None:
            continue
        columns[PLACE].append(number + (file << PLACE_BITS))
        for name, dtype in schema.items():
            if name != PLACE:
                columns[name].append(_as_text(record.get(name), is_list=dtype != pl.String))
    return pl.DataFrame(columns, schema=schema)


def _as_text(value: Any, *, is_list: bool) -> Any:
    if value is None:
        return None
    if is_list:
        return [_as_text(entry, is_list=False) for entry in value] if isinstance(value, list) else None
    return value if isinstance(value, str) else json.dumps(value)
