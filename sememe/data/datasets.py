"""Data sets that are known by name: where each comes from, what it holds, and the counts it must have.

    resolve_dataset("ml-100k")            fetched on first use and kept in the user's cache directory
    resolve_dataset("amazon2014_beauty")  looked up under SEMEME_DATA, then in the cache directory
    resolve_dataset("logs/may.parquet")   a path is itself

A data set that is recognised by name must have its pinned counts: numbers are compared across machines, and a set that
is almost the same one makes them lie.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from sememe.core.errors import DataError, did_you_mean
from sememe.core.schema import Interactions
from sememe.data.feedback_files import make_simulated
from sememe.data.fetch_ml100k import fetch_ml100k
from sememe.data.ranges import count_items

ENVIRONMENT = "SEMEME_DATA"

_AMAZON = "reviews and metadata by McAuley et al. (UCSD); research use"
_AMAZON_ORIGIN = "Amazon reviews 2014, 5-core, in the order and with the ids of S3-Rec (Zhou et al., 2020)"
_MOVIELENS = "MovieLens by GroupLens, University of Minnesota; research use, no redistribution"


@dataclass(frozen=True)
class DatasetSpec:
    """What is known about a data set before it is read."""

    name: str
    """Also the name of its folder."""
    origin: str
    licence: str
    files: Mapping[str, int]
    """File in the folder -> its rows.  Files that are not there are not checked: another layout is another matter."""
    users: int | None = None
    items: int | None = None
    """Items that occur in at least one event; a catalogue may hold more."""
    events: int | None = None
    """None where the set holds no log of events, so that no recipe can be trained on it, or one that is drawn on this
    machine and may differ between machines."""
    note: str = ""
    fetch: Callable[[Path], tuple[str, ...]] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class ResolvedDataset:
    """Where to read, and what is known about it."""

    path: Path
    spec: DatasetSpec | None
    """None for data of the user's own."""
    notes: tuple[str, ...] = ()
    """What was done to get it, for the report."""


_SPECS = (
    DatasetSpec(
        name="ml-100k",
        origin="https://grouplens.org/datasets/movielens/100k/",
        licence=_MOVIELENS,
        files={"interactions.parquet": 100_000, "items.parquet": 1_682, "users.parquet": 943},
        users=943,
        items=1_682,
        events=100_000,
        note="three ratings in four share their second with another one of the same user: the file's order decides",
        fetch=fetch_ml100k,
    ),
    DatasetSpec(
        name="ml-1m",
        origin="https://grouplens.org/datasets/movielens/1m/",
        licence=_MOVIELENS,
        files={"interactions.parquet": 1_000_209, "items.parquet": 3_883, "users.parquet": 6_040},
        users=6_040,
        items=3_706,
        events=1_000_209,
        note="the position column is the order; rating and time are known for 100,000 rows only",
    ),
    DatasetSpec(
        name="amazon2014_beauty",
        origin=_AMAZON_ORIGIN,
        licence=_AMAZON,
        files={"interactions.parquet": 198_502, "items.parquet": 12_101, "users.parquet": 22_363},
        users=22_363,
        items=12_101,
        events=198_502,
        note="times are days and tie often: the position column is the order",
    ),
    DatasetSpec(
        name="amazon2014_sports",
        origin=_AMAZON_ORIGIN,
        licence=_AMAZON,
        files={"interactions.parquet": 296_337, "items.parquet": 18_357, "users.parquet": 35_598},
        users=35_598,
        items=18_357,
        events=296_337,
        note="items have keywords instead of titles, and a brand for 60 % of them",
    ),
    DatasetSpec(
        name="yoochoose100k",
        origin="RecSys Challenge 2015, a slice of 100 thousand clicks",
        licence="challenge data of YooChoose",
        files={"clicks.parquet": 83_846},
        users=21_210,
        items=2_933,
        events=83_846,
        note="sessions of unknown visitors: each session is a user",
    ),
    DatasetSpec(
        name="minionerec_Industrial_and_Scientific",
        origin="MiniOneRec's published files (Amazon reviews 2018, Industrial and Scientific)",
        licence=_AMAZON,
        files={
            "items.parquet": 3_686,
            "valid.parquet": 4_532,
            "test.parquet": 4_533,
            "train_prefixes_partial.parquet": 3_285,
        },
        items=3_686,
        note="the published training file is not part of it: for work on tokenizers and formats only",
    ),
    DatasetSpec(
        name="obd_small",
        origin="Open Bandit Dataset, the small sample (Saito et al., 2021)",
        licence="Apache-2.0, ZOZO Research",
        files={
            "impressions.parquet": 60_000,
            "items_all.parquet": 80,
            "items_men.parquet": 34,
            "items_women.parquet": 46,
        },
        note="impressions with propensities, for off-policy evaluation",
    ),
    DatasetSpec(
        name="simulated",
        origin="drawn by sememe.data.feedback_simulator with seed 0",
        licence="none: nothing of it ever happened",
        files={"items.parquet": 320},
        note="watch time, likes, follows, dislikes, exits and propensities; the best lists are known",
        fetch=make_simulated,
    ),
    DatasetSpec(
        name="search_cellphones",
        origin="Amazon reviews 2014, Cell Phones, with the published product-search recipe",
        licence=_AMAZON,
        files={
            "items.parquet": 10_429,
            "queries.parquet": 165,
            "train_qrels.parquet": 174_087,
            "test_qrels.parquet": 667,
            "item_relations.parquet": 256_832,
        },
        items=10_429,
        note="queries are built from category paths: pseudo-queries, not logs",
    ),
)

DATASETS: Mapping[str, DatasetSpec] = {spec.name: spec for spec in _SPECS}
"""Every data set that is known by name."""


def resolve_dataset(
    source: str | Path,
    *,
    environment: Mapping[str, str] = os.environ,
    specs: Mapping[str, DatasetSpec] = DATASETS,
) -> ResolvedDataset:
    """Where the data called `source` lies: an existing path wins, else a known name is looked up, then fetched.

    environment: where SEMEME_DATA, XDG_CACHE_HOME and HOME are read.

    Raises:
        DataError: there is nothing of that name, it is not here and cannot be fetched, or its files have wrong counts.
    """
    path = Path(source).expanduser()
    if path.exists():
        return _checked(path, specs.get(path.resolve().name))
    name = str(source)
    spec = specs.get(name)
    if spec is None:
        raise DataError(
            f"{name!r} is neither a file or directory that exists nor a known data set",
            fix=f"check the path; among the known data sets: {did_you_mean(name, specs)}",
        )
    places = _places(name, environment)
    for place in places:
        if place.exists():
            return _checked(place, spec)
    if spec.fetch is None:
        looked = " and ".join(str(place) for place in places)
        raise DataError(
            f"the data set {name!r} is not on this machine (looked for {looked}) and has no source to fetch it from",
            fix=f"give its directory (--data PATH), or set {ENVIRONMENT} to the folder that holds {name!r}; "
            f"it comes from: {spec.origin}",
        )
    return _checked(places[-1], spec, notes=spec.fetch(places[-1]))


def check_counts(spec: DatasetSpec, interactions: Interactions) -> None:
    """Raise DataError where a loaded log does not have the users, items and events that its name stands for."""
    occurring = count_items(interactions.items, num_items=interactions.num_items)
    found = {
        "users": int(np.sum(interactions.lengths() > 0)),
        "items with events": int(np.sum(occurring > 0)),
        "events": interactions.num_events,
    }
    pinned = {"users": spec.users, "items with events": spec.items, "events": spec.events}
    wrong = [
        f"{found[key]:,} {key} instead of {count:,}" for key, count in pinned.items() if count not in (None, found[key])
    ]
    if spec.events is not None and wrong:
        raise _mismatch(spec, where="the loaded log", wrong=wrong)


def _places(name: str, environment: Mapping[str, str]) -> tuple[Path, ...]:
    """Where a known data set may lie, the cache directory last."""
    cache = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME") or Path.home()) / ".cache"
    places = [Path(cache) / "sememe" / "datasets" / name]
    if environment.get(ENVIRONMENT):
        root = Path(environment[ENVIRONMENT]).expanduser()
        if not root.is_dir():
            raise DataError(
                f"{ENVIRONMENT} is {str(root)!r}, which is not a directory",
                fix=f"set {ENVIRONMENT} to the folder that holds the data sets, one folder each, or unset it",
            )
        places.insert(0, root / name)
    return tuple(places)


def _checked(path: Path, spec: DatasetSpec | None, *, notes: tuple[str, ...] = ()) -> ResolvedDataset:
    """Compare the rows of the files that are there with the pinned ones: a look at Parquet footers, no reading."""
    wrong = []
    for name, rows in (spec.files if spec else {}).items():
        if (path / name).is_file():
            found = _rows(path / name)
            if found != rows:
                wrong.append(f"{name} has {found:,} rows instead of {rows:,}")
    if spec and wrong:
        raise _mismatch(spec, where=str(path), wrong=wrong)
    return ResolvedDataset(path, spec, notes)


def _rows(path: Path) -> int:
    try:
        return int(pl.scan_parquet(path).select(pl.len()).collect().item())
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}", fix="get the file again") from error


def _mismatch(spec: DatasetSpec, *, where: str, wrong: list[str]) -> DataError:
    return DataError(
        f"{where} is called {spec.name!r} but is not that data set: {'; '.join(wrong)}",
        fix=f"get the set again ({spec.origin}), or, if it is another one on purpose, rename its folder",
    )
