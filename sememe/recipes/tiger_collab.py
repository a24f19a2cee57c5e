"""TIGER on behaviour: semantic IDs from who used what instead of from text, for catalogues without descriptions.

Paper: Rajput et al., NeurIPS 2023, arXiv 2305.05065, for all but the vectors; PPMI and SVD as in Levy and Goldberg,
"Neural Word Embedding as Implicit Matrix Factorization", NeurIPS 2014.
Kept: everything of the recipe tiger but the item vectors.
Deviations: item vectors are a truncated SVD of the items' co-occurrence in training histories (PPMI), so an item
without training events has no content and shares its code with the other such items.
Published numbers: none for this variant.
Status: faithful
"""

from dataclasses import replace

from sememe.embed.collaborative import CooccurrenceSvd
from sememe.pipeline.recipe import Recipe
from sememe.recipes.tiger import Size, tiger


def tiger_collab(size: Size = "small") -> Recipe:
    """The recipe tiger at one of its sizes, with collaborative item vectors."""
    return replace(tiger(size), name="tiger-collab", embed=CooccurrenceSvd())
