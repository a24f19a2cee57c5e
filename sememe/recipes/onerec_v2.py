"""OneRec-V2: write the next item with a lazy decoder, which reads a context that nothing encodes.

Paper: "OneRec-V2 Technical Report", Kuaishou 2025, arXiv 2508.20900; the context and the codes are those of the "OneRec
Technical Report", 2025, arXiv 2506.13695.
Kept: residual k-means codes of 3 levels; a context of one static token, the 20 latest events, the 256 latest positive
ones and a lifelong history, clustered for each user and read by 128 learned queries; no encoder and no projections of
keys and values in the layers: all layers share one group of keys, which are the values too; fewer heads of keys than of
queries; the loss on the codes of the newest item alone.
Deviations: "small" passes over the log several times, where the paper streams it once; items are text joined with
co-occurrence, where the paper has multimodal vectors tuned by co-occurrence; an event is the codes of its item, without
times and labels; every event counts as positive, unless model.context.feedback=true and batches.events=["positive"] say
that the log knows better; a last level tells colliding items apart; each level's softmax runs over that level's codes.
Sizes: "paper" is the smallest of the paper's ladder (12 layers of width 640, 10 heads, lr 5e-4); "small" takes minutes
on a CPU; "debug" is for tests.
Alignment, where the log has feedback and some lists shown at random: GBPO on items drawn from the model in training, by
a reward model that learned watch time as its quantile among videos of like duration; the loss of the log is kept.  Each
code is an action here, where the paper has the whole item; advantages are those inside a group of samples, where the
paper has 1, 0 or -1 by feedback; it rewards logged impressions too, by their own feedback.  The judge of the gate
learns from the random lists; losses of NDCG, Recall and the first code are not limited.
Published numbers (the paper's own data, loss / GFLOPs at 1 B parameters): encoder-decoder 3.28 / 296, decoder over the
context 3.26 / 204, lazy decoder 3.27 / 18.9.  What public data says: benchmarks/quality/lazy_decoder.py.
Status: partial: the paper's data is not public; feedback of logged impressions rewards through the model alone
"""

from dataclasses import replace
from typing import Literal

from sememe.align.prompts import Prompts
from sememe.align.reward_model import SessionReward
from sememe.align.rollouts import IndependentGroups
from sememe.data.batches import PrefixBatches
from sememe.decode.beam import BeamSearch
from sememe.embed.collaborative import CooccurrenceSvd
from sememe.embed.fuse import Fuse
from sememe.embed.text import TextEmbedder
from sememe.models.contexts import Pathways
from sememe.models.lazy import LazyDecoder
from sememe.objectives.gbpo import GBPO
from sememe.objectives.next_token import NextToken
from sememe.pipeline.align_plan import AlignPlan, GatePlan
from sememe.pipeline.gate import Limits
from sememe.pipeline.recipe import EvaluationPlan, Recipe
from sememe.recipes.item_knn import item_knn
from sememe.recipes.popularity import popularity
from sememe.recipes.repeat_last import repeat_last
from sememe.recipes.sasrec import sasrec
from sememe.sid.collisions import CollisionToken
from sememe.sid.rqkmeans import ResidualKMeans
from sememe.train.optim import AdamW, WarmupCosine
from sememe.train.plan import TrainPlan


def onerec_v2(size: Literal["debug", "small", "paper"] = "small") -> Recipe:
    """The recipe at one of its sizes."""
    paper = Recipe(
        name="onerec_v2",
        embed=Fuse(parts=(TextEmbedder(), CooccurrenceSvd()), neighbors=10),
        tokenizer=ResidualKMeans(codebook_size=8192, items_per_code=4),
        collisions=CollisionToken(),
        model=LazyDecoder(layers=12, d_model=640, heads=10, head_dim=64, kv_heads=2, ff=2560),
        batches=PrefixBatches(batch_size=512, max_history=2000),
        objective=NextToken(),
        train=TrainPlan(epochs=1, optimizer=AdamW(lr=5e-4), schedule=WarmupCosine(warmup_steps=1000)),
        decode=BeamSearch(width=512),
        align=_alignment(size),
        baselines=(popularity(), repeat_last(), item_knn(), sasrec()),
    )
    if size == "paper":
        return paper
    small = replace(
        paper,
        tokenizer=ResidualKMeans(codebook_size=64, items_per_code=4),
        model=LazyDecoder(
            context=Pathways(short=20, positive=50, lifelong=50, members=4, queries=8),
            layers=4,
            d_model=64,
            heads=4,
            head_dim=16,
            ff=256,
        ),
        batches=PrefixBatches(batch_size=256, max_history=100),
        train=TrainPlan(
            epochs=10,
            least_steps=600,
            optimizer=AdamW(lr=2e-3),
            schedule=WarmupCosine(warmup_steps=100),
            validate_every=200,
        ),
        decode=BeamSearch(width=20),
        baselines=(popularity(), repeat_last(), item_knn(), sasrec("demo")),
    )
    if size == "small":
        return small
    return replace(
        small,
        embed=Fuse(parts=(TextEmbedder(), CooccurrenceSvd(dim=8)), neighbors=10),
        tokenizer=ResidualKMeans(levels=2, codebook_size=16),
        model=LazyDecoder(
            context=Pathways(short=5, positive=8, lifelong=8, members=2, queries=4, query_blocks=1),
            layers=2,
            d_model=32,
            heads=2,
            head_dim=16,
            ff=64,
            user_buckets=16,
        ),
        batches=PrefixBatches(batch_size=64, max_history=20),
        train=TrainPlan(epochs=None, steps=50, optimizer=AdamW(lr=3e-3), validate_every=25, log_every=10),
        evaluation=EvaluationPlan(validation_users=100, resamples=100),
        baselines=(popularity(), repeat_last(), item_knn(), sasrec("debug")),
    )


def _alignment(size: str) -> AlignPlan:
    paper = AlignPlan(
        objective=GBPO(),
        reward=SessionReward(labels=("watch_quantile", "like", "follow", "dislike")),
        sampler=IndependentGroups(),
        reference="none",
        imitate=True,
        without_feedback="skip",
        # What users value is not what they were shown before: only the judge, the breadth and legality decide.
        gate=GatePlan(
            judge=SessionReward(),
            reads="random_exposure",
            list_items=5,
            limits=Limits(ndcg10=1.0, recall10=1.0, ndcg50=1.0, recall50=1.0, level1=1.0, entropy=0.1, kl=5.0),
        ),
    )
    steps = replace(paper.train, steps=300, optimizer=AdamW(lr=5e-4, weight_decay=0.0))
    if size == "paper":
        return paper
    if size == "small":
        return replace(paper, prompts=Prompts(batch_size=32), train=steps)
    short = replace(steps, steps=20, optimizer=AdamW(lr=1e-3, weight_decay=0.0), validate_every=20)
    few = IndependentGroups(size=8)
    return replace(paper, prompts=Prompts(batch_size=32), sampler=few, train=short, look_users=50)
