"""Versions of a living catalogue on disk: each whole or absent, none ever changed, one of them current.

    CATALOGUE/current.json          which version is current
    CATALOGUE/versions/000007/      an artifact: manifest.json, catalogue.json, items.parquet, *.safetensors

A save writes a new version beside the others and then moves the pointer, which is one rename: a process that is killed
leaves the old version current, whenever it dies.  Numbers are never used twice, and versions that are not current may
be deleted by hand.  Nothing is pickled.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors.numpy import load_file, save_file

from sememe.core.artifact import Manifest, only_writer, read_artifact, write_artifact, write_file
from sememe.core.errors import ArtifactError
from sememe.core.schema import Codes
from sememe.sid.catalogue import FreshItems, LiveCatalogue
from sememe.sid.fitted import kind_of, load_tokenizer, save_tokenizer

KIND = "catalogue"
POINTER = "current.json"
VERSIONS = "versions"


@dataclass(frozen=True, eq=False)
class SavedCatalogue:
    """A catalogue as it was read."""

    catalogue: LiveCatalogue
    version: int
    manifest: Manifest


@dataclass(frozen=True)
class Versions:
    """What a directory holds."""

    current: int
    kept: tuple[int, ...]
    """Rising; a version that was written and never became current is among them."""


def save_catalogue(path: Path, catalogue: LiveCatalogue, *, based_on: int | None, note: str = "") -> int:
    """Write a new version and make it current; gives its number.

    Args:
        path: the directory of the catalogue; made where it is not there.
        catalogue: what to write.
        based_on: the version that `catalogue` was made from; None for the first one of a directory.
        note: what changed, kept in the version's manifest.

    Raises:
        ArtifactError: another version became current meanwhile, so that this one would lose its changes.
        SememeError: another process is writing to the directory.
    """
    with only_writer(path):
        pointer = _pointer(path)
        current = None if pointer is None else pointer.version
        if current != based_on:
            raise ArtifactError(
                f"version {current} of {path} is current, and these changes are based on {based_on}",
                fix="open the current version, make the changes again, and save with based_on= its number",
            )
        version = max((0 if pointer is None else pointer.newest), *_kept(path), 0) + 1
        meta = {
            "based_on": based_on,
            "note": note,
            "rows": len(catalogue.live),
            "items": catalogue.num_live,
            "retired_codes": len(catalogue.retired),
        }
        with write_artifact(_folder(path, version), kind=KIND, meta=meta) as folder:
            _write(folder, catalogue)
        _publish(path, version)
    return version


def open_catalogue(path: Path, *, version: int | None = None) -> SavedCatalogue:
    """The current version of a catalogue, or the one asked for.

    Raises:
        ArtifactError: there is no such version, or it is damaged.
        ConfigError: its tokenizer is of a class that is not imported.
    """
    wanted = catalogue_versions(path).current if version is None else version
    manifest = _whole(path, wanted)
    return SavedCatalogue(catalogue=_read(manifest.path), version=wanted, manifest=manifest)


def roll_back(path: Path, *, version: int) -> None:
    """Make an older (or newer) version current again; none is lost.

    Raises:
        ArtifactError: there is no such version, or it is damaged.
        SememeError: another process is writing to the directory.
    """
    with only_writer(path):
        _whole(path, version)
        _publish(path, version)


def catalogue_versions(path: Path) -> Versions:
    """Which versions there are.  Raises ArtifactError where there is no catalogue."""
    pointer = _pointer(path)
    if pointer is None:
        raise ArtifactError(
            f"{path} holds no catalogue: {POINTER} is missing",
            fix="save one there with save_catalogue(), based_on=None",
        )
    return Versions(current=pointer.version, kept=_kept(path))


def _write(folder: Path, catalogue: LiveCatalogue) -> None:
    codes = catalogue.codes
    arrays = {
        "codes": codes.matrix,
        "said": catalogue.said,
        "live": catalogue.live,
        "retired": catalogue.retired,
        "errors": catalogue.errors,
        "since_fit": catalogue.since_fit,
        "since_vectors": catalogue.since_vectors,
    }
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / "arrays.safetensors")
    save_tokenizer(folder / "tokenizer.safetensors", catalogue.tokenizer)
    pl.DataFrame({"item_id": catalogue.item_ids}).write_parquet(folder / "items.parquet", compression="zstd")
    layout = {
        "codebook_sizes": list(codes.codebook_sizes),
        "num_semantic_levels": codes.num_semantic_levels,
        "collisions": codes.collisions,
        "tokenizer": kind_of(catalogue.tokenizer),
        "spread": catalogue.spread,
        "fresh": None if catalogue.fresh is None else _plain_fresh(catalogue.fresh),
    }
    (folder / "catalogue.json").write_text(json.dumps(layout, indent=2) + "\n", encoding="utf-8")


def _read(folder: Path) -> LiveCatalogue:
    layout = json.loads((folder / "catalogue.json").read_text(encoding="utf-8"))
    arrays, fresh = load_file(folder / "arrays.safetensors"), layout["fresh"]
    if "since_vectors" not in arrays:
        raise ArtifactError(
            f"{folder} holds no vectors of the items that came since the fit: an older Sememe wrote it",
            fix="start the catalogue from its run, and add those items again",
        )
    return LiveCatalogue(
        codes=Codes(
            matrix=arrays["codes"],
            codebook_sizes=tuple(int(size) for size in layout["codebook_sizes"]),
            num_semantic_levels=int(layout["num_semantic_levels"]),
            collisions=str(layout["collisions"]),
        ),
        said=arrays["said"],
        item_ids=pl.read_parquet(folder / "items.parquet")["item_id"],
        tokenizer=load_tokenizer(folder / "tokenizer.safetensors", kind=str(layout["tokenizer"])),
        live=arrays["live"],
        retired=arrays["retired"],
        errors=arrays["errors"],
        since_fit=arrays["since_fit"],
        since_vectors=arrays["since_vectors"],
        spread=float(layout["spread"]),
        fresh=None if fresh is None else _read_fresh(fresh),
    )


def _plain_fresh(fresh: FreshItems) -> dict[str, Any]:
    """As JSON, which has no infinity: a tokenizer that meets all fitted items has none for the ratio."""
    return {**asdict(fresh), "error_ratio": fresh.error_ratio if isfinite(fresh.error_ratio) else None}


def _read_fresh(content: Mapping[str, Any]) -> FreshItems:
    ratio = content["error_ratio"]
    return FreshItems(
        error_ratio=float("inf") if ratio is None else ratio,
        collision_share=content["collision_share"],
        divergences=tuple(content["divergences"]),
    )


@dataclass(frozen=True)
class _Pointer:
    version: int
    newest: int
    """The highest number that was ever given, so that it is not given again once its version is deleted."""


def _publish(path: Path, version: int) -> None:
    pointer = _pointer(path)
    newest = max(version, *_kept(path), 0 if pointer is None else pointer.newest)
    write_file(path / POINTER, json.dumps({"version": version, "newest": newest}) + "\n")


def _pointer(path: Path) -> _Pointer | None:
    file = path / POINTER
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return _Pointer(version=int(content["version"]), newest=int(content["newest"]))
    except (ValueError, KeyError, TypeError) as error:
        kept = _kept(path)
        raise ArtifactError(
            f"{file} cannot be read: {error}",
            fix=f'write {{"version": N, "newest": {max(kept, default=0)}}} into it, N one of the versions {list(kept)}',
        ) from error


def _kept(path: Path) -> tuple[int, ...]:
    return tuple(sorted(int(folder.name) for folder in (path / VERSIONS).glob("*") if folder.name.isdecimal()))


def _whole(path: Path, version: int) -> Manifest:
    kept = _kept(path)
    if version not in kept:
        raise ArtifactError(f"{path} has no version {version}", fix=f"choose one of {list(kept)}")
    return read_artifact(_folder(path, version), kind=KIND)


def _folder(path: Path, version: int) -> Path:
    return path / VERSIONS / f"{version:06d}"
