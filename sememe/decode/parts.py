"""A search of many rows in parts of few, for models whose numbers of one part fit into a processor's cache.

All rows of a batch are searched alike and apart, so that the lists are the same.  A model says with `rows_at_once` how
many rows suit it; on a GPU, where more rows are only better, nobody asks.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import wraps
from typing import Any, TypeVar, cast

import torch

from sememe.decode.allowed import Allowed, AllowedByRow

Search = TypeVar("Search", bound=Callable[..., Any])
"""Of (model, batch, *, trie, seen, allowed, ...), with a dataclass of tensors as its answer, a row each."""


def in_parts(search: Search) -> Search:
    """`search`, and the rows of one batch after the other where the model wants few at once."""

    @wraps(search)
    def search_in_parts(
        model: Any, batch: Any, *, trie: Any, seen: Any = None, allowed: Any = None, **rest: Any
    ) -> Any:
        rows, most = len(next(iter(batch.values()))), getattr(model, "rows_at_once", None)
        if most is None or rows <= most or trie.device.type != "cpu":
            return search(model, batch, trie=trie, seen=seen, allowed=allowed, **rest)
        found = []
        for part in (slice(start, start + most) for start in range(0, rows, most)):
            given = {name: values[part] for name, values in batch.items()}
            unseen = None if seen is None else seen[part]
            found.append(search(model, given, trie=trie, seen=unseen, allowed=_of_rows(allowed, part), **rest))
        return _joined(found)

    return cast(Search, search_in_parts)


def _of_rows(allowed: Allowed, part: slice) -> Allowed:
    return replace(allowed, set_of_row=allowed.set_of_row[part]) if isinstance(allowed, AllowedByRow) else allowed


def _joined(found: list[Any]) -> Any:
    """One answer of several, below each other."""
    joined = {}
    for field in fields(found[0]):
        values = [getattr(one, field.name) for one in found]
        joined[field.name] = None if values[0] is None else torch.cat(values)
    return replace(found[0], **joined)
