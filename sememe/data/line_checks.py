"""Checks of text files line by line: what a reader would stumble over, with the number of the line.

Lines are read as a stream, compressed or not, with bytes that are not UTF-8 replaced by U+FFFD.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from sememe.data.problems import EXAMPLES, Example, Problem

CHUNK_LINES = 250_000
SHOWN_CHARACTERS = 60

JsonTypes = dict[str, dict[str, list[int]]]
"""Key of the objects -> name of a type -> [lines that have it, first such line]."""


def text_lines(path: Path) -> pl.LazyFrame:
    """(line, number) of the text file `path`, numbers from 1; blank lines count."""
    # A separator that no text holds makes each line one field.
    frame = pl.scan_csv(
        path,
        has_header=False,
        separator="\x1f",
        quote_char=None,
        encoding="utf8-lossy",
        schema={"line": pl.String},
        truncate_ragged_lines=True,
        empty_string_is_null=False,
        glob=False,
    )
    return frame.with_row_index("number", offset=1)


def line_chunks(path: Path) -> Iterator[pl.DataFrame]:
    """The lines of `path` in order, some at a time."""
    yield from text_lines(path).collect_batches(chunk_size=CHUNK_LINES, maintain_order=True)


@dataclass
class _Found:
    """Broken lines of one rule."""

    count: int = 0
    examples: list[Example] = field(default_factory=list)

    def add(self, numbers: pl.Series, values: pl.Series) -> None:
        self.count += len(numbers)
        free = EXAMPLES - len(self.examples)
        for number, value in zip(numbers.head(free), values.head(free), strict=True):
            self.examples.append(Example(int(number), shorten(value)))

    def problem(self, path: Path, *, rule: str, message: str, fix: str) -> list[Problem]:
        if not self.count:
            return []
        return [
            Problem(path.name, rule, message, fix, count=self.count, examples=tuple(self.examples), place="line"),
        ]


def shorten(value: object) -> str:
    """`value` as it is shown in a report."""
    text = str(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."


def check_separated_lines(path: Path, *, separator: str, quoted: bool) -> list[Problem]:
    """Bytes that are not UTF-8, lines with too many or too few fields, a quote that is never closed.

    quoted: whether a field in double quotes may hold separators and line breaks.
    """
    encoding, ragged = _Found(), _Found()
    expected, inside, opened = 0, False, 0
    for chunk in line_chunks(path):
        if not expected:
            expected = int(_fields(chunk.head(1), separator=separator, quoted=quoted)[0])
        _add_encoding(encoding, chunk)
        marked = chunk.with_columns(fields=_fields(chunk, separator=separator, quoted=quoted), whole=pl.lit(True))
        if quoted:
            # An odd number of quotes opens or closes a record of several lines: such lines have no count of their own.
            odd = chunk["line"].str.count_matches('"', literal=True) % 2
            after = (odd.cum_sum() + int(inside)) % 2
            marked = marked.with_columns(whole=(after == 0) & (odd == 0))
            if after[-1] == 1 and (opens := chunk["number"].filter((odd == 1) & (after == 1))).len():
                opened = int(opens[-1])
            inside = bool(after[-1])
        bad = marked.filter(pl.col("whole") & (pl.col("line") != "") & (pl.col("fields") != expected))
        values = bad.select(pl.format("{} fields: {}", "fields", "line")).to_series()
        ragged.add(bad["number"], values)
    problems = _encoding_problem(encoding, path)
    problems += ragged.problem(
        path,
        rule="wrong number of fields",
        message=f"the header has {expected} fields, and these lines have more or fewer",
        fix="put texts that hold the separator in double quotes, or complete the lines",
    )
    if inside:
        problems.append(_open_quote(path, line=opened))
    return problems


def _fields(chunk: pl.DataFrame, *, separator: str, quoted: bool) -> pl.Series:
    line = chunk["line"].str.replace_all('"[^"]*"', "") if quoted else chunk["line"]
    return (line.str.count_matches(separator, literal=True) + 1).alias("fields")


def _open_quote(path: Path, *, line: int) -> Problem:
    return Problem(
        path.name,
        "quote never closed",
        "a field begins with a double quote and nothing ends it, so the rest of the file is one field",
        'close the quote, or write a quote inside a field twice: ""',
        examples=(Example(line, "the last quote that opens"),),
        place="line",
    )


def _add_encoding(found: _Found, chunk: pl.DataFrame) -> None:
    bad = chunk.filter(pl.col("line").str.contains("\ufffd", literal=True))
    found.add(bad["number"], bad["line"])


def _encoding_problem(found: _Found, path: Path) -> list[Problem]:
    return found.problem(
        path,
        rule="invalid UTF-8",
        message="these lines hold bytes that are not UTF-8 (or U+FFFD, what an earlier conversion put in their place)",
        fix="convert the file, e.g. iconv -f latin1 -t utf-8 OLD > NEW",
    )


def check_plain_lines(path: Path) -> list[Problem]:
    """Lines "user item item ...": bytes that are not UTF-8, lines with a user and no item."""
    encoding, short = _Found(), _Found()
    for chunk in line_chunks(path):
        _add_encoding(encoding, chunk)
        words = chunk["line"].str.strip_chars().str.split(" ").list.len()
        bad = chunk.filter((words < 2) & (chunk["line"].str.strip_chars() != ""))
        short.add(bad["number"], bad["line"])
    return _encoding_problem(encoding, path) + short.problem(
        path,
        rule="wrong number of fields",
        message='a line is "user item item ...", and these have no item',
        fix="add the items, or remove the lines",
    )


def check_json_lines(path: Path) -> tuple[list[Problem], JsonTypes]:
    """Bytes that are not UTF-8 and lines that are no JSON object; and the types that each key's values have."""
    encoding, broken = _Found(), _Found()
    types: JsonTypes = defaultdict(dict)
    for chunk in line_chunks(path):
        _add_encoding(encoding, chunk)
        bad = []
        for number, line in zip(chunk["number"], chunk["line"], strict=True):
            record = parse_object(line)
            if record is None and line.strip():
                bad.append(number)
            for key, value in (record or {}).items():
                if value is not None:
                    types[key].setdefault(_type_name(value), [0, number])[0] += 1
        rows = chunk.filter(pl.col("number").is_in(bad))
        broken.add(rows["number"], rows["line"])
    return _encoding_problem(encoding, path) + broken.problem(
        path,
        rule="unparseable line",
        message="these lines are not one JSON object each",
        fix="write one object per line, without a comma after it and without brackets around all of them",
    ), types


def parse_object(line: str) -> dict[str, Any] | None:
    """The JSON object that `line` holds, None where it holds none."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _type_name(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "text"
    return "list" if isinstance(value, list) else "object"
