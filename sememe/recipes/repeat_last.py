"""Repeat-last: what the user did last, first.

Paper: none; it shows how much of a metric is mere repetition.
Kept: everything.  Deviations: none.
Published numbers: none to compare with.
Status: verified
"""

from sememe.decode.exact import ExactItems
from sememe.models.counting import RepeatLast
from sememe.pipeline.recipe import Recipe


def repeat_last() -> Recipe:
    """Rank the user's own items by recency."""
    return Recipe(name="repeat-last", model=RepeatLast(), decode=ExactItems())
