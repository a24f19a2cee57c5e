"""Recipes of the benchmarks: those of the library with other company.

sememe run benchmarks.quality.recipes:itemwise_alone --data amazon2014_sports --out RUN --set seeds=[0,1,2]
"""

from dataclasses import replace

from sememe.data.batches import SequenceBatches
from sememe.data.negatives import SharedNegatives
from sememe.decode.beam import BeamSearch
from sememe.decode.rescore import Rescored
from sememe.embed.text import TextEmbedder
from sememe.models.itemwise import ItemWise
from sememe.objectives.itemwise import ItemWiseLoss
from sememe.pipeline.recipe import ContextTokenizer, Recipe, Tokenizer, View
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


def itemwise_parts() -> Recipe:
    """`itemwise` without its last word, whole and with one part at a time left out or exchanged: what each is worth.

    sememe run benchmarks.quality.recipes:itemwise_parts --data amazon2014_beauty --out RUN

    Rows "NAME" order the beam's items by both heads, rows "NAME:generator" by code score.  Settings are chosen on
    validation, so read the validation rows.
    """
    whole = replace(itemwise(), name="whole", rerank=None, baselines=())
    whole = replace(whole, decode=Rescored(BeamSearch(width=50)), views=(View("generator", BeamSearch(width=50)),))
    model, train = whole.model, whole.train
    assert isinstance(model, ItemWise) and train is not None
    others = {
        "no_own_vectors": replace(model, item_embedding=False),
        "no_content": replace(model, content=False),
        "no_rehearsal_of_new_items": replace(model, cold_share=0.0),
        "no_node_vectors": replace(model, depth=replace(model.depth, node_vectors=False)),
        "depth_transformer": replace(model, depth=replace(model.depth, form="transformer")),
        "depth_parallel": replace(model, depth=replace(model.depth, form="parallel")),
    }
    exchanged = [replace(whole, name=name, model=other) for name, other in others.items()]
    codes_alone = replace(
        whole,
        name="no_item_head",
        objective=ItemWiseLoss(item_weight=0.0),
        decode=BeamSearch(width=50),
        views=(),
    )
    one_step = replace(whole, name="no_average", train=replace(train, average=None))
    return replace(whole, baselines=(*exchanged, codes_alone, one_step))


def tokenizers() -> Recipe:
    """One small generator on each tokenizer's codes, three levels of 256, everything else equal: what codes are worth.

    sememe run benchmarks.quality.recipes:tokenizers --data amazon2014_beauty --out RUN --set seeds=[0,1,2]
    """
    others: dict[str, Tokenizer] = {
        "balanced_sinkhorn": BalancedKMeans(assignment="sinkhorn"),
        "balanced_greedy": BalancedKMeans(assignment="greedy"),
        "rq_vae": RqVae(),
        "product": ProductKMeans(levels=3),
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
    """The item-wise generator at its demo size with nothing but the codes of `tokenizer`; lists are its beam alone.

    Items and nodes of the tree have no vectors of their own and no content, and no item head is trained: whatever the
    generator knows of an item it knows by codes, so that random ones leave it what codes cannot help with.
    """
    small = itemwise("demo")
    assert isinstance(small.model, ItemWise)
    blind = replace(
        small.model,
        item_embedding=False,
        content=False,
        cold_share=0.0,
        depth=replace(small.model.depth, node_vectors=False),
    )
    return replace(
        small,
        name=name,
        tokenizer=tokenizer,
        model=blind,
        objective=ItemWiseLoss(item_weight=0.0),
        batches=SharedNegatives(SequenceBatches(max_history=200, targets_per_batch=768), negatives=1),
        views=(),
        rerank=None,
        baselines=(),
    )
