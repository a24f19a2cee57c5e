"""The session reward model learns a planted taste from feedback, scores users whom it never met, and is kept."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from align_world import LOG, WORLD

from sememe.align.prompts import Prompts
from sememe.align.protocol import Feedback
from sememe.align.reward_model import SessionReward, _correlations, _Lists, _moments
from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import Interactions
from sememe.data.feedback_simulator import FeedbackSimulator
from sememe.metrics.significance import resampled_means
from sememe.models.reward import SessionRewardNet
from sememe.train.optim import AdamW
from sememe.train.plan import TrainPlan

CPU = torch.device("cpu")
SMALL = SessionReward(
    net=SessionRewardNet(d_model=16, hidden=32),
    train=TrainPlan(
        epochs=None,
        steps=80,
        optimizer=AdamW(lr=1e-2, weight_decay=0.1, decay_embeddings=True),
        precision="fp32",
        validate_every=40,
        monitor="correlation",
        threads=1,
    ),
    max_history=20,
    batch_size=128,
)
MADE = FeedbackSimulator(num_users=250).generate(seed=0)


def feedback(log: Interactions = MADE.interactions, *, users: slice = slice(None)) -> Feedback:
    readable = np.zeros(log.num_users, np.bool_)
    readable[users] = True
    return Feedback(log, readable[log.users()], codes=None, vectors=MADE.catalog.vectors, device=CPU)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> object:
    return SMALL.fit(feedback(users=slice(0, 200)), seed=0, scratch=tmp_path_factory.mktemp("fit"))


def test_it_prefers_what_users_whom_it_never_met_would_like(fitted: object) -> None:
    """A list for each topic: their scores go with the user's true tastes."""
    log, world = MADE.interactions, MADE.world
    prompts = Prompts(batch_size=50, told=SMALL.labels).source(log, seed=0, max_history=20)
    users = np.arange(200, 250)
    batch = prompts.ask(log, log.offsets[users + 1] - 1)
    rng = np.random.default_rng(0)
    topics = np.arange(world.taste.shape[1])
    lists = np.stack([[rng.choice(np.flatnonzero(world.topics == topic), 3) for topic in topics] for _ in users])
    scores = fitted.score(batch, lists.astype(np.int32))  # type: ignore[attr-defined]
    assert scores.shape == (50, 16) and scores.dtype == np.float32
    alike = [np.corrcoef(ours, truth)[0, 1] for ours, truth in zip(scores, world.taste[users], strict=True)]
    assert np.mean(alike) > 0.3


def test_what_was_fitted_is_kept(fitted: object) -> None:
    again = SMALL.load(fitted.state(), feedback=feedback())  # type: ignore[attr-defined]
    log = MADE.interactions
    batch = Prompts(batch_size=4, told=SMALL.labels).source(log, seed=0, max_history=20)(0)
    lists = np.array([[[1, 2, 3], [4, 5, -1]]] * 4, np.int32)
    np.testing.assert_array_equal(again.score(batch, lists), fitted.score(batch, lists))  # type: ignore[attr-defined]
    assert set(again.names) == {"history_watch_share", "history_like", "history_follow", "history_dislike"}


def test_its_correlation_has_an_interval_over_users(fitted: object) -> None:
    """It begins below the estimate; of ten times as many users it begins nearer; of one user nothing is known."""
    whole = _Lists.of(SMALL, feedback())
    few, many, one = (whole.only(whole.sessions.users < users) for users in (20, 200, 1))
    ends = []
    for lists in (few, many):
        estimate = fitted.compared(lists)["correlation"]  # type: ignore[attr-defined]
        scores, worth = fitted._scored(lists)  # type: ignore[attr-defined]
        assert estimate == pytest.approx(np.corrcoef(scores, worth)[0, 1], abs=1e-6)
        ends.append(estimate - fitted.interval(lists)["correlation_low"])  # type: ignore[attr-defined]
    assert 0 < 2 * ends[1] < ends[0]
    assert fitted.interval(one) == {"correlation_low": -1.0}  # type: ignore[attr-defined]
    estimate = fitted.estimate  # type: ignore[attr-defined]
    assert set(estimate) == {"correlation", "correlation_low"}
    assert -1 < estimate["correlation_low"] < estimate["correlation"]


def test_the_interval_holds_0_about_as_often_as_it_should() -> None:
    """Scores that have nothing to do with what came, of users with sessions alike: few intervals lie above 0."""
    rng, above = np.random.default_rng(0), 0
    for _ in range(200):
        users = np.repeat(rng.normal(size=(2, 60)), 4, axis=1)
        scores, worth = users + 0.5 * rng.normal(size=users.shape)
        sums = _moments(scores, worth).reshape(60, 4, 6).sum(1)
        low = np.quantile(_correlations(resampled_means(sums, random=rng, resamples=300)), 0.025)
        above += bool(low > 0)
    assert above <= 12


def test_the_final_tower_scores_too(tmp_path: Path) -> None:
    part = replace(SMALL, score="p_score", train=replace(SMALL.train, steps=4, validate_every=2))
    made = part.fit(feedback(), seed=0, scratch=tmp_path)
    batch = Prompts(batch_size=4, told=SMALL.labels).source(MADE.interactions, seed=0, max_history=20)(0)
    scores = made.score(batch, np.array([[[1], [4]]] * 4, np.int32))
    assert ((scores > 0) & (scores < 1)).all()


def test_a_longer_list_of_the_same_item_is_on_the_same_scale(fitted: object) -> None:
    """The mean over a list takes the place of a sum: one item or five of it are worth about as much."""
    batch = Prompts(batch_size=8, told=SMALL.labels).source(MADE.interactions, seed=1, max_history=20)(0)
    lists = np.full((8, 2, 5), -1, np.int32)
    lists[:, 0, :1], lists[:, 1] = 7, 7
    one, five = fitted.score(batch, lists).T  # type: ignore[attr-defined]
    np.testing.assert_allclose(one, five, atol=1e-5)


def test_what_cannot_be_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the reward reads the column 'watch_time'"):
        SMALL.fit(feedback_of_plain_log(), seed=0, scratch=tmp_path)
    with pytest.raises(ConfigError, match="4 labels and 1 weights"):
        replace(SMALL, weights=(1.0,)).fit(feedback(), seed=0, scratch=tmp_path)
    with pytest.raises(ConfigError, match="score is 'best'"):
        replace(SMALL, score="best").fit(feedback(), seed=0, scratch=tmp_path)
    with pytest.raises(DataError, match="0 sessions may be read"):
        SMALL.fit(feedback(users=slice(0, 0)), seed=0, scratch=tmp_path)
    with pytest.raises(ConfigError, match="neither a vector of their own nor content"):
        SessionRewardNet(item_embedding=False).build(num_items=5, vectors=None, labels=1, seed=0)


def feedback_of_plain_log() -> Feedback:
    return Feedback(LOG, np.ones(LOG.num_events, np.bool_), None, WORLD.catalog.vectors, CPU)
