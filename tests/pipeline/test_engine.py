"""An engine gives the lists of the run that it opened, whichever way it searches and whoever asks."""

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from sememe.core.errors import ArtifactError, ConfigError, DataError
from sememe.decode.beam import BeamSearch
from sememe.decode.graphed import GraphedSearch
from sememe.decode.native.paths import native_status
from sememe.decode.predicates import OneOf
from sememe.decode.rules import Rules, any_of, none_of
from sememe.models.itemwise import ItemWise
from sememe.pipeline.engine import Answer, Engine, Request
from sememe.pipeline.graphs import Graphs
from sememe.pipeline.opened import Run, open_run
from sememe.pipeline.recipe import Recipe, View
from sememe.pipeline.run import run_recipe

ROWS = ("tiny", "tiny:beam", "tiny:rescored", "popularity")
needs_kernel = pytest.mark.skipif(native_status().path is None, reason=native_status().reason)


@pytest.fixture(scope="module")
def run(reranked: Recipe, world_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a fitted last word, a plain beam, a rescored beam and a counting model."""
    views = (View("beam", BeamSearch(width=12)), *reranked.views)
    assert isinstance(reranked.model, ItemWise)
    # A model is another one in training, where it makes items look new.
    model = replace(reranked.model, cold_share=0.3)
    return run_recipe(
        replace(reranked, views=views, model=model),
        data=world_files,
        out=tmp_path_factory.mktemp("run"),
        say=lambda _: None,
    )


def close(answer: Answer, frame: pl.DataFrame) -> None:
    """The same scores; the same items but for ties that rounding may part."""
    assert len(answer.items) == frame.height
    np.testing.assert_allclose(answer.scores, frame["score"].to_numpy(), atol=1e-4)
    scores = dict(zip(frame["item"].to_list(), frame["score"].to_list(), strict=True))
    for item, score in zip(answer.items, answer.scores, strict=True):
        assert abs(scores.get(item, frame["score"][-1]) - score) < 1e-4


def users(run: Run) -> list[int | str]:
    return run.world.interactions.user_ids[:9].to_list()


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("native", ["auto", "off"])
def test_lists_are_those_of_the_run(run: Path, row: str, native: str) -> None:
    opened = open_run(run, model=row)
    engine = Engine.load(run, model=row, native=native)  # type: ignore[arg-type]
    answers = engine.recommend([Request(user=user, k=5) for user in users(opened)])
    for user, answer in zip(users(opened), answers, strict=True):
        close(answer, opened.recommend(user=user, k=5))
    history = opened.history(users(opened)[0])["item"].to_list()[:4]
    (answer,) = engine.recommend([Request(history=history, k=7, repeat_seen=True)])
    close(answer, opened.recommend(history=history, k=7, repeat_seen=True))
    assert not answer.short and answer.eligible is None and engine.nbytes > 0


def test_searches_of_recorded_shapes_give_the_same_lists(run: Path) -> None:
    plain = Engine.load(run, model="tiny:beam", native="off")
    graphs = Graphs.build(plain.serving.answerer.recommender)
    assert graphs is not None
    recorded = Engine(replace(plain.serving, answerer=replace(plain.serving.answerer, graphs=graphs)))
    for row in ("tiny", "tiny:rescored"):
        assert Graphs.build(open_run(run, model=row).recommender) is None, "lists of more than a beam"
    people = users(plain.serving.run)
    asked = [Request(user=user, k=k) for user, k in zip(people, (3, 5, 7) * 3, strict=True)]
    # The last two are what no recording holds: rules that differ within a batch, and a list longer than the beam.
    plain.put_rules(plain.rules.define({"even": np.arange(len(plain.serving.items.ids)) % 2 == 0}))
    recorded.put_rules(plain.rules)
    ruled = [replace(one, rules=("even",)) for one in asked]
    for batch in (asked[:1], asked, ruled, [asked[0], ruled[1]], [replace(asked[0], k=20)]):
        for ours, theirs in zip(recorded.recommend(batch), plain.recommend(batch), strict=True):
            assert ours.items == theirs.items and ours.eligible == theirs.eligible
            np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)
    assert sorted(graphs.recorded) == [1, 64], "a request alone, and nine in the recording that holds them"


def test_recordings_that_fail_or_find_something_else_are_not_used(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recommender = open_run(run, model="tiny:beam").recommender
    recommender.model.eval()
    graphs = Graphs.build(recommender)
    assert graphs is not None and graphs.record_all() is None and sorted(graphs.recorded) == [1, 8, 64]
    first = graphs.recorded[1].inputs["history"]
    monkeypatch.setattr(GraphedSearch, "_fill_inputs", lambda self, batch, *, rows: first.fill_(3))
    assert "differs" in str(graphs.record_all())

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    graphs.recorded.clear()
    monkeypatch.setattr(GraphedSearch, "record", fail)
    assert graphs.record_all() == (
        "CUDA graphs could not be recorded (operation not permitted when stream is capturing)"
    )


@needs_kernel
def test_a_plain_beam_is_searched_by_the_kernel_and_what_is_not_says_why(run: Path) -> None:
    assert Engine.load(run, model="tiny:beam").path.startswith("native: ")
    assert Engine.load(run, model="tiny:beam", native="off").path == "torch: the compiled search is switched off"
    for row, reason in {
        "tiny": "not a beam by code score alone",
        "tiny:rescored": "not a beam by code score alone",
        "popularity": "not the item-wise generator",
    }.items():
        assert reason in Engine.load(run, model=row).path
        with pytest.raises(ConfigError, match=reason):
            Engine.load(run, model=row, native="required")


@pytest.mark.parametrize("row", ["tiny:beam", "tiny:rescored", "tiny"])
@pytest.mark.parametrize("native", ["auto", "off"])
def test_lists_of_different_lengths_and_rules_in_one_batch_are_those_of_requests_alone(
    run: Path, row: str, native: str
) -> None:
    engine = Engine.load(run, model=row, native=native)  # type: ignore[arg-type]
    world = engine._serving.run.world
    leaves = world.catalog.frame["categories"].explode().unique().sort().to_list()
    engine.put_rules(
        engine.rules.define({leaf: OneOf("categories", (leaf,)) for leaf in leaves}, frame=world.catalog.frame)
    )
    kinds = [(), (leaves[0],), (any_of(*leaves[:2]),), (none_of(*leaves[:3]),)]
    ids = world.interactions.item_ids.to_list()
    requests = [
        Request(user=user, k=k, rules=kinds[number % 4], exclude=ids[number : number + 2])
        for number, (user, k) in enumerate(zip(users(engine._serving.run), [3, 30, 5, 14, 1, 2, 36, 4, 8], strict=True))
    ]
    together = engine.recommend(requests)
    for request, answer in zip(requests, together, strict=True):
        (alone,) = engine.recommend([request])
        assert answer.items == alone.items and answer.eligible == alone.eligible
        np.testing.assert_allclose(answer.scores, alone.scores, atol=1e-5)
        assert set(answer.items).isdisjoint(request.exclude)


@pytest.mark.parametrize("row", ["tiny:beam", "tiny"])
def test_rules_hold_and_a_list_that_is_short_says_how_many_there_were(run: Path, row: str) -> None:
    engine = Engine.load(run, model=row)
    ids = engine._serving.run.world.interactions.item_ids.to_list()
    stock = np.zeros(len(ids), np.bool_)
    stock[[3, 8, 30]] = True
    engine.put_rules(engine.rules.define({"in stock": stock}))
    request = Request(history=[ids[0], ids[8]], k=5, rules=("in stock",))
    (answer,) = engine.recommend([request])
    assert sorted(answer.items) == sorted([ids[3], ids[30]]) and answer.short and answer.eligible == 2
    engine.put_rules(engine.rules.change("in stock", np.array([30]), to=False))
    assert engine.recommend([request])[0].items == (ids[3],)


@needs_kernel
def test_a_user_who_comes_back_is_read_on_and_answered_as_if_new(run: Path) -> None:
    engine, fresh = Engine.load(run, model="tiny:beam"), Engine.load(run, model="tiny:beam", cache_bytes=0)
    cache = engine._serving.answerer.cache
    ids = engine._serving.run.world.interactions.item_ids.to_list()
    history = [ids[number] for number in (4, 9, 1, 30, 2, 7, 11, 3, 5)]
    before = cache.misses
    for end in range(1, len(history) + 1):
        (answer,) = engine.recommend([Request(history=history[:end], k=6)])
        (plain,) = fresh.recommend([Request(history=history[:end], k=6)])
        assert answer.items == plain.items
        np.testing.assert_allclose(answer.scores, plain.scores, atol=1e-6)
    # The model reads six items: from the seventh on the window slides, and is read anew.
    assert cache.misses - before == 1 + (len(history) - 6)
    assert len(fresh._serving.answerer.cache) == 0 < cache.nbytes
    held = cache.nbytes
    cache.most_bytes = held // 2
    engine.recommend([Request(history=history[:2])])
    assert 0 < cache.nbytes <= held // 2
    cache.clear()
    assert len(cache) == cache.nbytes == 0


def test_threads_get_the_answers_of_one(run: Path) -> None:
    engine = Engine.load(run, model="tiny:beam")
    requests = [Request(user=user, k=8) for user in users(engine._serving.run)]
    expected = [answer.items for answer in engine.recommend(requests)]
    wrong: list[object] = []

    def ask() -> None:
        for _ in range(20):
            for number, request in enumerate(requests):
                (answer,) = engine.recommend([request])
                if answer.items != expected[number]:
                    wrong.append((number, answer.items))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_unknown_ids_are_passed_over_and_told(run: Path) -> None:
    engine = Engine.load(run, model="tiny:beam")
    ids = engine._serving.run.world.interactions.item_ids.to_list()
    with_strangers = Request(history=["nobody", ids[1], True, ids[2]], exclude=["nothing"])
    (answer,) = engine.recommend([with_strangers])
    assert answer.unknown == ("nobody", True, "nothing")
    assert answer.items == engine.recommend([Request(history=ids[1:3])])[0].items


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        (Request(history=["nobody"]), "no item that the run knows"),
        (Request(), "no item that the run knows"),
        (Request(user="nobody"), "there is no user 'nobody'"),
        (Request(history=["x"], k=0), "k is 0"),
    ],
)
def test_requests_that_cannot_be_answered_say_why(run: Path, request_: Request, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        Engine.load(run, model="tiny:beam").recommend([request_])


def test_settings_that_there_are_not_are_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"native is 'requird'.*\n.*did you mean 'required'"):
        Engine.load(run, native="requird")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="precision is 'int4'"):
        Engine.load(run, precision="int4")  # type: ignore[arg-type]


@pytest.mark.parametrize("native", ["auto", "off"])
def test_more_than_there_is_may_be_asked_for(run: Path, native: str) -> None:
    engine = Engine.load(run, model="tiny:beam", native=native)  # type: ignore[arg-type]
    ids = engine.serving.items.ids.to_list()
    (answer,) = engine.recommend([Request(history=ids[:2], k=10**6)])
    assert answer.k == 10**6 and answer.short and sorted(answer.items) == sorted(ids[2:])


@needs_kernel
def test_bf16_weights_give_nearly_the_same(run: Path) -> None:
    exact, rounded = (Engine.load(run, model="tiny:beam", precision=each) for each in ("fp32", "bf16"))
    asked = [Request(user=user, k=5) for user in users(exact.serving.run)]
    for ours, theirs in zip(exact.recommend(asked), rounded.recommend(asked), strict=True):
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=0.05)
    assert rounded.nbytes < exact.nbytes


def test_rules_that_do_not_fit_are_refused(run: Path) -> None:
    engine = Engine.load(run, model="tiny:beam")
    first = engine._serving.run.world.interactions.item_ids[0]
    with pytest.raises(ConfigError, match="nowhere"):
        engine.recommend([Request(history=[first], rules=("nowhere",))])
    with pytest.raises(DataError, match="another tree"):
        engine.put_rules(Rules.start(open_run(run).recommender.trie))
    counting = Engine.load(run, model="popularity")
    with pytest.raises(ConfigError, match="this model has none"):
        counting.recommend([Request(history=[first], rules=("in stock",))])
    with pytest.raises(ConfigError, match="this model has none"):
        _ = counting.rules


def test_stages_that_do_not_belong_together_are_refused_by_name(run: Path, tmp_path: Path) -> None:
    """The model of one code set with the codes of another: both say who they are."""
    mixed = tmp_path / "mixed"
    shutil.copytree(run, mixed)
    manifest = next((mixed / "stages").glob("model-tiny-*")) / "manifest.json"
    content = json.loads(manifest.read_text())
    other = "0123456789ab" + content["meta"]["inputs"]["codes"][12:]
    content["meta"]["inputs"]["codes"] = other
    manifest.write_text(json.dumps(content))
    with pytest.raises(
        ArtifactError, match=r"model-tiny-\w+ was made from codes 0123456789ab, and codes-\w+ holds codes"
    ):
        Engine.load(mixed, model="tiny:beam")
    history = [open_run(mixed, model="popularity").world.interactions.item_ids[0]]
    assert len(Engine.load(mixed, model="popularity").recommend([Request(history=history)])[0].items) == 10
