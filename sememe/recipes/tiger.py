"""TIGER: write the semantic ID of the next item with an encoder-decoder (generative retrieval).

Paper: Rajput et al., "Recommender Systems with Generative Retrieval", NeurIPS 2023, arXiv 2305.05065.
Kept: item text to a frozen sentence encoder; RQ-VAE with 3 x 256 codes and a 4th that tells colliding items apart; a
T5-style encoder-decoder over [user token, codes of the last 20 items]; cross-entropy on the 4 codes; beam search.
Deviations: the text encoder is MiniLM (384-d) instead of Sentence-T5 (768-d), since it comes without a network; AdamW
in both stages, since the RQ-VAE collapses with the paper's Adagrad at .4; each level's softmax runs over that
level's codes; decoding follows a trie, so that no beam is lost to items that do not exist; early stopping on
validation NDCG@10.  The tokenizer is fitted on the content of all items, those that only the test part holds too.
Sizes: "paper" has the paper's dimensions; "small" is for hours on a CPU, "demo" for minutes; "debug" is for tests.
Published numbers (unmasked Recall@10 / NDCG@10): Beauty .0648 / .0384, Sports .0400 / .0225, Toys .0712 / .0432;
independent rebuilds on Beauty .059-.070 / .032-.039.  Ours, "small", 8,224 of the paper's 200,000 steps, one seed:
Beauty .0448 / .0221 (benchmarks/quality/tiger_small_beauty.json).
Status: faithful
"""

from dataclasses import replace
from typing import Literal

from sememe.data.batches import PrefixBatches
from sememe.decode.beam import BeamSearch
from sememe.embed.text import TextEmbedder
from sememe.models.encdec import EncDec
from sememe.objectives.next_token import NextToken
from sememe.pipeline.recipe import EvaluationPlan, Recipe
from sememe.recipes.item_knn import item_knn
from sememe.recipes.popularity import popularity
from sememe.recipes.repeat_last import repeat_last
from sememe.recipes.sasrec import sasrec
from sememe.sid.collisions import CollisionToken
from sememe.sid.rqvae import RqVae
from sememe.train.optim import AdamW, WarmupCosine, WarmupInverseSqrt
from sememe.train.plan import TrainPlan

Size = Literal["debug", "demo", "small", "paper"]


def tiger(size: Size = "small") -> Recipe:
    """The recipe at one of its sizes."""
    return {"debug": _debug, "demo": _demo, "small": _small, "paper": _paper}[size]()


def _paper() -> Recipe:
    return Recipe(
        name="tiger",
        embed=TextEmbedder(),
        tokenizer=RqVae(),
        collisions=CollisionToken(),
        model=EncDec(),
        batches=PrefixBatches(batch_size=256, max_history=20),
        objective=NextToken(),
        train=TrainPlan(
            epochs=None,
            steps=200_000,
            optimizer=AdamW(lr=1e-3),
            schedule=WarmupInverseSqrt(warmup_steps=10_000, start="flat"),
            validate_every=5_000,
            patience=8,
        ),
        decode=BeamSearch(width=20),
        baselines=(popularity(), repeat_last(), item_knn(), sasrec()),
    )


def _small() -> Recipe:
    return replace(
        _paper(),
        model=EncDec(layers=2, d_model=96, heads=3, head_dim=32, ff=256),
        train=TrainPlan(
            epochs=16, optimizer=AdamW(lr=2e-3), schedule=WarmupCosine(warmup_steps=500), validate_every=1_000
        ),
    )


def _demo() -> Recipe:
    return replace(
        _small(),
        model=EncDec(layers=2, d_model=64, heads=4, head_dim=16, ff=128),
        batches=PrefixBatches(batch_size=256, max_history=10),
        train=TrainPlan(
            epochs=4, optimizer=AdamW(lr=3e-3), schedule=WarmupCosine(warmup_steps=100), validate_every=380
        ),
        baselines=(popularity(), repeat_last(), item_knn(), sasrec("demo")),
    )


def _debug() -> Recipe:
    return replace(
        _small(),
        tokenizer=RqVae(levels=3, codebook_size=16, hidden=(32,), latent=8, epochs=3, warmup_epochs=1),
        model=EncDec(layers=1, d_model=32, heads=2, head_dim=16, ff=64, user_buckets=16),
        batches=PrefixBatches(batch_size=64, max_history=8),
        train=TrainPlan(epochs=None, steps=50, validate_every=25, log_every=10),
        evaluation=EvaluationPlan(validation_users=100, resamples=100),
        baselines=(popularity(), repeat_last(), item_knn(), sasrec("debug")),
    )
