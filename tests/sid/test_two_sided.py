"""DAS: codes of users and items that know what is liked, and less of what is merely popular."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from planted_use import PopularWorld, explained, log_of, popular_world
from torch.nn import functional

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import FloatArray, Interactions
from sememe.sid.codebook_training import CodebookTraining
from sememe.sid.collisions import CollisionToken
from sememe.sid.context import CodeContext
from sememe.sid.rqvae import FittedRqVae
from sememe.sid.two_sided import FittedTwoSided, TwoSidedRqVae, taken_content, two_sided_codes
from sememe.sid.views import VIEWS

SMALL = TwoSidedRqVae(
    levels=2,
    codebook_size=(8, 4),
    hidden=(16,),
    latent=4,
    window=2,
    training=CodebookTraining(epochs=2, warmup_epochs=1, batch_size=64),
)


def clouds() -> tuple[FloatArray, FloatArray, Interactions]:
    """60 users, 50 items, 4 events each."""
    rng = np.random.default_rng(0)
    users, items = (rng.standard_normal(shape).astype(np.float32) for shape in ((60, 5), (50, 7)))
    return users, items, log_of([rng.permutation(50)[:4].tolist() for _ in range(60)], num_items=50)


def fit(part: TwoSidedRqVae, *, seed: int = 0) -> FittedTwoSided:
    users, items, train = clouds()
    return part.fit_both(users, items, train=train, seed=seed)


@cache
def world(seed: int) -> PopularWorld:
    return popular_world(seed)


@cache
def fitted(seed: int, **settings: Any) -> FittedTwoSided:
    training = CodebookTraining(epochs=2, warmup_epochs=1, batch_size=128, learning_rate=1e-2)
    part = TwoSidedRqVae(levels=2, codebook_size=16, hidden=(32,), latent=8, window=2, training=training)
    known = world(seed)
    return replace(part, **settings).fit_both(known.users, known.items, train=known.train, seed=0)


WORLDS = range(4)


@pytest.mark.parametrize("seed", WORLDS)
def test_properties_know_little_of_popularity_and_more_of_what_is_liked(seed: int) -> None:
    plain, debiased = (fitted(seed, debias=debias).items.free for debias in (False, True))
    popularity, properties = world(seed).log_popularity, world(seed).properties
    assert explained(debiased, popularity) < 0.3 < 0.6 < explained(plain, popularity)
    assert explained(debiased, properties) > 0.05


def test_codes_know_less_of_popularity() -> None:
    """In every world, and by a fifth on average: how much varies from world to world."""
    ratios = []
    for seed in WORLDS:
        shares = []
        for debias in (False, True):
            codes = fitted(seed, debias=debias).items.tokenizer.encode(world(seed).items)
            first = np.eye(16, dtype=np.float32)[codes[:, 0]][:, 1:]
            shares.append(explained(first, world(seed).log_popularity))
        ratios.append(shares[1] / shares[0])
    assert max(ratios) < 1 and np.mean(ratios) < 0.8


def test_what_is_liked_and_what_is_popular_end_at_right_angles() -> None:
    found = fitted(1, debias=True)
    for side in (found.users, found.items):
        lengths = np.linalg.norm(side.free, axis=1) * np.linalg.norm(side.bias, axis=1)
        cosines = (side.free * side.bias).sum(axis=1) / lengths
        assert np.square(cosines).mean() < 0.05
        # They did not get there by shrinking.
        assert lengths.mean() > 0.05


def test_content_is_fixed_and_codes_come_from_it_alone() -> None:
    users, items, train = clouds()
    before = users.copy(), items.copy()
    found = SMALL.fit_both(users, items, train=train, seed=0)
    np.testing.assert_array_equal(users, before[0])
    np.testing.assert_array_equal(items, before[1])
    for side, vectors in ((found.users, users), (found.items, items)):
        assert isinstance(side.tokenizer, FittedRqVae) and side.tokenizer.codebook_sizes == (8, 4)
        codes = side.tokenizer.encode(vectors)
        # A member that the log does not know gets the code of its content.
        np.testing.assert_array_equal(side.tokenizer.encode(vectors[7:8].repeat(2, axis=0)), codes[[7, 7]])
        assert side.free.shape == side.bias.shape == (len(vectors), 4)


@pytest.mark.parametrize("view", VIEWS)
def test_each_view_can_be_switched(view: Any) -> None:
    """A view alone moves the codes of its own side; the other's are those of content alone."""
    users, items, _ = clouds()
    one, none = fit(replace(SMALL, views=(view,))), fit(replace(SMALL, views=()))
    moved = [
        not np.array_equal(ours.tokenizer.encode(vectors), theirs.tokenizer.encode(vectors))
        for ours, theirs, vectors in ((one.users, none.users, users), (one.items, none.items, items))
    ]
    assert moved == [view.startswith("user"), view.startswith("item")]


@pytest.mark.parametrize("view", ["user_item", "item_user"])
def test_where_everybody_takes_everything_there_is_nothing_to_contrast(view: Any) -> None:
    """True positives are no negatives: with none left, the contrast is 0 and moves nothing."""
    users, items, _ = clouds()
    complete = log_of([list(range(50)) for _ in range(60)], num_items=50)
    one, none = (replace(SMALL, views=views).fit_both(users, items, train=complete, seed=0) for views in ((view,), ()))
    for ours, theirs, vectors in ((one.users, none.users, users), (one.items, none.items, items)):
        assert np.mean(ours.tokenizer.encode(vectors) == theirs.tokenizer.encode(vectors)) > 0.95
        np.testing.assert_allclose(ours.free, theirs.free, atol=1e-4)


def nearness(found: FittedTwoSided, seed: int) -> float:
    """Mean cosine of what items' codes stand for with what the log knows of the item, beyond that with another's."""
    side = found.items
    codes = torch.from_numpy(side.tokenizer.encode(world(seed).items).astype(np.int64))
    with torch.no_grad():
        stands_for = functional.normalize(side.tokenizer.net.codebooks.sum_of(codes), dim=1)
    cosines = (stands_for @ functional.normalize(torch.from_numpy(side.free), dim=1).T).numpy()
    own = float(np.diag(cosines).mean())
    return own - (float(cosines.sum()) - len(cosines) * own) / (cosines.size - len(cosines))


@pytest.mark.parametrize("seed", [0, 1])
def test_contrasts_bring_codes_to_what_the_log_knows_and_a_high_temperature_more(seed: int) -> None:
    """At a high temperature a contrast pulls what belongs together more than it parts the rest."""
    usual, alone, warm = (
        nearness(fitted(seed, **settings), seed)
        for settings in ({"debias": True}, {"debias": True, "align": 0.0}, {"debias": True, "temperature": 1.0})
    )
    assert alone < 0.06 < 0.1 < usual < 0.7 * warm


def test_where_all_are_met_equally_often_there_is_nothing_to_correct() -> None:
    users, items, skewed = clouds()
    even = log_of([[(user + 7 * step) % 50 for step in range(4)] for user in range(50)], num_items=50)
    # Users of an item are met at the ends of its sequence less often than in the middle.
    views = tuple(view for view in VIEWS if view != "users_together")
    same = []
    for log, left in ((even, users[:50]), (skewed, users)):
        on, off = (
            replace(SMALL, log_q=log_q, views=views).fit_both(left, items, train=log, seed=0) for log_q in (True, False)
        )
        same += [
            float(np.mean(ours.tokenizer.encode(vectors) == theirs.tokenizer.encode(vectors)))
            for ours, theirs, vectors in ((on.users, off.users, left), (on.items, off.items, items))
        ]
    assert min(same[:2]) > 0.95 and max(same[2:]) < 0.6


def test_pairs_are_asked_for_only_where_a_view_wants_them() -> None:
    users, items, _ = clouds()
    alone = log_of([[user % 50] for user in range(60)], num_items=50)
    with pytest.raises(DataError, match="no two items of different content are met together"):
        SMALL.fit_both(users, items, train=alone, seed=0)
    spread = log_of([[user, (user + 1) % 50] if user < 50 else [] for user in range(60)], num_items=50)
    once = log_of([[2 * user, 2 * user + 1] if user < 25 else [] for user in range(60)], num_items=50)
    with pytest.raises(DataError, match="no two users of different content are met together"):
        SMALL.fit_both(users, items, train=once, seed=0)
    assert SMALL.fit_both(users, items, train=spread, seed=0).items.tokenizer.codebook_sizes == (8, 4)
    without = replace(SMALL, views=VIEWS[:4])
    assert without.fit_both(users, items, train=alone, seed=0).items.tokenizer.codebook_sizes == (8, 4)


def test_both_sides_get_codes_with_their_collisions_settled() -> None:
    users, items, _ = clouds()
    codes = two_sided_codes(fit(SMALL), users, items, rule=CollisionToken(), seed=0)
    for side, count in ((codes.users.codes, 60), (codes.items.codes, 50)):
        assert side.matrix.shape == (count, 3) and side.num_semantic_levels == 2
        assert len(np.unique(side.matrix, axis=0)) == count


def test_as_a_tokenizer_of_items_users_are_what_they_took() -> None:
    _, items, train = clouds()
    users = taken_content(items, train)
    np.testing.assert_allclose(users[3], items[train.history(3)].mean(axis=0), rtol=1e-5)
    alone = SMALL.fit_in(items, context=CodeContext((4, 3), train), seed=0)
    both = SMALL.fit_both(users, items, train=train, seed=0).items.tokenizer
    np.testing.assert_array_equal(alone.encode(items), both.encode(items))
    nobody = log_of([[0, 1], []], num_items=50)
    assert not taken_content(items, nobody)[1].any()


def test_order_and_global_seed_change_nothing() -> None:
    users, items, train = clouds()
    rng = np.random.default_rng(1)
    user_order, item_order = rng.permutation(60), rng.permutation(50)
    place = np.argsort(item_order)
    shuffled = log_of([place[train.history(user)].tolist() for user in user_order], num_items=50)
    # The users of an item stand in their own order where the log has no times, so pairs of users are left out here.
    timeless = replace(SMALL, views=tuple(view for view in VIEWS if view != "users_together"))
    one, other = (
        timeless.fit_both(users, items, train=train, seed=3),
        timeless.fit_both(users[user_order], items[item_order], train=shuffled, seed=3),
    )
    for ours, theirs, order, vectors in (
        (one.users, other.users, user_order, users),
        (one.items, other.items, item_order, items),
    ):
        codes = ours.tokenizer.encode(vectors)
        np.testing.assert_array_equal(theirs.tokenizer.encode(vectors[order]), codes[order])
        np.testing.assert_array_equal(theirs.free, ours.free[order])
    again = fit(SMALL, seed=3)
    torch.manual_seed(99)
    assert np.array_equal(fit(SMALL, seed=3).items.free, again.items.free)
    assert not np.array_equal(fit(SMALL, seed=4).items.free, again.items.free)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (replace(SMALL, levels=0), "levels=0"),
        (replace(SMALL, codebook_size=51), "larger than the catalogue of 50 items"),
        (replace(SMALL, codebook_size=61), "larger than the catalogue of 60 users"),
        (replace(SMALL, latent=0), "latent=0"),
        (replace(SMALL, window=0), "window=0"),
        (replace(SMALL, alpha=-1.0), "alpha=-1.0"),
        (replace(SMALL, temperature=0.0), "temperature=0.0"),
        (replace(SMALL, views=("user_items",)), "no view 'user_items'\n.*did you mean 'user_item'"),  # type: ignore[arg-type]
        (replace(SMALL, training=CodebookTraining(learning_rate=0.0)), "training got learning_rate=0.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(part: TwoSidedRqVae, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        fit(part)


def test_content_that_cannot_be_is_refused() -> None:
    users, items, train = clouds()
    broken = users.copy()
    broken[3, 2] = np.nan
    silent = log_of([[] for _ in range(60)], num_items=50)
    for left, right, log, words in (
        (broken, items, train, "1 of 60 user vectors hold NaN or infinity, first at user index 3"),
        (users[:59], items, train, "there are 59 user vectors, and the log knows 60 users"),
        (users, items[:0], train, r"item vectors have shape \(0, 7\)"),
        (users, items[:49], train, "there are 49 item vectors, and the log knows 50 items"),
        (users, items, silent, "the training log has no event"),
    ):
        with pytest.raises(DataError, match=words):
            SMALL.fit_both(left, right, train=log, seed=0)
