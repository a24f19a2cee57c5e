"""Ids of items as a catalogue keeps them: whole numbers or text, all of one kind."""

from collections.abc import Sequence

import polars as pl

from sememe.core.errors import DataError

ItemIds = Sequence[int] | Sequence[str] | pl.Series


def id_series(item_ids: ItemIds, *, like: pl.Series | None = None) -> pl.Series:
    """Ids as a series; of the type of `like` where that is given.  Raises DataError for what cannot be one."""
    fix = "give item ids as whole numbers or as text, all of one kind"
    if isinstance(item_ids, str):
        raise DataError(f"the item ids are one text, {item_ids!r}", fix="give a list of ids")
    try:
        ids = pl.Series("item_id", item_ids, strict=True)
    except TypeError as error:
        raise DataError(f"the item ids are no list of ids: {error}", fix=fix) from error
    wanted = like.dtype if like is not None else pl.String if ids.dtype == pl.String else pl.Int64
    if len(ids) == 0:
        return ids.cast(wanted)
    if not (ids.dtype == pl.String or ids.dtype.is_integer()):
        raise DataError(f"the item ids are of type {ids.dtype}", fix=fix)
    # Ids that are all whole numbers may come as text, and ids that are text may be written as numbers.
    cast = ids.cast(wanted, strict=False)
    if cast.null_count():
        bad = ids.filter(cast.is_null())[0]
        raise DataError(f"item id {bad!r} is no id of type {wanted}, which those of this catalogue are", fix=fix)
    if like is None and cast.is_duplicated().any():
        raise DataError(f"item id {cast.filter(cast.is_duplicated())[0]!r} is there twice", fix="give each item once")
    return cast
