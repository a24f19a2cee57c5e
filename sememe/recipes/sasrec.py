"""SASRec with full softmax: a causal transformer over item ids, the baseline that a generator must beat.

Paper: Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, arXiv 1808.09781.
Kept: causal self-attention over the last items, learned positions, shared item embeddings, a target at every position.
Deviations: cross-entropy over the full catalogue instead of one sampled negative, which is worth 20-40 %; one learnt
number for items already read, so that an item just read need not rank first; AdamW with weight decay on embeddings.
Published numbers (full softmax, unmasked Recall@10 / NDCG@10): Beauty .0851 / .0421, Sports .0495 / -.
Ours, mean of three seeds: Beauty .0830 / .0511, Sports .0472 / .0281 (benchmarks/quality/itemwise_beauty.json,
itemwise_sports.json).
Status: faithful
"""

from dataclasses import replace
from typing import Literal

from sememe.data.batches import SequenceBatches
from sememe.decode.exact import ExactItems
from sememe.models.sequential import SasRec
from sememe.objectives.full_softmax import FullSoftmax
from sememe.pipeline.recipe import EvaluationPlan, Recipe
from sememe.train.optim import AdamW, WarmupCosine
from sememe.train.plan import TrainPlan


def sasrec(size: Literal["debug", "demo", "full"] = "full") -> Recipe:
    """The recipe at one of its sizes; "demo" is smaller and shorter, "debug" is for tests."""
    full = Recipe(
        name="sasrec",
        model=SasRec(d_model=64, ff=256),
        batches=SequenceBatches(batch_size=64, max_history=50),
        objective=FullSoftmax(),
        train=TrainPlan(
            epochs=30,
            optimizer=AdamW(lr=2e-3, weight_decay=0.1, decay_embeddings=True),
            schedule=WarmupCosine(warmup_steps=250),
        ),
        decode=ExactItems(),
    )
    if size == "demo":
        return replace(
            full,
            model=SasRec(d_model=64, ff=256, dropout=0.3),
            train=TrainPlan(epochs=12, optimizer=AdamW(lr=2e-3), schedule=WarmupCosine(warmup_steps=40)),
        )
    if size == "debug":
        return replace(
            full,
            model=SasRec(d_model=16, heads=1, ff=32),
            train=TrainPlan(epochs=2),
            evaluation=EvaluationPlan(validation_users=100, resamples=100),
        )
    return full
