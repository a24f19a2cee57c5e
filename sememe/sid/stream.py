"""Catalogues that do not fit in memory: item vectors are read from Parquet in blocks, and codes are written in parts.

    source = VectorFile(Path("vectors.parquet"))
    tokenizer = fit_sampled(ResidualKMeans(), source, seed=0)
    encode_file(tokenizer, source, Path("codes.parquet"))
    read = read_codes_file(Path("codes.parquet"))

Codebooks need far fewer vectors than a large catalogue has: they are fitted on a uniform sample.  An encoding that is
killed goes on with the part at which it was.

Shape legend: n items, dim width of their vectors, L levels.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from sememe.core.artifact import only_writer, write_file
from sememe.core.errors import ArtifactError, ConfigError, DataError
from sememe.core.schema import FloatArray, Int32Array
from sememe.core.seeding import generator
from sememe.sid.context import ContextFitter, Fitter, fit_in_context
from sememe.sid.encode import WholeEncoder
from sememe.sid.fitted import FittedTokenizer, kind_of

BLOCK_ROWS = 65_536
"""Vectors in memory at once: 100 MB of 384 float32."""
PART_ROWS = 1_048_576
"""Items per part: at most so many are encoded again after an interruption."""
SAMPLE = 262_144
"""Vectors that codebooks are fitted on: a thousand for each of 256 codes."""
SIZES = "sememe.codebook_sizes"
"""Where a file of codes says how many codes each level has, in the metadata of the Parquet file."""

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class VectorBlock:
    """Some rows of a file of vectors, one after the other."""

    first: int
    """Row of the first of them in the file."""
    items: pl.Series
    """(n,) item ids."""
    vectors: FloatArray
    """(n, dim)"""


@dataclass(frozen=True)
class VectorFile:
    """Item ids and vectors in a Parquet file, or in a directory of them, read in the order of their names."""

    path: Path
    items: str = "item_id"
    vectors: str = "vector"
    """A column of arrays or lists of numbers, all of one length."""

    def files(self) -> list[Path]:
        """The files, in order.  Raises DataError where there are none."""
        found = sorted(self.path.glob("*.parquet")) if self.path.is_dir() else [self.path]
        if not found or not all(file.is_file() for file in found):
            raise DataError(f"there is no Parquet file at {self.path}", fix="give a file, or a directory of files")
        return found

    def count(self) -> int:
        """n.  Raises DataError for a file without the two columns, without numbers in the vectors, or without rows."""
        self._check_columns()
        rows = int(self._scan().select(pl.len()).collect().item())
        if rows == 0:
            raise DataError(f"{self.path} has no row", fix="write one row per item")
        return rows

    def _check_columns(self) -> None:
        columns = self._scan().collect_schema()
        for name in (self.items, self.vectors):
            if name not in columns:
                raise DataError(
                    f"{self.path} has no column {name!r}, but {', '.join(map(repr, columns.names()))}",
                    fix="name the columns: VectorFile(path, items=..., vectors=...)",
                )
        kind = columns[self.vectors]
        if not isinstance(kind, pl.Array | pl.List) or not kind.inner.is_numeric():
            raise DataError(
                f"column {self.vectors!r} of {self.path} holds {kind}, not one vector of numbers per row",
                fix="write vectors as arrays or lists of numbers, or name another column",
            )

    def blocks(self, *, start: int = 0, rows: int = BLOCK_ROWS) -> Iterator[VectorBlock]:
        """All vectors from row `start` on, in order, at most `rows` at once.

        Raises:
            DataError: a column is missing or no vectors; or a vector is missing, has another width than the first, or
                holds NaN or infinity; says which row.
        """
        self._check_columns()
        frame = self._scan().select(self.items, self.vectors).slice(start)
        dim: int | None = None
        for chunk in frame.collect_batches(chunk_size=rows, maintain_order=True):
            # What the reader gives may be longer than asked for.
            for offset in range(0, chunk.height, rows):
                part = chunk.slice(offset, rows)
                vectors = _as_matrix(part[self.vectors], first=start, dim=dim)
                dim = vectors.shape[1]
                yield VectorBlock(first=start, items=part[self.items], vectors=vectors)
                start += part.height

    def sample(self, most: int, *, seed: int) -> FloatArray:
        """(min(n, most), dim) vectors, drawn uniformly without replacement, in the order of the file."""
        rows = self.count()
        chosen = np.arange(rows)
        if rows > most:
            chosen = np.sort(generator(seed, "sid", "sample").choice(rows, most, replace=False))
        parts = []
        for block in self.blocks():
            low, high = np.searchsorted(chosen, (block.first, block.first + len(block.vectors)))
            parts.append(block.vectors[chosen[low:high] - block.first])
        return np.concatenate(parts)

    def fingerprint(self) -> list[str]:
        """The columns, and names, sizes and times of the files: what tells that they are still the same."""
        stats = [(file, file.stat()) for file in self.files()]
        return [
            f"{self.items} {self.vectors}",
            *(f"{file.name} {stat.st_size} {stat.st_mtime_ns}" for file, stat in stats),
        ]

    def _scan(self) -> pl.LazyFrame:
        return pl.scan_parquet(self.files(), glob=False)


def fit_sampled(
    tokenizer: Fitter | ContextFitter, source: VectorFile, *, most: int = SAMPLE, seed: int
) -> FittedTokenizer:
    """Fit on a uniform sample of at most `most` vectors.

    Raises:
        ConfigError: `most` is below 1, or the tokenizer reads the log, which such a file does not hold.  Else what the
            tokenizer and the source raise.
    """
    if most < 1:
        raise ConfigError(f"most is {most}, below 1", fix="give as many vectors as fit in memory")
    return fit_in_context(
        tokenizer,
        source.sample(most, seed=seed),
        context=None,
        seed=seed,
        fix="fit it on items that memory holds, fit_in(vectors, context=CodeContext(widths, train), seed=...), and "
        "encode_file with what comes out; or use a tokenizer of vectors alone, such as ResidualKMeans",
    )


def encode_file(
    tokenizer: FittedTokenizer, source: VectorFile, out: Path, *, part_rows: int = PART_ROWS, say: Say = print
) -> Path:
    """Write the codes of every item of `source` to the Parquet file `out`; collisions are not dealt with.

    Columns: those of the ids, and "codes", an array of L int32.  Until `out` is whole, the parts lie in a directory
    beside it, and the same call goes on where a killed one was.

    Raises:
        ConfigError: the tokenizer deals codes out to a catalogue as a whole, or the parts beside `out` are of another
            tokenizer or another source.
        DataError: as `VectorFile.blocks`; or an id is there twice.
    """
    if isinstance(tokenizer, WholeEncoder):
        raise ConfigError(
            f"{type(tokenizer).__name__} deals its codes out to all items together, which takes all their vectors",
            fix="use a tokenizer that codes each vector by itself, such as ResidualKMeans, or encode in memory",
        )
    total = source.count()
    _check_unique(source)
    parts = out.parent / f"{out.name}.parts"
    with only_writer(parts):
        _check_plan(parts, tokenizer, source, part_rows=part_rows)
        for first in range(0, total, part_rows):
            part = parts / f"{first:012d}.parquet"
            if not part.exists():
                _write_part(part, tokenizer, source, first=first, rows=min(part_rows, total - first))
            say(f"{min(first + part_rows, total):,} of {total:,} items have codes")
        sizes = json.dumps(list(tokenizer.codebook_sizes))
        whole = pl.scan_parquet(sorted(parts.glob("*.parquet")), glob=False)
        temporary = parts / "whole.tmp"
        whole.sink_parquet(temporary, metadata={SIZES: sizes}, maintain_order=True)
        _publish(temporary, out)
    shutil.rmtree(parts)
    return out


@dataclass(frozen=True, eq=False)
class CodesFile:
    """What `encode_file` wrote."""

    items: pl.Series
    """(n,) item ids, in the order of the source."""
    matrix: Int32Array
    """(n, L)"""
    codebook_sizes: tuple[int, ...]


def read_codes_file(path: Path) -> CodesFile:
    """Open a file of `encode_file`: 4 L bytes per item and the ids.  Raises ArtifactError for any other file."""
    if not path.is_file():
        raise ArtifactError(f"there is no file of codes at {path}", fix="write one with encode_file")
    sizes = tuple(json.loads(pl.read_parquet_metadata(path).get(SIZES, "[]")))
    frame = pl.read_parquet(path, glob=False)
    if not sizes or frame.width != 2 or frame.schema.get("codes") != pl.Array(pl.Int32, len(sizes)):
        raise ArtifactError(f"{path} was not written by encode_file", fix="encode the vectors again")
    matrix = frame["codes"].to_numpy()
    if len(matrix) and (matrix.min() < 0 or (matrix.max(axis=0) >= sizes).any()):
        raise ArtifactError(f"{path} holds codes outside of its codebooks of {sizes}", fix="encode the vectors again")
    return CodesFile(items=frame.to_series(0), matrix=np.ascontiguousarray(matrix, np.int32), codebook_sizes=sizes)


def _as_matrix(column: pl.Series, *, first: int, dim: int | None) -> FloatArray:
    """(n, dim) float32 of a column of vectors; `first` is the row of the first of them."""
    lists = column.arr.to_list() if isinstance(column.dtype, pl.Array) else column
    widths = lists.list.len()
    dim = int(widths.drop_nulls().max() or 0) if dim is None else dim  # type: ignore[arg-type]
    wrong = ((widths != dim) | widths.is_null()).arg_true()
    if len(wrong) or dim == 0:
        row = wrong[0] if len(wrong) else 0
        raise DataError(
            f"the vector in row {first + row} has {widths[row] or 'no'} numbers, where others have {dim}",
            fix="give every item a vector of one width; zeros stand for 'nothing known'",
        )
    flat = column.to_numpy() if isinstance(column.dtype, pl.Array) else lists.explode().to_numpy()
    matrix = np.asarray(flat, np.float32).reshape(-1, dim)
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(bad):
        raise DataError(
            f"the vector in row {first + bad[0]} holds NaN or infinity",
            fix="repair or leave out these vectors; a zero vector stands for 'nothing known'",
        )
    return np.ascontiguousarray(matrix, np.float32)


def _check_unique(source: VectorFile) -> None:
    items = pl.scan_parquet(source.files(), glob=False).select(source.items)
    found = items.select(pl.len().alias("rows"), pl.col(source.items).n_unique().alias("ids")).collect(
        engine="streaming"
    )
    rows, ids = found.row(0)
    if rows != ids:
        raise DataError(f"{rows - ids} of {rows} rows repeat an item id", fix="write one row per item")


def _check_plan(parts: Path, tokenizer: FittedTokenizer, source: VectorFile, *, part_rows: int) -> None:
    """Note what the parts are made of, or refuse to mix them with those of something else."""
    digest = hashlib.sha256(kind_of(tokenizer).encode())
    for name, array in sorted(tokenizer.state().items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    plan = {"tokenizer": digest.hexdigest(), "source": source.fingerprint(), "part_rows": part_rows}
    note = parts / "plan.json"
    if not note.exists():
        write_file(note, json.dumps(plan, indent=2) + "\n")
    before = json.loads(note.read_text(encoding="utf-8"))
    changed = [name for name, value in plan.items() if before.get(name) != value]
    if changed:
        raise ConfigError(
            f"{parts} holds parts of another encoding: {' and '.join(changed)} changed since",
            fix="remove that directory to start anew, or write to another file",
        )


def _write_part(part: Path, tokenizer: FittedTokenizer, source: VectorFile, *, first: int, rows: int) -> None:
    frames = []
    remaining = rows
    for block in source.blocks(start=first, rows=min(BLOCK_ROWS, rows)):
        taken = min(remaining, len(block.vectors))
        codes = tokenizer.encode(block.vectors[:taken])
        column = pl.Series("codes", codes, dtype=pl.Array(pl.Int32, codes.shape[1]))
        frames.append(pl.DataFrame([block.items[:taken], column]))
        remaining -= taken
        if remaining == 0:
            break
    temporary = part.with_suffix(".tmp")
    pl.concat(frames).write_parquet(temporary)
    _publish(temporary, part)


def _publish(temporary: Path, path: Path) -> None:
    """Put a finished file in its place, so that a crash leaves all of it or nothing."""
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    temporary.replace(path)
