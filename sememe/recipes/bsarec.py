"""BSARec: self-attention beside a frequency filter over the last 50 items; a stronger item-id baseline than SASRec.

Paper: Shin, Choi, Wi and Park, "An Attentive Inductive Bias for Sequential Recommendation beyond the Self-Attention",
AAAI 2024, arXiv 2312.10325.
Kept: the blocks (low-pass filter of the c lowest frequencies, learned scale for the others, mixed with attention by
alpha, norms after each part), a window of 50 places with the newest item at its end, one target per row with the events
before it, full softmax, Adam without decay, patience 10; the authors' settings for Beauty (alpha .7, c 5, 1 head, width
64, dropout .5, lr 5e-4).  The paper chooses alpha, c, 1 or 4 heads and lr for each data set: model.alpha,
model.frequencies, model.heads, train.optimizer.lr.
Deviations: one learnt number for items already read, as in sasrec; padding is no key of attention and has no item
vector; a user's first event is no target; gradients are clipped; stops by NDCG@10 of 2,000 validation users, seen items
left in.
Published numbers (seen items left out, mean of 5 seeds, Recall@10 / NDCG@10): Beauty .1002 / .0610,
Sports .0603 / .0348.
Ours on Beauty, one seed: .0928 / .0566 (benchmarks/quality/bsarec_beauty.json).
Status: faithful
"""

from dataclasses import replace
from typing import Literal

from sememe.data.batches import PrefixBatches
from sememe.decode.exact import ExactItems
from sememe.models.frequency import BsaRec
from sememe.objectives.full_softmax import FullSoftmax
from sememe.pipeline.recipe import EvaluationPlan, Recipe
from sememe.train.optim import AdamW
from sememe.train.plan import TrainPlan


def bsarec(size: Literal["debug", "full"] = "full") -> Recipe:
    """The recipe at one of its sizes; "debug" is for tests."""
    full = Recipe(
        name="bsarec",
        model=BsaRec(),
        batches=PrefixBatches(batch_size=256, max_history=50),
        objective=FullSoftmax(),
        train=TrainPlan(epochs=200, optimizer=AdamW(lr=5e-4, weight_decay=0.0), patience=10),
        decode=ExactItems(),
    )
    if size == "debug":
        return replace(
            full,
            model=BsaRec(d_model=16, ff=32, max_history=8),
            batches=PrefixBatches(batch_size=64, max_history=8),
            train=TrainPlan(epochs=1),
            evaluation=EvaluationPlan(validation_users=100, resamples=100),
        )
    return full
