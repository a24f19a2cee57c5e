"""Which column of a table is which: conventional names, names given once, and ids in one form.

A table's own names are matched without regard to case and punctuation ("userId", "USER_ID" and "user id" are one name),
a given name always wins, and what was matched is reported, never guessed in silence.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import polars as pl

from sememe.core.errors import DataError, did_you_mean
from sememe.data.feedback_columns import COLUMN_NAMES

EVENT_ALIASES: Mapping[str, tuple[str, ...]] = {
    "user_id": (
        "user_id", "user", "userid", "uid", "user_idx", "reviewer_id", "reviewerid", "customer_id", "customer",
        "client_id", "visitor_id", "member_id", "account_id", "profile_id", "amazon_user",
    ),
    "item_id": (
        "item_id", "item", "itemid", "iid", "item_idx", "parent_asin", "asin", "movie_id", "movieid", "product_id",
        "product", "article_id", "book_id", "video_id", "track_id", "song_id", "artist_id", "news_id", "business_id",
        "content_id", "goods_id", "sku", "isbn", "gmap_id",
    ),
    "timestamp": (
        "timestamp", "time", "ts", "datetime", "date", "unix_review_time", "unixreviewtime", "event_time", "created_at",
        "time_stamp", "timestamps", "event_timestamp", "t_dat", "date_time",
    ),
    "position": ("position", "event_position", "sequence_number", "seq_no", "step_index", "order_in_history"),
    "rating": ("rating", "ratings", "score", "stars", "overall", "weight", "value"),
    "event_type": ("event_type", "event", "behavior_type", "behavior", "behaviour", "action", "action_type", "type"),
    "session_id": ("session_id", "session", "sessionid", "sess_id", "visit_id", "request_id"),
    "query": ("query", "search_query", "query_text", "keyword", "search_term"),
    "history": (
        "history", "item_history", "history_items", "item_ids", "items", "item_list", "sequence", "item_sequence",
        "item_seq", "item_id_list", "click_history", "seq",
    ),
    **COLUMN_NAMES,
}  # fmt: skip
"""Canonical name of an event column -> names it goes by, best first."""

ITEM_ALIASES: Mapping[str, tuple[str, ...]] = {
    "item_id": (*EVENT_ALIASES["item_id"], "id"),
    "title": (
        "title", "movie_title", "name", "item_name", "item_title", "product_title", "product_name", "track_name",
        "book_title", "headline", "prod_name",
    ),
    "categories": ("categories", "category", "genres", "genre", "class", "category_name", "category_path"),
    "brand": ("brand", "brand_name", "store", "manufacturer", "artist", "author", "publisher"),
    "description": ("description", "item_description", "summary", "overview", "abstract", "detail_desc"),
    "price": ("price", "item_price"),
    "vector": ("vector", "embedding", "item_vector", "item_embedding", "vectors"),
}  # fmt: skip
"""Canonical name of an item column -> names it goes by, best first."""

PLAIN_INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"
"""A text that is the only way to write its 64-bit integer: no leading zero, plus sign or point."""


def plain_name(name: str) -> str:
    """`name` without case and punctuation, the form in which names are compared."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def match_columns(
    names: Sequence[str], *, aliases: Mapping[str, tuple[str, ...]], given: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Canonical name -> the table's own name, for every column of `names` that is recognised.

    given: canonical name -> the table's own name; it wins over every alias.  Where the table has no such column it is
        passed over here: `unusable_names` reports it once all tables are known.
    """
    given = {key: own for key, own in (given or {}).items() if own in names}
    taken = set(given.values())
    by_plain: dict[str, str] = {}
    for name in names:
        by_plain.setdefault(plain_name(name), name)
    matched: dict[str, str] = {}
    for canonical, known in aliases.items():
        if canonical in given:
            matched[canonical] = given[canonical]
            continue
        # The exact name goes first, so that a table with both `item_id` and `itemID` is read as it is meant.
        candidates = [canonical] if canonical in names else []
        candidates += [by_plain[plain_name(alias)] for alias in known if plain_name(alias) in by_plain]
        free = [name for name in candidates if name not in taken]
        if free:
            matched[canonical] = free[0]
            taken.add(free[0])
    return matched


def unusable_names(given: Mapping[str, str], *, tables: Mapping[str, Sequence[str]]) -> dict[str, DataError]:
    """An error for each name in `given` that is no canonical name, or names a column that no table has."""
    faults = {}
    known = {*EVENT_ALIASES, *ITEM_ALIASES}
    every = {name for names in tables.values() for name in names}
    for canonical, own in given.items():
        if canonical not in known:
            problem = f"columns: {canonical!r} is not a column that Sememe knows"
            faults[canonical] = DataError(problem, fix=did_you_mean(canonical, known))
        elif own not in every:
            have = "; ".join(f"{table} has {', '.join(names)}" for table, names in tables.items())
            problem = f"columns: {canonical} is said to be {own!r}, and no table has a column of that name ({have})"
            faults[canonical] = DataError(problem, fix=f"correct the name: {did_you_mean(own, every)}")
    return faults


def rename_columns(frame: pl.LazyFrame, names: Iterable[str], *, matched: Mapping[str, str]) -> pl.LazyFrame:
    """`frame` with the matched columns first, under their canonical names, and all others after them.

    A column that has a canonical name but was not chosen for it stays as NAME_in_file.
    """
    chosen = [pl.col(own).alias(canonical) for canonical, own in matched.items()]
    used = set(matched.values())
    rest = [pl.col(n).alias(f"{n}_in_file" if n in matched else n) for n in names if n not in used]
    return frame.select(*chosen, *rest)


def id_expression(name: str, dtype: pl.DataType) -> pl.Expr:
    """The id column `name` as Int64 or String; what cannot be an id (null, empty text, 1.5) becomes null."""
    column = pl.col(name)
    if dtype.is_integer():
        return column.cast(pl.Int64, strict=False)
    if dtype.is_float():
        # pandas turns integer ids into floats as soon as one is missing.
        return pl.when(column == column.floor()).then(column).cast(pl.Int64, strict=False).alias(name)
    text = column.cast(pl.String).str.strip_chars()
    return pl.when(text != "").then(text).alias(name)


def sorted_ids(ids: pl.Series) -> pl.DataFrame:
    """Distinct `ids`, sorted, as (key, id): `key` as given, `id` Int64 where every id is a plain integer.

    Text files have no types, so "12" in one file and 12 in another must be the same item: ids are integers when all of
    them are plain integers, and texts otherwise, whatever the file declares.
    """
    keys = ids.drop_nulls().unique()
    if keys.dtype == pl.String and bool(keys.str.contains(PLAIN_INTEGER).all()):
        frame = pl.DataFrame({"key": keys, "id": keys.cast(pl.Int64)})
    else:
        frame = pl.DataFrame({"key": keys, "id": keys})
    return frame.sort("id")
