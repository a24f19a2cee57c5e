"""OneRec: write the whole next session, item after item, with an encoder-decoder whose decoder is a mixture of experts.

Paper: Deng et al., "OneRec: Unifying Retrieve and Rank with Generative Recommender and Iterative Preference
Alignment", 2025, arXiv 2502.18965.
Kept: balanced residual k-means codes; a T5-like encoder-decoder that reads the codes of the history and writes those of
5 items, a start token before each; in the decoder 24 experts a layer, two of them for a token, balanced without a loss;
training on good sessions only; cross-entropy on all codes of a session; lists written under the trie, no item twice.
Deviations: equal clusters are filled by prices, not in turns (tokenizer.assignment=greedy is the paper's); items are
text joined with co-occurrence, where the paper has multimodal vectors tuned by co-occurrence; a last level tells
colliding items apart; each level's softmax runs over that level's codes; in "small", good sessions have at least 2
watched items and an interaction, where the paper asks for 5; a beam for each item, where the paper has one of 128.  A
log without feedback has no good sessions: set batches.good.watched=0 and batches.good.interactions=0 to learn from all.
Sizes: "paper" has what the paper states (256 items of history, 3 levels of 8,192 codes, lr 2e-4) in about the size of
its smallest model, whose width it does not tell; "small" takes minutes on a CPU; "debug" is for tests, and learns from
every session.
Alignment, where the log has feedback and some lists shown at random: rounds of DPO on the best and the worst list of a
beam, by a session reward model, each round against the model of the round before, the loss of the log kept; "paper" has
its 1 % of samples and beam of 128, the others fewer lists and a larger share.  The judge of the gate learns from the
random lists, which the training reward does not read; losses of NDCG, Recall and the first code are not limited.  The
paper tells neither rounds, nor beta, nor the weight.
Rows of a run: `onerec` lists the session that is written; `onerec:beam` ranks items by their chance to begin it;
`onerec:before` or `onerec:refused` is the model that the gate did not deploy.
Published numbers (by the paper's own reward model, on its own data; watch time / likes): TIGER-1B .1368 / .0579,
OneRec-1B .1529 / .0660, with preference alignment .1933 / .1203.
Status: partial: the paper's data and reward are not public
"""

from dataclasses import replace
from typing import Literal

from sememe.align.list_samples import BeamLists
from sememe.align.pairs import BestAndWorst
from sememe.align.prompts import Prompts
from sememe.align.reward_model import SessionReward
from sememe.data.sessions import EVERY_SESSION, GoodSessions, SessionBatches
from sememe.decode.beam import BeamSearch
from sememe.decode.sessions import SessionSearch
from sememe.embed.collaborative import CooccurrenceSvd
from sememe.embed.fuse import Fuse
from sememe.embed.text import TextEmbedder
from sememe.models.onerec import OneRec
from sememe.objectives.dpo import DPO
from sememe.objectives.session_token import SessionToken
from sememe.pipeline.align_plan import AlignPlan, GatePlan
from sememe.pipeline.gate import Limits
from sememe.pipeline.recipe import DataPlan, EvaluationPlan, Recipe, SplitRule, View
from sememe.recipes.item_knn import item_knn
from sememe.recipes.popularity import popularity
from sememe.recipes.repeat_last import repeat_last
from sememe.recipes.sasrec import sasrec
from sememe.sid.balanced import BalancedKMeans
from sememe.sid.collisions import CollisionToken
from sememe.train.optim import AdamW, WarmupCosine
from sememe.train.plan import TrainPlan


def onerec(size: Literal["debug", "small", "paper"] = "small") -> Recipe:
    """The recipe at one of its sizes."""
    paper = Recipe(
        name="onerec",
        data=DataPlan(split=SplitRule(rule="last_session")),
        embed=Fuse(parts=(TextEmbedder(), CooccurrenceSvd()), neighbors=10),
        tokenizer=BalancedKMeans(codebook_size=8192),
        collisions=CollisionToken(),
        model=OneRec(encoder_layers=4, decoder_layers=4, d_model=256, heads=8, head_dim=32, ff=1024),
        batches=SessionBatches(batch_size=256, max_history=256, good=GoodSessions()),
        objective=SessionToken(),
        train=TrainPlan(epochs=10, optimizer=AdamW(lr=2e-4, weight_decay=0.0)),
        decode=SessionSearch(width=128),
        align=_alignment(size),
        views=(View("beam", BeamSearch(width=128)),),
        baselines=(popularity(), repeat_last(), item_knn(), sasrec()),
    )
    if size == "paper":
        return paper
    small = replace(
        paper,
        tokenizer=BalancedKMeans(codebook_size=64),
        model=OneRec(encoder_layers=2, decoder_layers=2, d_model=64, heads=4, head_dim=16, ff=128, experts=8),
        batches=SessionBatches(max_history=30, good=GoodSessions(watched=2)),
        train=TrainPlan(
            epochs=20,
            least_steps=300,
            optimizer=AdamW(lr=2e-3),
            schedule=WarmupCosine(warmup_steps=50),
            validate_every=100,
            monitor="masked_ndcg@10",
        ),
        decode=SessionSearch(width=10),
        views=(View("beam", BeamSearch(width=20)),),
        evaluation=EvaluationPlan(validation_users=500),
        baselines=(popularity(), repeat_last(), item_knn(), sasrec("demo")),
    )
    if size == "small":
        return small
    return replace(
        small,
        embed=Fuse(parts=(TextEmbedder(), CooccurrenceSvd(dim=8)), neighbors=10),
        tokenizer=BalancedKMeans(levels=2, codebook_size=16),
        model=OneRec(
            encoder_layers=1, decoder_layers=1, d_model=32, heads=2, head_dim=16, ff=64, experts=4, user_buckets=16
        ),
        batches=SessionBatches(batch_size=64, max_history=8, good=EVERY_SESSION),
        train=TrainPlan(epochs=None, steps=50, optimizer=AdamW(lr=3e-3), validate_every=25, log_every=10),
        decode=SessionSearch(width=10),
        evaluation=EvaluationPlan(validation_users=100, resamples=100),
        baselines=(popularity(), repeat_last(), item_knn(), sasrec("debug")),
    )


def _alignment(size: str) -> AlignPlan:
    paper = AlignPlan(
        objective=DPO(),
        reward=SessionReward(),
        prompts=Prompts(sessions=True),
        sampler=BeamLists(size=128, width=128),
        scores=BestAndWorst(),
        policy="round",
        reference="round",
        rounds=3,
        imitate=True,
        share=0.01,
        without_feedback="skip",
        # What users value is not what they were shown before: only the judge, the breadth and legality decide.
        gate=GatePlan(
            judge=SessionReward(),
            reads="random_exposure",
            list_items=5,
            limits=Limits(ndcg10=1.0, recall10=1.0, ndcg50=1.0, recall50=1.0, level1=1.0, entropy=0.1, kl=5.0),
        ),
    )
    steps = replace(paper.train, steps=100, optimizer=AdamW(lr=5e-4, weight_decay=0.0), validate_every=50)
    few = Prompts(batch_size=16, sessions=True)
    if size == "paper":
        return paper
    if size == "small":
        return replace(paper, prompts=few, sampler=BeamLists(size=16), share=0.125, train=steps)
    short = replace(steps, steps=20, optimizer=AdamW(lr=1e-3, weight_decay=0.0), validate_every=20)
    debug = BeamLists(size=8, width=8)
    return replace(paper, prompts=few, sampler=debug, share=None, train=short, rounds=2, look_users=50)
