"""What is said of an item over the API, as rows of a run's catalogue, and what its embedder makes of them.

Shape legend: n items, dim the width of the run's item vectors.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from sememe.core.errors import ConfigError, DataError, SememeError
from sememe.core.schema import FloatArray
from sememe.pipeline.live import embed_new
from sememe.pipeline.opened import Run
from sememe.pipeline.recipe import Recipe

Fields = Mapping[str, Any]
VECTOR = "vector"
"""The field of a brought vector, where the run was made of such."""


def unread_fields(run: Run, fields: Sequence[Fields]) -> list[str]:
    """Names that no column of the run's catalogue has, in order of the alphabet."""
    known = {*run.world.catalog.frame.columns, *([VECTOR] if run.world.catalog.vectors is not None else [])}
    return sorted({name for one in fields for name in one} - known)


def catalogue_rows(run: Run, item_ids: Sequence[str], fields: Sequence[Fields]) -> pl.DataFrame:
    """(n rows) the columns of the run's catalogue; null where nothing is said.

    Raises DataError for an id or a value of another kind than those of the catalogue.
    """
    schema = run.world.catalog.frame.schema
    columns = [
        _column(name, [*item_ids] if name == "item_id" else [one.get(name) for one in fields], dtype)
        for name, dtype in schema.items()
    ]
    return pl.DataFrame(columns)


def embed_rows(run: Run, row: str, item_ids: Sequence[str], fields: Sequence[Fields]) -> FloatArray:
    """float32 (n, dim) vectors of new items, in the space of the run.

    row: of the run, whose recipe says how items are embedded.

    Raises:
        MissingExtraError: the text encoder is not installed here.
        ConfigError: the recipe can embed no new items.
        DataError: of an item nothing is said that the embedder reads.
    """
    frame = catalogue_rows(run, item_ids, fields)
    brought = brought_vectors(run, fields)
    if brought is not None:
        frame = frame.with_columns(brought)
    vectors = embed_new(_member(run, row), run.world, run.items, frame)
    empty = np.flatnonzero(~vectors.any(axis=1))
    if len(empty):
        raise DataError(
            f"of item {item_ids[int(empty[0])]!r} nothing is said that the model's embedder reads",
            fix=f"give it one of the fields that the run's catalogue has: {_readable(run)}",
        )
    return vectors


def embed_known(run: Run, row: str, *, count: int) -> FloatArray:
    """float32 (count or fewer, dim) what `embed_rows` would make of the first items of the run: loads all it needs.

    Raises as `embed_rows`, and NothingToEmbedError where of none of them anything is said.
    """
    return embed_new(_member(run, row), run.world, run.items, run.world.catalog.frame.head(count))


def _member(run: Run, row: str) -> Recipe:
    """The recipe of a row of the run."""
    members = {member.name: member for member in (run.recipe, *run.recipe.baselines)}
    return members[row.partition(":")[0]]


def _readable(run: Run) -> str:
    names = [name for name in run.world.catalog.frame.columns if name != "item_id"]
    return ", ".join([*names, *([VECTOR] if run.world.catalog.vectors is not None else [])]) or "none"


def brought_vectors(run: Run, fields: Sequence[Fields]) -> pl.Series | None:
    """The vectors that items bring along; None where the run reads none, or none is there."""
    vectors = run.world.catalog.vectors
    given = [one.get(VECTOR) for one in fields]
    if vectors is None or all(value is None for value in given):
        return None
    width = vectors.shape[1]
    for value in given:
        if value is not None and not (isinstance(value, list) and len(value) == width):
            length = f"has {len(value)} numbers" if isinstance(value, list) else f"is {str(value)[:40]!r}"
            raise DataError(f"a vector {length}, and those of the run have {width}", fix=f"send {width} numbers")
    return _column(VECTOR, given, pl.List(pl.Float32()))


def _column(name: str, values: Sequence[Any], dtype: pl.DataType) -> pl.Series:
    try:
        if dtype.is_temporal():
            return pl.Series(name, values, dtype=pl.String(), strict=True).cast(dtype)
        if name == "item_id" and dtype.is_integer():
            return pl.Series(name, values, dtype=pl.String(), strict=True).cast(dtype)
        if dtype.is_float() or isinstance(dtype, pl.List) and dtype.inner.is_float():
            _refuse_text(values)
            return pl.Series(name, values, dtype=dtype, strict=False)
        return pl.Series(name, values, dtype=dtype, strict=True)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        if isinstance(error, SememeError):
            raise
        said = [str(value)[:40] for value in values if value is not None]
        raise DataError(
            f"the field {name!r} holds what is no {dtype}, as the run's catalogue has there: {', '.join(said[:3])}",
            fix="send values of the kind that the run was made of",
        ) from error


def _refuse_text(values: Sequence[Any]) -> None:
    """Numbers only: what is not one would become null."""
    for value in values:
        for one in value if isinstance(value, list) else [value]:
            if one is not None and (isinstance(one, bool) or not isinstance(one, int | float)):
                raise TypeError(f"{one!r} is no number")


def check_growable(run: Run, row: str) -> None:
    """Raise ConfigError where `row` of a run can take in no items that came later."""
    if run.recommender.rerank is not None:
        name = row.partition(":")[0]
        views = [f"--model {name}:{view.name}" for view in run.recipe.views]
        raise ConfigError(
            f"row {row!r} ends with a fitted last word, which holds statistics of the items that it was fitted on, and "
            "none of new ones",
            fix=f"serve a row without one: {' or '.join(views) or 'this run has none'}",
        )
    if run.recommender.trie is None or run.items.codes is None or run.items.vectors is None:
        raise ConfigError(
            f"row {row!r} knows items by their numbers, and cannot know new ones",
            fix="serve a generator, or train again: sememe refresh RUN",
        )
    stage = run.items.stages["codes"]
    if stage.meta["result"].get("tokenizer") is None:
        raise ConfigError(
            f"{stage.path.name} does not say which tokenizer made it, as an older Sememe did not",
            fix="delete that directory and run the recipe again",
        )
