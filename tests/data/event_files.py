"""Writers of one event log in every form that is read, for the tests of readers, index and check."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import polars as pl

COLUMNS = ("user_id", "item_id", "timestamp", "rating")


def frame_of(rows: list[dict[str, Any]], *, columns: tuple[str, ...] = COLUMNS) -> pl.DataFrame:
    """The rows as a table with the columns in the given order."""
    return pl.DataFrame(rows).select(columns)


def write_parquet(frame: pl.DataFrame, folder: Path) -> Path:
    path = folder / "interactions.parquet"
    frame.write_parquet(path)
    return path


def write_csv(frame: pl.DataFrame, folder: Path) -> Path:
    path = folder / "interactions.csv"
    frame.write_csv(path)
    return path


def write_tsv_gz(frame: pl.DataFrame, folder: Path) -> Path:
    path = folder / "interactions.tsv.gz"
    path.write_bytes(gzip.compress(frame.write_csv(separator="\t").encode()))
    return path


def write_csv_zst(frame: pl.DataFrame, folder: Path) -> Path:
    path = folder / "interactions.csv.zst"
    path.write_bytes(zstd(frame.write_csv().encode()))
    return path


def write_jsonl(frame: pl.DataFrame, folder: Path) -> Path:
    path = folder / "interactions.jsonl"
    frame.write_ndjson(path)
    return path


def write_jsonl_zst(frame: pl.DataFrame, folder: Path) -> Path:
    path = folder / "interactions.jsonl.zst"
    buffer = io.BytesIO()
    frame.write_ndjson(buffer)
    path.write_bytes(zstd(buffer.getvalue()))
    return path


def write_recbole(frame: pl.DataFrame, folder: Path) -> Path:
    kinds = {"user_id": "token", "item_id": "token", "timestamp": "float", "rating": "float"}
    path = folder / "log.inter"
    frame.rename({name: f"{name}:{kinds[name]}" for name in frame.columns}).write_csv(path, separator="\t")
    return path


def write_hf_dataset(frame: pl.DataFrame, folder: Path) -> Path:
    """What `datasets.Dataset.save_to_disk` writes, in two shards."""
    folder.mkdir(parents=True, exist_ok=True)
    middle = frame.height // 2
    files = []
    for number, part in enumerate((frame.head(middle), frame.slice(middle))):
        files.append({"filename": f"data-{number:05d}-of-00002.arrow"})
        part.write_ipc_stream(folder / files[-1]["filename"], compat_level=pl.CompatLevel.oldest())
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_indices_files": None}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


WRITERS = (
    write_parquet,
    write_csv,
    write_tsv_gz,
    write_csv_zst,
    write_jsonl,
    write_jsonl_zst,
    write_recbole,
    write_hf_dataset,
)


def zstd(content: bytes) -> bytes:
    """A zstd frame that stores `content` uncompressed (RFC 8878): a writer for tests that need no package for it."""
    header = b"\x28\xb5\x2f\xfd" + b"\xa0" + len(content).to_bytes(4, "little")
    blocks = [content[start : start + 65536] for start in range(0, len(content), 65536)] or [b""]
    body = b"".join(
        ((len(block) << 3) | (number == len(blocks) - 1)).to_bytes(3, "little") + block
        for number, block in enumerate(blocks)
    )
    return header + body
