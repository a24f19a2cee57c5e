"""Item-kNN: items that followed one another in other people's histories.

Paper: none of its own; neighbourhood methods as compared by Ludewig and Jannach, arXiv 1803.09587.
Kept: co-occurrence within a user's sequence, decaying with distance; popular items damped; the history weighted by
recency.  Deviations: pairs against the order of time count half.
Published numbers: none.  Ours, seen items left in, Recall@10 / NDCG@10: Beauty .0788 / .0480, Sports at its best
settings there .0485 / .0283, more than the published TIGER without any training (benchmarks/quality/item_knn_*.json).
Status: verified
"""

from sememe.decode.exact import ExactItems
from sememe.models.counting import ItemKnn
from sememe.pipeline.recipe import Recipe


def item_knn() -> Recipe:
    """Training-free neighbours, exact over the whole catalogue."""
    return Recipe(name="item-knn", model=ItemKnn(), decode=ExactItems())
