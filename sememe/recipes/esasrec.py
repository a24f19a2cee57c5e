"""eSASRec: SASRec with gated LiGR blocks, SwiGLU and a sampled softmax; a stronger item-id baseline than SASRec.

Paper: Tikhonovich et al., "eSASRec: Enhancing Transformer-based Recommendations in a Modular Fashion", RecSys 2025,
arXiv 2508.06450.
Kept: SASRec's target at every position, LiGR blocks, one item table, sampled softmax with 256 uniform negatives, Adam
at a constant 1e-3; the authors' settings file for Beauty (1 block, 1 head, width 256, SwiGLU 4 times as wide, dropout
.2, 50 items, patience 50).  For ML-1M theirs is width 64, 2 blocks, dropout .1, 200 items.
Deviations: negatives are those of the paper's ablation, the targets of the batch with a correction and uniform draws,
one set for all positions; the paper's own model draws 256 per position, uniformly, without correction, and of that
objective.in_batch=false objective.log_q=false is the nearest.  One learnt number for items already read, and the start
of embeddings, as in sasrec; histories above 50 are cut into pieces, not dropped.
Published numbers (seen items left out, Recall@10 / NDCG@10): Beauty .0928 / .0523, Sports .0560 / .0323, ML-1M .3133 /
.1772; the paper's SASRec with the same loss: Beauty .0921 / .0531, Sports .0569 / .0314, ML-1M .2929 / .1684.
Ours on Beauty, one seed, patience 15: .0756 / .0469, left in .0717 / .0426 (benchmarks/quality/esasrec_beauty.json).
Status: partial: the paper's negatives, drawn for each position
"""

from dataclasses import replace
from typing import Literal

from sememe.data.batches import SequenceBatches
from sememe.decode.exact import ExactItems
from sememe.models.sequential import ESasRec
from sememe.objectives.sampled_softmax import SampledSoftmax
from sememe.pipeline.recipe import EvaluationPlan, Recipe
from sememe.train.optim import AdamW
from sememe.train.plan import TrainPlan


def esasrec(size: Literal["debug", "full"] = "full") -> Recipe:
    """The recipe at one of its sizes; "debug" is for tests."""
    full = Recipe(
        name="esasrec",
        model=ESasRec(),
        batches=SequenceBatches(batch_size=128, max_history=50),
        objective=SampledSoftmax(),
        train=TrainPlan(epochs=200, optimizer=AdamW(weight_decay=0.0, beta2=0.98), patience=50),
        decode=ExactItems(),
    )
    if size == "debug":
        return replace(
            full,
            model=ESasRec(d_model=16, ff=32),
            objective=SampledSoftmax(uniform_negatives=8),
            train=TrainPlan(epochs=2),
            evaluation=EvaluationPlan(validation_users=100, resamples=100),
        )
    return full
