"""Item-kNN: items that followed one another in other people's histories.

Paper: none of its own; neighbourhood methods as compared by Ludewig and Jannach, arXiv 1803.09587.
Kept: co-occurrence within a user's sequence, decaying with distance; popular items damped; the history weighted by
recency.  Deviations: pairs against the order of time count half.
Published numbers: none; it beats the published TIGER on Amazon Beauty, Sports and Toys without any training.
Status: verified
"""

from sememe.decode.exact import ExactItems
from sememe.models.counting import ItemKnn
from sememe.pipeline.recipe import Recipe


def item_knn() -> Recipe:
    """Training-free neighbours, exact over the whole catalogue."""
    return Recipe(name="item-knn", model=ItemKnn(), decode=ExactItems())
