"""Recipes of the benchmarks: those of the library with other company.

sememe run benchmarks.quality.recipes:itemwise_alone --data amazon2014_sports --out RUN --set seeds=[0,1,2]
"""

from dataclasses import replace

from sememe.pipeline.recipe import Recipe
from sememe.recipes import item_knn, itemwise, popularity


def itemwise_alone() -> Recipe:
    """`itemwise` beside baselines that need no training, for runs over several seeds."""
    return replace(itemwise(), baselines=(popularity(), item_knn()))
