"""Popularity: the most frequent items of the training part, the same list for everybody.

Paper: none; the floor that every recommender must clear.
Kept: everything.  Deviations: none.
Published numbers: none to compare with.
Status: verified
"""

from sememe.decode.exact import ExactItems
from sememe.models.counting import Popularity
from sememe.pipeline.recipe import Recipe


def popularity() -> Recipe:
    """Rank by the number of training events."""
    return Recipe(name="popularity", model=Popularity(), decode=ExactItems())
