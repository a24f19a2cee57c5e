"""Recipes of the benchmarks: those of the library with other company.

sememe run benchmarks.quality.recipes:itemwise_alone --data amazon2014_sports --out RUN --set seeds=[0,1,2]
"""

from dataclasses import replace

from sememe.embed.text import TextEmbedder
from sememe.pipeline.recipe import ContextTokenizer, Recipe, Tokenizer
from sememe.recipes import item_knn, itemwise, popularity
from sememe.sid.aligned import AlignedRqVae
from sememe.sid.balanced import BalancedKMeans
from sememe.sid.controls import RandomCodes, RandomPlanes
from sememe.sid.fsq import FiniteScalar
from sememe.sid.product import ProductKMeans
from sememe.sid.rqkmeans import ResidualKMeans
from sememe.sid.rqvae import RqVae


def itemwise_alone() -> Recipe:
    """`itemwise` beside baselines that need no training, for runs over several seeds."""
    return replace(itemwise(), baselines=(popularity(), item_knn()))


def tokenizers() -> Recipe:
    """One small generator on each tokenizer's codes, everything else equal: what the codes are worth.

    sememe run benchmarks.quality.recipes:tokenizers --data amazon2014_beauty --out RUN --set seeds=[0,1,2]
    """
    others: dict[str, Tokenizer] = {
        "balanced_sinkhorn": BalancedKMeans(assignment="sinkhorn"),
        "balanced_greedy": BalancedKMeans(assignment="greedy"),
        "rq_vae": RqVae(),
        "product": ProductKMeans(),
        "fsq": FiniteScalar(),
        "lsh": RandomPlanes(),
        "random": RandomCodes(),
    }
    baselines = tuple(judged_codes(name, tokenizer) for name, tokenizer in others.items())
    return replace(judged_codes("residual_kmeans", ResidualKMeans()), baselines=baselines)


def plum() -> Recipe:
    """PLUM's tokenizer on text alone, with the contrast of items used together and without, and residual k-means.

    sememe run benchmarks.quality.recipes:plum --data amazon2014_beauty --out RUN --set seeds=[0,1,2]
    """
    rows: dict[str, Tokenizer | ContextTokenizer] = {
        "plum": AlignedRqVae(),
        "plum_without_contrast": AlignedRqVae(cooccurrence=0.0),
        "plum_sizes_by_kmeans": ResidualKMeans(codebook_size=(2048, 1024, 512)),
    }
    first, *others = (replace(judged_codes(name, tokenizer), embed=TextEmbedder()) for name, tokenizer in rows.items())
    return replace(first, baselines=tuple(others))


def judged_codes(name: str, tokenizer: Tokenizer | ContextTokenizer) -> Recipe:
    """The item-wise generator at its demo size on the codes of `tokenizer`; lists are its beam alone."""
    small = itemwise("demo")
    return replace(small, name=name, tokenizer=tokenizer, views=(), rerank=None, baselines=())
