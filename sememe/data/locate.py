"""Where the events and the items of a source are: which files of a directory, or which tables in memory."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from sememe.core.errors import DataError
from sememe.data.data_toml import FILE_NAME, DataToml, read_data_toml
from sememe.data.file_formats import (
    FORMAT_LIST,
    RawTable,
    format_of,
    hf_files,
    is_hf_dataset,
    scan_files,
    stem_of,
)

EVENT_STEMS = (
    "interactions", "interaction", "events", "event", "ratings", "reviews", "clicks", "views", "purchases",
    "transactions", "transactions_train", "behaviors", "impressions", "log", "logs", "sequences",
    "sequential_data", "train",
)  # fmt: skip
"""Names of files with events, best first."""
ITEM_STEMS = (
    "items", "item", "catalog", "catalogue", "movies", "products", "articles", "books", "videos", "news", "games",
    "meta", "metadata", "item_features",
)  # fmt: skip
"""Names of files with items, best first."""
LATER_SPLITS = ("valid", "validation", "val", "dev", "test")
"""Files that are read after `train`: Sememe makes splits of its own."""


Scan = Callable[[tuple[Path, ...]], RawTable]


@dataclass(frozen=True, eq=False)
class Located:
    """The tables of a source as they are, and what was said about them."""

    events: RawTable
    items: RawTable | None = None
    settings: DataToml = field(default_factory=DataToml)
    notes: tuple[str, ...] = ()


def locate(source: Any, *, scan: Scan = scan_files) -> Located:
    """Find the tables of `source`: a path, a table in memory, or a mapping {"events": ..., "items": ...} of either.

    scan: what opens files; the check opens them in a way that survives bad lines.
    """
    if isinstance(source, str | Path):
        return _locate_path(Path(source), scan=scan)
    if isinstance(source, Mapping):
        unknown = set(source) - {"events", "items"}
        if unknown or "events" not in source:
            raise DataError(
                f"a mapping of tables has the keys {sorted(map(str, source))}", fix='use "events" and, if any, "items"'
            )
        items = source.get("items")
        return Located(
            events=_one_table(source["events"], name="events", scan=scan),
            items=None if items is None else _one_table(items, name="items", scan=scan),
        )
    return Located(_one_table(source, name="events", scan=scan))


def _one_table(source: Any, *, name: str, scan: Scan) -> RawTable:
    if isinstance(source, str | Path):
        return scan((Path(source),))
    return RawTable(frame=_frame(source, name=name), name=name)


def _frame(source: Any, *, name: str) -> pl.LazyFrame:
    if isinstance(source, pl.LazyFrame):
        return source
    if isinstance(source, pl.DataFrame):
        return source.lazy()
    exporter = getattr(source, "__arrow_c_stream__", None) or getattr(source, "__dataframe__", None)
    if exporter is None:
        raise DataError(
            f"{name}: a {type(source).__name__} is no table that can be read",
            fix="give a path, or a polars, pandas or Arrow table",
        )
    try:
        return pl.DataFrame(source).lazy()
    # The exporter is somebody else's code and raises what it likes.
    except Exception as error:
        raise DataError(
            f"{name}: the table cannot be converted, often for mixed types in a column: {error}",
            fix="make each column one type, e.g. frame['item_id'].astype(str)",
        ) from error


def _locate_path(path: Path, *, scan: Scan) -> Located:
    if path.is_file():
        return Located(scan((path,)), settings=_column_settings(read_data_toml(path.parent)))
    if not path.is_dir():
        raise DataError(f"{path} does not exist", fix="correct the path")
    settings = read_data_toml(path)
    if is_hf_dataset(path):
        return Located(scan(hf_files(path)), settings=settings)
    files = _data_files(path)
    events, notes = _event_files(path, files, settings=settings)
    items = _item_files(path, files, settings=settings)
    catalog = scan(_flat(items)) if items else None
    return Located(events=scan(_flat(events)), items=catalog, settings=settings, notes=notes)


def _column_settings(settings: DataToml) -> DataToml:
    """What holds for a single file of a directory: everything but the choice of files."""
    return DataToml(
        columns=settings.columns,
        time_unit=settings.time_unit,
        time_format=settings.time_format,
        history_separator=settings.history_separator,
    )


def _flat(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    return hf_files(paths[0]) if len(paths) == 1 and paths[0].is_dir() else paths


def _data_files(directory: Path) -> list[Path]:
    """Files and data folders of `directory` that can be read, in the order of their names."""
    found = []
    for path in sorted(directory.iterdir()):
        if path.name == FILE_NAME or path.name.startswith((".", "_")) or path.name.lower().startswith("readme"):
            continue
        if path.is_dir() or format_of(path) is not None:
            found.append(path)
    return found


def _event_files(directory: Path, files: list[Path], *, settings: DataToml) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    if settings.events:
        return tuple(directory / name for name in settings.events), ()
    recbole = [path for path in files if _is_format(path, ".inter")]
    if recbole:
        return _with_splits(recbole)
    for stem in EVENT_STEMS:
        found = _of_stem(files, stem)
        if found and stem == "train":
            later = [path for name in LATER_SPLITS for path in _of_stem(files, name)]
            return _with_splits(found + later)
        if found:
            return tuple(found), ()
    tables = [path for path in files if path.is_file() and _stem(path) not in (*ITEM_STEMS, "users", "user")]
    if len(tables) == 1:
        return tuple(tables), (f"{tables[0].name} is the only table that can hold events",)
    names = ", ".join(path.name for path in files) or "no file of a known format"
    raise DataError(
        f"{directory}: no file with events was found among: {names}",
        fix=f'name it in {directory / FILE_NAME}: events = "FILE", or call it interactions.*; formats: {FORMAT_LIST}',
    )


def _with_splits(files: list[Path]) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    if len(files) == 1:
        return tuple(files), ()
    names = ", ".join(path.name for path in files)
    return tuple(files), (f"read one after the other, to be split anew: {names}",)


def _item_files(directory: Path, files: list[Path], *, settings: DataToml) -> tuple[Path, ...]:
    if settings.items:
        return tuple(directory / name for name in settings.items)
    recbole = [path for path in files if _is_format(path, ".item")]
    if recbole:
        return tuple(recbole)
    return next((tuple(found) for stem in ITEM_STEMS if (found := _of_stem(files, stem))), ())


def _is_format(path: Path, suffix: str) -> bool:
    return path.is_file() and suffix in path.suffixes and format_of(path) == "recbole"


def _stem(path: Path) -> str:
    """The name without parts' numbers: "interactions" for interactions-00000-of-00004.parquet."""
    name = path.name if path.is_dir() else stem_of(path)
    return re.sub(r"[-_.]?\d+([-_]of[-_]\d+)?$", "", name.lower().replace("-", "_").replace(" ", "_"))


def _of_stem(files: list[Path], stem: str) -> list[Path]:
    """All parts of the table `stem`: files of one format, or what lies in a folder of that name."""
    found = [path for path in files if _stem(path) == stem]
    folders = [path for path in found if path.is_dir()]
    for folder in folders:
        if is_hf_dataset(folder):
            return [folder]
        inside = [path for path in sorted(folder.iterdir()) if path.is_file() and format_of(path) is not None]
        if inside:
            return inside
    plain = [path for path in found if path.is_file()]
    kinds = {format_of(path) for path in plain}
    if len(kinds) > 1:
        names = ", ".join(path.name for path in plain)
        raise DataError(
            f"{names}: the same table in several formats",
            fix=f"keep one, or name it in {plain[0].parent / FILE_NAME}",
        )
    return plain
