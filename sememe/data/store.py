"""Interactions and Catalog as plain files in a directory: .npy arrays that can be memory mapped, Parquet, and JSON.

The functions fill and read a directory that exists; `core.artifact` makes it atomic and checks it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from sememe.core.errors import ArtifactError
from sememe.core.schema import Catalog, Interactions

_INTERACTIONS = "interactions.json"
_VOCABULARIES = "vocabularies.json"
_CATALOG = "catalog.parquet"
_VECTORS = "vectors.npy"
_REMAKE = "make it again with `sememe run`"


def save_interactions(directory: Path, interactions: Interactions) -> None:
    """Write `interactions` into `directory`: one .npy per array, ids as Parquet, interactions.json that lists them."""
    arrays: dict[str, npt.NDArray[Any]] = {"offsets": interactions.offsets, "items": interactions.items}
    if interactions.timestamps is not None:
        arrays["timestamps"] = interactions.timestamps
    arrays |= {f"column_{name}": values for name, values in interactions.columns.items()}
    for name, values in arrays.items():
        np.save(directory / f"{name}.npy", values, allow_pickle=False)
    for name, ids in (("user_ids", interactions.user_ids), ("item_ids", interactions.item_ids)):
        pl.DataFrame({"id": ids}).write_parquet(directory / f"{name}.parquet", compression="zstd")
    listing = {"has_timestamps": interactions.timestamps is not None, "columns": list(interactions.columns)}
    (directory / _INTERACTIONS).write_text(json.dumps(listing) + "\n", encoding="utf-8")


def load_interactions(directory: Path, *, memory_map: bool) -> Interactions:
    """Read what `save_interactions` wrote.

    memory_map: leave the per-event arrays in their files (read-only) and read what is used, when it is used.
    """
    listing = json.loads(_existing(directory / _INTERACTIONS).read_text(encoding="utf-8"))
    return Interactions(
        offsets=_load(directory / "offsets.npy", memory_map=False),
        items=_load(directory / "items.npy", memory_map=memory_map),
        user_ids=_load_ids(directory / "user_ids.parquet", name="user_id"),
        item_ids=_load_ids(directory / "item_ids.parquet", name="item_id"),
        timestamps=_load(directory / "timestamps.npy", memory_map=memory_map) if listing["has_timestamps"] else None,
        columns={name: _load(directory / f"column_{name}.npy", memory_map=memory_map) for name in listing["columns"]},
    )


def save_vocabularies(directory: Path, vocabularies: Mapping[str, pl.Series]) -> None:
    """Write what the codes in `Interactions.columns` mean into `directory`, which also may hold the interactions.

    vocabularies: column -> the text of each code (String, no nulls), as in `Indexed.vocabularies`.
    """
    listing = {name: texts.to_list() for name, texts in vocabularies.items()}
    text = json.dumps(listing, ensure_ascii=False, sort_keys=True, indent=0)
    (directory / _VOCABULARIES).write_text(text + "\n", encoding="utf-8", newline="\n")


def load_vocabularies(directory: Path) -> dict[str, pl.Series]:
    """Read what `save_vocabularies` wrote: column -> the text of each code, as String series named by the column."""
    listing = json.loads(_existing(directory / _VOCABULARIES).read_text(encoding="utf-8"))
    return {name: pl.Series(name, texts, dtype=pl.String) for name, texts in listing.items()}


def save_catalog(directory: Path, catalog: Catalog) -> None:
    """Write `catalog` into `directory`: Parquet (zstd), and the vectors, if any, as .npy."""
    catalog.frame.write_parquet(directory / _CATALOG, compression="zstd")
    if catalog.vectors is not None:
        np.save(directory / _VECTORS, catalog.vectors, allow_pickle=False)


def load_catalog(directory: Path) -> Catalog:
    """Read what `save_catalog` wrote."""
    vectors = directory / _VECTORS
    return Catalog(
        frame=pl.read_parquet(_existing(directory / _CATALOG)),
        vectors=_load(vectors, memory_map=False) if vectors.is_file() else None,
    )


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ArtifactError(f"{path} is missing", fix=_REMAKE)
    return path


def _load(path: Path, *, memory_map: bool) -> Any:
    values = np.load(_existing(path), mmap_mode="r" if memory_map else None, allow_pickle=False)
    return values


def _load_ids(path: Path, *, name: str) -> pl.Series:
    return pl.read_parquet(_existing(path))["id"].alias(name)
