"""What people did with an item they were shown, and how it came to be shown: optional columns of `Interactions`.

    watch_time        float32  seconds watched; NaN unknown
    duration          float32  seconds the item lasts; NaN unknown
    like, follow,     int8     1 it happened, 0 it did not, -1 unknown
    dislike, exit              (exit: the session ended with this event, the user left)
    random_exposure   int8     1 shown by the uniformly random policy, 0 by another one, -1 unknown
    propensity        float64  chance that the policy which was at work showed this item at its place, given the items
                               above it in the list; NaN unknown

A file's columns become these where they have such a name (`COLUMN_NAMES`); lists are sessions (`sememe.data.sessions`).
"""

from collections.abc import Mapping

import polars as pl

SECONDS = ("watch_time", "duration")
FLAGS = ("like", "follow", "dislike", "exit", "random_exposure")
PROPENSITY = "propensity"

COLUMN_NAMES: Mapping[str, tuple[str, ...]] = {
    "watch_time": ("watch_time", "watch_seconds", "play_time", "play_seconds"),
    "duration": ("duration", "duration_seconds", "video_duration"),
    "like": ("like", "is_like", "liked"),
    "follow": ("follow", "is_follow", "followed"),
    "dislike": ("dislike", "is_hate", "disliked"),
    "exit": ("exit", "is_exit", "left_session"),
    "random_exposure": ("random_exposure", "is_rand", "is_random"),
    "propensity": ("propensity", "propensity_score", "logging_probability"),
}
"""Column -> names it goes by, best first."""

COLUMN_TYPES: Mapping[str, type[pl.DataType]] = {
    **dict.fromkeys(SECONDS, pl.Float32),
    **dict.fromkeys(FLAGS, pl.Int8),
    PROPENSITY: pl.Float64,
}

UNKNOWN_FLAG = -1


_FLAG_WORDS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}


def flag(name: str) -> pl.Expr:
    """The column `name` of numbers, truth values or their texts as Int8; null where it is neither 0 nor 1."""
    text = pl.col(name).cast(pl.String).str.strip_chars().str.to_lowercase()
    return text.replace_strict(_FLAG_WORDS, default=None, return_dtype=pl.Int8)


def filled_column(name: str) -> pl.Expr:
    """The typed column `name` with what stands for "unknown" in place of nulls."""
    column = pl.col(name)
    return column.fill_null(UNKNOWN_FLAG) if name in FLAGS else column.fill_null(float("nan"))
