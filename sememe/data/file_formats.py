"""One scanner per file format: path -> a lazy table with the file's own column names.

Text formats have no types, so CSV and RecBole files are read as text throughout: a reader that guesses types from the
first rows stops at the first odd row, or changes ids ("007").  Types are settled later, where the meaning is known.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import polars as pl
import polars.exceptions as pl_errors

from sememe.core.errors import DataError
from sememe.data.columns import EVENT_ALIASES, plain_name

PLACE = "__place__"
"""Where the check keeps the place of a row: number of the file in the upper bits, row or line in the lower 40."""

COMPRESSIONS = (".gz", ".zst")
USE_CHECK = "run `sememe check` on it: it lists every line that cannot be read"

Result = TypeVar("Result")

_SCALARS = {
    plain_name(alias)
    for name in ("user_id", "item_id", "timestamp", "position", "session_id")
    for alias in (name, *EVENT_ALIASES[name])
}


@dataclass(frozen=True, eq=False)
class RawTable:
    """A table as it is in its file or in memory."""

    frame: pl.LazyFrame
    name: str
    """What to call it in messages: file name, or "events" for a table in memory."""
    files: tuple[Path, ...] = ()
    format: str = "memory"
    typed: bool = True
    """False where every column is text because the format has no types."""


def format_of(path: Path) -> str | None:
    """The format of a file by its name: parquet, csv, tsv, jsonl, recbole, arrow, lines; None where unknown."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return _FORMATS.get(suffixes[-1]) if suffixes else None


def stem_of(path: Path) -> str:
    """The file's name without folder, format and compression: "ratings" for ratings.csv.gz."""
    name = path.name
    if path.suffix.lower() in COMPRESSIONS:
        name = name[: -len(path.suffix)]
    return name.rsplit(".", 1)[0]


def scan_files(files: tuple[Path, ...]) -> RawTable:
    """The rows of `files`, all of one format, one after the other.

    Raises:
        DataError: a file is missing, empty, of an unknown format, or its header cannot be read.
    """
    assert files, "at least one file"
    formats = {format_of(path) for path in files}
    if None in formats or len(formats) > 1:
        names = ", ".join(path.name for path in files)
        raise DataError(f"{names}: the format is not known, or not one", fix=f"give files of one kind: {FORMAT_LIST}")
    kind = str(formats.pop())
    for path in files:
        if not path.is_file():
            raise DataError(f"{path} does not exist", fix="correct the path")
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty (0 bytes)", fix="write the file again, or leave it out")
    frames = [read_or_explain(path, partial(_SCANNERS[kind], path)) for path in files]
    frame = frames[0] if len(frames) == 1 else pl.concat(frames, how="diagonal_relaxed")
    name = files[0].name if len(files) == 1 else f"{files[0].name} and {len(files) - 1} more"
    return RawTable(frame=frame, name=name, files=files, format=kind, typed=kind in ("parquet", "arrow", "jsonl"))


def hf_files(directory: Path) -> tuple[Path, ...]:
    """The files of a directory that Hugging Face `datasets` wrote with save_to_disk: arrow streams, see state.json.

    Of a dictionary of splits all are read, train first: Sememe makes splits of its own.
    """
    parts = [directory / split for split in _hf_splits(directory)] or [directory]
    files: list[Path] = []
    for part in parts:
        state = json.loads((part / "state.json").read_text(encoding="utf-8"))
        if state.get("_indices_files"):
            raise DataError(
                f"{part} keeps its row order in a separate indices file",
                fix="save it again after dataset.flatten_indices()",
            )
        files += [part / entry["filename"] for entry in state["_data_files"]]
    return tuple(files)


def is_hf_dataset(directory: Path) -> bool:
    """Whether save_to_disk wrote `directory`."""
    return any((directory / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _hf_splits(directory: Path) -> list[str]:
    path = directory / "dataset_dict.json"
    if not path.is_file():
        return []
    splits = json.loads(path.read_text(encoding="utf-8"))["splits"]
    order = ["train", "validation", "valid", "test"]
    return sorted(splits, key=lambda split: order.index(split) if split in order else len(order))


def read_or_explain(path: Path, read: Callable[[], Result]) -> Result:
    """Call `read`; what polars says about the file `path` becomes an error with a way out."""
    try:
        return read()
    except (pl_errors.PolarsError, UnicodeDecodeError) as error:
        first = str(error).strip().splitlines()
        raise DataError(
            f"{path} cannot be read: {first[0] if first else type(error).__name__}", fix=USE_CHECK
        ) from error


def _scan_parquet(path: Path) -> pl.LazyFrame:
    frame = pl.scan_parquet(path, glob=False)
    frame.collect_schema()
    return frame


def _scan_text(separator: str) -> Callable[[Path], pl.LazyFrame]:
    def scan(path: Path) -> pl.LazyFrame:
        frame = pl.scan_csv(path, separator=separator, infer_schema=False, glob=False)
        names = frame.collect_schema().names()
        # A byte order mark is invisible, and would make the first column unknown.
        return without_blank_lines(frame.rename({name: name.removeprefix("\ufeff").strip() for name in names}))

    return scan


def without_blank_lines(frame: pl.LazyFrame) -> pl.LazyFrame:
    """A blank line, often the last one, is no row; polars makes it a row of nulls."""
    return frame.filter(~pl.all_horizontal(pl.all().exclude(PLACE).is_null()))


def _scan_recbole(path: Path) -> pl.LazyFrame:
    # RecBole files know no quoting; a title may hold a lone quote character.
    frame = pl.scan_csv(path, separator="\t", infer_schema=False, glob=False, quote_char=None)
    return without_blank_lines(frame.select(recbole_columns(frame.collect_schema().names())))


def recbole_columns(headers: list[str]) -> list[pl.Expr]:
    """Columns without the types in their headers ("user_id:token"); sequences that are histories become lists."""
    exprs = []
    for header in headers:
        name, _, kind = header.partition(":")
        column = pl.col(header)
        if kind.endswith("_seq"):
            # "token_seq" of the interaction file are histories; of the item file mostly words of one text.
            column = column.str.split(" ") if plain_name(name).endswith(("list", "history", "seq")) else column
        exprs.append(column.alias(name))
    return exprs


def _scan_jsonl(path: Path) -> pl.LazyFrame:
    schema = pl.scan_ndjson(path).collect_schema()
    nested = (pl.List, pl.Struct, pl.Array)
    texts = {
        name: pl.String
        for name, dtype in schema.items()
        if plain_name(name) in _SCALARS and not isinstance(dtype, nested)
    }
    return pl.scan_ndjson(path, schema_overrides=texts)


def _scan_arrow(path: Path) -> pl.LazyFrame:
    with path.open("rb") as stream:
        is_file_format = stream.read(6) == b"ARROW1"
    if is_file_format:
        return pl.scan_ipc(path, glob=False)
    schema = pl.read_ipc_stream(path, n_rows=0).schema
    return pl.defer(lambda: pl.read_ipc_stream(path), schema=schema)


def _scan_lines(path: Path) -> pl.LazyFrame:
    """S3-Rec's form: each line is a user and then its items in order, separated by blanks."""
    words = pl.scan_lines(path, glob=False).select(pl.col("line").str.strip_chars().str.split(" ").alias("words"))
    filled = words.filter(pl.col("words").list.first() != "")
    return filled.select(pl.col("words").list.first().alias("user_id"), pl.col("words").list.slice(1).alias("item_ids"))


_FORMATS = {
    ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".json": "jsonl", ".inter": "recbole", ".item": "recbole", ".user": "recbole", ".arrow": "arrow",
    ".feather": "arrow", ".ipc": "arrow", ".txt": "lines", ".seq": "lines",
}  # fmt: skip

_SCANNERS: dict[str, Callable[[Path], pl.LazyFrame]] = {
    "parquet": _scan_parquet,
    "csv": _scan_text(","),
    "tsv": _scan_text("\t"),
    "jsonl": _scan_jsonl,
    "recbole": _scan_recbole,
    "arrow": _scan_arrow,
    "lines": _scan_lines,
}

FORMAT_LIST = (
    ".parquet, .csv, .tsv, .jsonl (each text format also .gz or .zst), .inter/.item (RecBole), .arrow, "
    '.txt with lines "user item item ..."'
)
