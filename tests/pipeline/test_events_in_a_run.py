"""A run whose model reads what was done and when: settings that fit together, and the same lists served as judged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import sememe
from sememe.core.config import apply_settings, from_tree, to_tree
from sememe.core.errors import ConfigError
from sememe.data.batches import PrefixBatches, request_batches
from sememe.data.event_inputs import user_event_inputs
from sememe.data.negatives import SharedNegatives
from sememe.data.splits import Examples
from sememe.decode.exact import ExactItems
from sememe.models.itemwise import ItemWise
from sememe.pipeline.checks import check_recipe
from sememe.pipeline.evaluate import judge
from sememe.pipeline.opened import open_run
from sememe.pipeline.recipe import Recipe, View
from sememe.pipeline.run import run_recipe

BOTH = ("action", "gap")


def reading(recipe: Recipe) -> Recipe:
    """`recipe` with an item-wise generator that reads both."""
    assert isinstance(recipe.model, ItemWise) and isinstance(recipe.batches, SharedNegatives)
    return replace(
        recipe,
        model=replace(recipe.model, actions=True, gaps=True),
        batches=replace(recipe.batches, batches=replace(recipe.batches.batches, events=BOTH)),
        views=(View("items", ExactItems()),),
        baselines=(),
    )


@pytest.fixture(scope="module")
def events_file(world_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world with a type for most events."""
    folder = tmp_path_factory.mktemp("typed")
    events = pl.read_parquet(world_files / "interactions.parquet")
    types = np.array(["view", "cart", "buy", None])[np.random.default_rng(0).integers(0, 4, events.height)]
    events.with_columns(pl.Series("event_type", types.tolist())).write_parquet(folder / "interactions.parquet")
    (folder / "items.parquet").write_bytes((world_files / "items.parquet").read_bytes())
    return folder


@pytest.fixture(scope="module")
def judged(events_file: Path, reranked: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory; tests must not change it."""
    return run_recipe(reading(reranked), data=events_file, out=tmp_path_factory.mktemp("out"), say=lambda _: None)


@pytest.mark.parametrize("name", ["tiny", "tiny:items"])
def test_lists_are_served_as_they_were_judged(judged: Path, name: str) -> None:
    """`recommend` with what was known at the time gives the lists of the evaluation."""
    run = open_run(judged, model=name)
    log, test = run.world.interactions, run.world.split.test
    assert run.recommender.events == BOTH
    offline = judge(run.recommender, run.world.split, run.recipe.evaluation, examples=test, mask_seen=True).ranked
    requests = list(zip(test.users.tolist(), test.starts.tolist(), strict=True))
    histories = [log.history(user)[:start] for user, start in requests]
    own = [user_event_inputs(log, BOTH, user=user) for user in test.users.tolist()]
    events = {
        kind: [inputs[kind][:start] for inputs, start in zip(own, test.starts.tolist(), strict=True)] for kind in BOTH
    }
    served = run.recommender.recommend(histories, users=test.users, k=10, leave_out=histories, events=events)
    np.testing.assert_array_equal(served.items, offline.items)
    np.testing.assert_allclose(served.scores, offline.scores, rtol=1e-5)
    # It is read: without it, other scores come out.
    unknown = run.recommender.recommend(histories, users=test.users, k=10, leave_out=histories)
    assert (np.abs(unknown.scores - served.scores).max(axis=1) > 1e-4).mean() > 0.9


def test_a_known_user_is_answered_with_what_the_user_did(judged: Path) -> None:
    """The whole history of a user, as a request of an evaluation that would know all of it."""
    run = sememe.open_run(judged)
    log = run.world.interactions
    lengths = log.lengths()
    users = np.flatnonzero(lengths > 0).astype(np.int32)[:20]
    everything = Examples(users=users, starts=lengths[users], ends=lengths[users])
    requests = request_batches(
        log, everything, max_history=run.recommender.max_history, batch_size=7, events=run.recommender.events
    )
    for request in requests:
        ranked = run.recommender.rank(request.batch, k=5, seen=request.seen)
        for row, example in enumerate(request.rows.tolist()):
            user = log.user_ids[int(users[example])]
            answer = run.recommend(user=user, k=5)
            assert answer["item"].to_list() == log.item_ids.gather(ranked.items[row].tolist()).to_list()
            np.testing.assert_allclose(answer["score"], ranked.scores[row], rtol=1e-5)
            # The same items from somebody unknown are read without it.
            free = run.recommend(history=run.history(user)["item"].to_list(), k=5)
            assert not np.allclose(free["score"], answer["score"], rtol=1e-5)


def test_it_is_kept_with_the_run_and_off_unless_asked_for(judged: Path, reranked: Recipe) -> None:
    run = sememe.open_run(judged)
    assert run.recipe == reading(reranked) == from_tree(to_tree(run.recipe))
    assert set(run.recommender.model.events) == set(BOTH)
    assert getattr(reranked.batches, "events", None) == () and getattr(reranked.model, "reads_events", None) == ()


def test_settings_can_be_given_as_text(reranked: Recipe) -> None:
    settings = {
        "model.actions": "true",
        "model.gaps": "true",
        "batches.batches.events": '["action","gap"]',
    }
    recipe = apply_settings(replace(reranked, views=(View("items", ExactItems()),), baselines=()), settings)
    assert recipe == reading(reranked)
    with pytest.raises(ConfigError, match=r"batches\.batches\.events"):
        apply_settings(recipe, {"batches.batches.events": '["actions"]'})


def test_models_and_batches_that_do_not_fit_are_refused_before_anything_is_made(
    reranked: Recipe, tiny: Recipe, tmp_path: Path
) -> None:
    both = reading(reranked)
    assert isinstance(both.model, ItemWise) and isinstance(tiny.batches, PrefixBatches)
    check_recipe(both)
    with pytest.raises(
        ConfigError, match='the model reads "action" and "gap" of events, which its batches do not'
    ) as told:
        run_recipe(replace(both, batches=reranked.batches), data=tmp_path / "no data", out=tmp_path / "run")
    # The setting that is to be changed lies in the batches that others wrap.
    path, value = (told.value.fix or "").removeprefix("set ").split("=")
    check_recipe(apply_settings(replace(both, batches=reranked.batches, views=(), baselines=()), {path: value}))
    with pytest.raises(ConfigError, match='the batches hold "gap" of events, which its model does not read'):
        check_recipe(replace(both, model=replace(both.model, gaps=False)))
    with pytest.raises(ConfigError, match=r"set batches\.events=\[\]"):
        check_recipe(replace(tiny, batches=replace(tiny.batches, events=("gap",))))
    with pytest.raises(ConfigError, match="recipe 'other': the batches hold"):
        other = replace(tiny, name="other", batches=replace(tiny.batches, events=("gap",)), baselines=())
        check_recipe(replace(tiny, baselines=(other,)))
    assert not (tmp_path / "run").exists()


def test_data_that_does_not_say_it_is_refused_by_name(world_files: Path, reranked: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="reads actions, and the data does not say what was done"):
        recipe = replace(reading(reranked), baselines=reranked.baselines)
        run_recipe(recipe, data=world_files, out=tmp_path, say=lambda _: None)
    assert not list((tmp_path / "stages").glob("model-*")), "before any baseline is fitted"
