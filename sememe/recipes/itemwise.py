"""Item-wise generation: one position per item, codes by a depth decoder, items by the same trunk, a learned last word.

Paper: none has exactly this; it is Sememe's own, made of published parts.
Kept: residual k-means codes (OneRec, arXiv 2502.18965) of text joined with co-occurrence (as LETTER, arXiv 2405.07314,
joins them); one position per item and a depth decoder over its codes (RQ-Transformer, arXiv 2203.01941); a target at
every position (SASRec, arXiv 1808.09781); sampled softmax with its correction (Yi et al., RecSys 2019).
Deviations: each level is normalised over the codes that exist, in training too; one trunk writes codes and scores
items; a small network, fitted on validation requests, has the last word.
Rows of a run: `itemwise:generator` is the beam by code score with nothing mixed in; `itemwise:rescored` orders the
beam's items by both heads of the model; `itemwise` is what is deployed: candidates by item head and item-kNN, ordered
by the small network from the scores of both heads, co-occurrence, and likeness of content.
One configuration for all data sets.  What reads the data: item vectors come from text where there is text, and from
co-occurrence always; what an item lacks of one is filled from its neighbours in the other; dropout falls from .5 to .2
as items have more events, and the decoder's with it; a batch has as many rows as hold about 768 targets; a small log is
passed over more often; candidates and negatives are bounded by the catalogue, and so are codebooks, which are halved
while it has fewer than four items per code.  The weights are averaged while they are trained, and the best average is
chosen on validation with seen items left out, as lists are made.
Published numbers: none; docs/itemwise.md has what we measured.
Status: faithful
"""

from dataclasses import replace
from typing import Literal

from sememe.data.batches import SequenceBatches
from sememe.data.negatives import SharedNegatives
from sememe.decode.beam import BeamSearch
from sememe.decode.rescore import Rescored
from sememe.embed.collaborative import CooccurrenceSvd
from sememe.embed.fuse import Fuse
from sememe.embed.text import TextEmbedder
from sememe.models.counting import ItemKnn
from sememe.models.depth import Depth
from sememe.models.itemwise import ItemWise
from sememe.nn.trunk import Trunk
from sememe.objectives.itemwise import ItemWiseLoss
from sememe.pipeline.recipe import EvaluationPlan, Recipe, View
from sememe.recipes.item_knn import item_knn
from sememe.recipes.popularity import popularity
from sememe.recipes.repeat_last import repeat_last
from sememe.recipes.sasrec import sasrec
from sememe.rerank.blend import Blend
from sememe.rerank.signals import CoOccurrence, Likeness
from sememe.sid.collisions import CollisionToken
from sememe.sid.rqkmeans import ResidualKMeans
from sememe.train.optim import AdamW, Ema, WarmupCosine
from sememe.train.plan import TrainPlan


def itemwise(size: Literal["debug", "demo", "full"] = "full") -> Recipe:
    """The recipe at one of its sizes; "demo" is smaller and shorter, "debug" is for tests."""
    plan = TrainPlan(
        epochs=10,
        least_steps=1_000,
        optimizer=AdamW(lr=3e-3, weight_decay=0.1, decay_embeddings=True),
        schedule=WarmupCosine(warmup_steps=200),
        average=Ema(0.998),
        monitor="masked_ndcg@10",
    )
    model = ItemWise(trunk=Trunk(max_history=200), depth=Depth(dropout=0.4), dense_dropout=0.2, cold_share=0.1)
    full = Recipe(
        name="itemwise",
        embed=Fuse(parts=(TextEmbedder(), CooccurrenceSvd()), neighbors=10),
        tokenizer=ResidualKMeans(items_per_code=4),
        collisions=CollisionToken(most=65_536),
        model=model,
        batches=SharedNegatives(SequenceBatches(max_history=200, targets_per_batch=768)),
        objective=ItemWiseLoss(),
        train=plan,
        decode=BeamSearch(width=50),
        views=(View("generator", BeamSearch(width=50)), View("rescored", Rescored(BeamSearch(width=50)))),
        rerank=Blend(
            signals=(
                CoOccurrence(ItemKnn()),
                CoOccurrence(ItemKnn(decay=1.0, recency=0.8)),
                Likeness(embedder=0),
                Likeness(embedder=1),
            )
        ),
        # Chosen among ten by 2,000 users, the best step of a sparse log is chosen by chance.
        evaluation=EvaluationPlan(validation_users=10_000),
        baselines=(popularity(), repeat_last(), item_knn(), sasrec()),
    )
    if size == "demo":
        return replace(
            full,
            model=replace(model, trunk=Trunk(d_model=64, ff=256, max_history=200)),
            train=replace(plan, epochs=6),
            baselines=(popularity(), repeat_last(), item_knn(), sasrec("demo")),
        )
    if size == "debug":
        return replace(
            full,
            tokenizer=ResidualKMeans(levels=2, codebook_size=16),
            embed=Fuse(parts=(TextEmbedder(), CooccurrenceSvd(dim=8)), neighbors=10),
            model=ItemWise(trunk=Trunk(layers=1, d_model=32, ff=64, dropout=0.2), depth=Depth(hidden=32)),
            batches=SharedNegatives(SequenceBatches(batch_size=64, max_history=50), negatives=64),
            train=TrainPlan(epochs=3, optimizer=AdamW(lr=3e-3)),
            rerank=Blend(signals=(CoOccurrence(ItemKnn()), Likeness(embedder=0)), candidates=30, hidden=8, epochs=2),
            evaluation=EvaluationPlan(validation_users=100, resamples=100),
            baselines=(popularity(), repeat_last(), item_knn(), sasrec("debug")),
        )
    return full
