"""A run whose last word is learned: rows of the recipe and its views, what run.json says, and opening it again."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

import sememe
from sememe.cli.main import evaluate
from sememe.core.config import from_tree, set_path
from sememe.core.errors import ConfigError
from sememe.decode.exact import ExactItems
from sememe.decode.trie import Trie
from sememe.embed.collaborative import CooccurrenceSvd
from sememe.embed.fuse import Fuse, ProvidedVectors
from sememe.models.counting import ItemKnn
from sememe.pipeline.checks import check_recipe
from sememe.pipeline.evaluate import protocol_line
from sememe.pipeline.opened import open_run
from sememe.pipeline.prepare import prepare_items, prepare_world
from sememe.pipeline.recipe import Embedder, Recipe, View
from sememe.pipeline.reranking import gather_evidence
from sememe.pipeline.run import run_recipe
from sememe.pipeline.stages import StageStore
from sememe.recipes import item_knn
from sememe.rerank.signals import CoOccurrence, Likeness
from sememe.sid.vocab import load_codes

NAMES = ["popularity", "tiny:rescored", "tiny:items", "tiny"]


@pytest.fixture(scope="module")
def judged(world_files: Path, reranked: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory; tests must not change it."""
    return run_recipe(reranked, data=world_files, out=tmp_path_factory.mktemp("reranked"), say=lambda _: None)


def run_again(recipe: Recipe, data: Path, out: Path) -> list[str]:
    lines: list[str] = []
    run_recipe(recipe, data=data, out=out, say=lines.append)
    return lines


def own_entry(run: Path) -> dict[str, dict[str, str]]:
    """What run.json says of the recipe's own model."""
    entry: dict[str, dict[str, str]] = json.loads((run / "run.json").read_text())["models"][-1]
    return entry


def test_every_view_has_its_rows_and_the_reranked_one_none_on_validation(judged: Path) -> None:
    metrics = json.loads((judged / "metrics.json").read_text())
    found = [(row["model"], row["split"], row["mask_seen"]) for row in metrics["rows"]]
    both = [(split, mask) for split in ("valid", "test") for mask in (False, True)]
    expected = [(name, *where) for name in NAMES[:3] for where in both]
    assert found == [*expected, ("tiny", "test", False), ("tiny", "test", True)]
    assert {part["model"] for part in metrics["slices"]} == set(NAMES)
    assert {(entry["model"], entry["against"]) for entry in metrics["comparisons"]} == {
        *(("tiny", name) for name in NAMES[:3]),
        ("tiny:rescored", "popularity"),
        ("tiny:items", "popularity"),
    }


def test_how_lists_come_about_stands_beside_the_numbers_in_words(judged: Path) -> None:
    metrics = json.loads((judged / "metrics.json").read_text())
    decode = dict(metrics["protocol"]["decode"])
    assert list(decode) == NAMES
    last_word = decode.pop("tiny")
    assert decode == {
        "popularity": "exact scores of all items",
        "tiny:rescored": "beam of 12, 0.3 code + 0.7 item log-probability",
        "tiny:items": "exact scores of all items",
    }
    assert last_word.endswith(", fitted on validation requests") and "(" not in last_word
    line = protocol_line(metrics)
    assert f"; tiny:items: exact scores of all items; tiny: {last_word}" in line and "\n" not in line


def test_a_view_can_be_opened_by_the_name_of_its_row(judged: Path) -> None:
    own, view = (open_run(judged, model=name) for name in ("tiny", "tiny:items"))
    user = own.world.interactions.user_ids[0]
    assert own.recommender.rerank is not None and view.recommender.rerank is None
    assert set(view.recommend(user=user, k=3)["source"]) == {"exact:item_score"}
    with pytest.raises(ConfigError, match="did you mean 'tiny:items'"):
        open_run(judged, model="tiny:itemz")


def test_run_json_names_the_recipe_and_the_stages_of_views_and_last_word(judged: Path, reranked: Recipe) -> None:
    description = json.loads((judged / "run.json").read_text())
    assert from_tree(description["recipe"]) == reranked
    baseline, own = description["models"]
    assert "rerank" not in baseline["stages"] and baseline["views"] == {}
    assert own["stages"]["rerank"].startswith("rerank-tiny-")
    assert list(own["views"]) == ["tiny:rescored", "tiny:items"]
    assert own["views"]["tiny:items"].startswith("evaluation-tiny-items-")
    named = [*own["stages"].values(), *own["views"].values(), *baseline["stages"].values()]
    assert all((judged / "stages" / name / "manifest.json").is_file() for name in named)


def test_an_opened_run_recommends_as_it_was_judged(judged: Path) -> None:
    run = sememe.open_run(judged)
    split, log = run.world.split, run.world.interactions
    histories = [
        log.history(int(user))[: int(start)] for user, start in zip(split.test.users, split.test.starts, strict=True)
    ]
    ranked = run.recommender.recommend(histories, users=split.test.users, k=10, leave_out=histories)
    hits = (ranked.items == log.items[log.offsets[1:] - 1][:, None]).any(axis=1)
    per_row = pl.read_parquet(judged / "stages" / own_entry(judged)["stages"]["evaluation"] / "per_row.parquet")
    chosen = per_row.filter(pl.col("split") == "test", pl.col("mask_seen")).sort("user")
    assert hits.astype(float).tolist() == chosen["recall@10"].to_list()
    assert hits.any() and ranked.source == "blend"
    # The answer at the terminal is that list with names.
    history = log.history(3)
    answer = run.recommend(user=log.user_ids[3], k=5)
    same = run.recommender.recommend([history], users=np.array([3], np.int32), k=5, leave_out=[history])
    assert answer["item"].to_list() == log.item_ids.gather(same.items[0].tolist()).to_list()
    assert answer["score"].to_list() == same.scores[0].tolist()
    assert run.recommend(user=log.user_ids[3], k=36, repeat_seen=True).height == 36


def test_an_item_that_is_not_offered_is_in_no_list_of_any_row(judged: Path) -> None:
    codes = load_codes(judged / "stages" / own_entry(judged)["stages"]["codes"])
    for name in NAMES[1:]:
        recommender = open_run(judged, model=name).recommender
        history = [np.array([3, 8], np.int32)]
        first = recommender.recommend(history, k=36, leave_out=history).items[0]
        offered = np.ones(36, np.bool_)
        offered[first[:5]] = False
        fewer = replace(recommender, trie=Trie.build(codes, offered=offered))
        found = fewer.recommend(history, k=36, leave_out=history).items[0]
        assert set(found[found >= 0]) == set(first[first >= 0]) - set(first[:5])


def test_the_same_run_again_reuses_every_stage_and_tells_the_estimate(
    judged: Path, world_files: Path, reranked: Recipe, tmp_path: Path
) -> None:
    shutil.copytree(judged, tmp_path / "run")
    lines = run_again(reranked, world_files, tmp_path / "run")
    assert [line for line in lines if "running" in line] == []
    # Data, split, vectors, codes, two models, the last word, and four evaluations.
    assert sum("unchanged, reused" in line for line in lines) == 11
    assert (tmp_path / "run" / "metrics.json").read_bytes() == (judged / "metrics.json").read_bytes()
    manifest = judged / "stages" / own_entry(judged)["stages"]["rerank"] / "manifest.json"
    result = json.loads(manifest.read_text())["meta"]["result"]
    names = {"recall@10", "hit@10", "ndcg@10", "mrr@10"}
    assert result["requests"] == 150 and set(result["estimate"]) == names | {f"mixture_{name}" for name in names}
    assert any(f"ndcg@10 {result['estimate']['ndcg@10']:.4f}" in line for line in lines)


def test_a_changed_last_word_is_fitted_and_judged_anew_and_nothing_else(
    judged: Path, world_files: Path, reranked: Recipe, tmp_path: Path
) -> None:
    shutil.copytree(judged, tmp_path / "run")
    lines = run_again(set_path(reranked, "rerank.max_requests", "60"), world_files, tmp_path / "run")
    running = [line.partition(":")[0] for line in lines if "running again" in line]
    assert running == ["rerank-tiny", "evaluation-tiny"]
    stages = (json.loads(path.read_text()) for path in tmp_path.glob("run/stages/rerank-tiny-*/manifest.json"))
    assert sorted(stage["meta"]["result"]["requests"] for stage in stages) == [60, 150]
    # A view alone: the model and the last word stay.
    changed = replace(reranked, views=(View("items", ExactItems()), View("again", ExactItems())))
    lines = run_again(changed, world_files, tmp_path / "run")
    assert [line.partition(":")[0] for line in lines if "running" in line] == ["evaluation-tiny-again"]


def test_equal_runs_give_equal_bytes(judged: Path, world_files: Path, reranked: Recipe, tmp_path: Path) -> None:
    run_again(replace(reranked, baselines=(), views=()), world_files, tmp_path)
    ours, theirs = (
        load_file(run / "stages" / own_entry(run)["stages"]["rerank"] / "rerank.safetensors")
        for run in (judged, tmp_path)
    )
    assert ours.keys() == theirs.keys()
    assert all(ours[name].tobytes() == theirs[name].tobytes() for name in ours)


def test_the_tables_of_views_fit_the_terminal(
    judged: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    evaluate(judged)
    lines = [line for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert all(any(name in line for line in lines) for name in NAMES)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("embed", "widths"),
    [
        (ProvidedVectors(), [16]),
        (Fuse(parts=(ProvidedVectors(), CooccurrenceSvd(dim=4))), [16, 4]),
        (Fuse(parts=(ProvidedVectors(), CooccurrenceSvd(dim=4)), whiten=5), [5]),
    ],
)
def test_vectors_remember_the_widths_of_their_parts(
    embed: Embedder, widths: list[int], reranked: Recipe, world_files: Path, tmp_path: Path
) -> None:
    stages = StageStore(root=tmp_path, say=lambda _: None, recipe_hash="")
    world = prepare_world(stages, reranked.data, source=world_files, columns={})
    items = prepare_items(stages, replace(reranked, embed=embed, tokenizer=None), world, seed=0)
    assert list(items.vector_widths) == widths
    assert items.vectors is not None and items.vectors.shape == (36, sum(widths))


def test_a_signal_that_the_vectors_do_not_have_is_refused(
    judged: Path, world_files: Path, reranked: Recipe, tmp_path: Path
) -> None:
    shutil.copytree(judged, tmp_path / "run")
    assert reranked.rerank is not None
    wrong = replace(reranked, rerank=replace(reranked.rerank, signals=(Likeness(embedder=2),)))  # type: ignore[type-var]
    with pytest.raises(ConfigError, match="reads part 2 of the item vectors, and there are 2"):
        run_again(wrong, world_files, tmp_path / "run")


@pytest.mark.parametrize(
    ("rerank", "message"),
    [
        ({"max_requests": 0}, "max_requests of Blend is 0, below 1"),
        ({"rehearse_every": -2}, "rehearse_every=-2"),
        ({"signals": (Likeness(embedder=5),)}, "reads part 5 of the item vectors, and there are 2"),
        ({"signals": (CoOccurrence(ItemKnn(recency=0.0)),)}, "recency of ItemKnn"),
    ],
)
def test_settings_of_the_last_word_are_refused_before_any_stage_is_made(
    rerank: dict[str, Any], message: str, reranked: Recipe, world_files: Path, tmp_path: Path
) -> None:
    wrong = replace(reranked, rerank=replace(reranked.rerank, **rerank))  # type: ignore[type-var]
    with pytest.raises(ConfigError, match=message):
        check_recipe(wrong)
    with pytest.raises(ConfigError, match=message):
        run_again(wrong, world_files, tmp_path / "run")
    assert not (tmp_path / "run" / "stages").exists()


@pytest.mark.parametrize(
    ("embed", "parts"),
    [
        (None, 0),
        (ProvidedVectors(), 1),
        (Fuse(parts=(ProvidedVectors(), CooccurrenceSvd(dim=4))), 2),
        (Fuse(parts=(ProvidedVectors(), CooccurrenceSvd(dim=4)), whiten=5), 1),
    ],
)
def test_a_likeness_reads_a_part_that_the_embedder_makes(embed: Embedder | None, parts: int, reranked: Recipe) -> None:
    for number in range(parts + 1):
        asked = replace(reranked.rerank, signals=(CoOccurrence(ItemKnn()), Likeness(embedder=number)))  # type: ignore[type-var]
        recipe = replace(reranked, embed=embed, tokenizer=None, collisions=None, rerank=asked)
        if number < parts:
            check_recipe(recipe)
        else:
            with pytest.raises(ConfigError, match=f"reads part {number} of the item vectors, and there are {parts}"):
                check_recipe(recipe)


def test_a_model_that_the_last_word_cannot_ask_is_refused_before_it_is_trained(
    tiny: Recipe, reranked: Recipe, world_files: Path, tmp_path: Path
) -> None:
    wrong = replace(reranked, model=tiny.model, batches=tiny.batches, objective=tiny.objective, views=())
    with pytest.raises(
        ConfigError, match="Blend asks a model for score_items and code_log_prob and as_new, and EncDecModel has none"
    ):
        run_again(wrong, world_files, tmp_path / "run")
    assert not list((tmp_path / "run" / "stages").glob("model-*"))


def test_evidence_without_some_items_has_neither_their_events_nor_what_the_log_says_of_them(
    reranked: Recipe, world_files: Path, tmp_path: Path
) -> None:
    stages = StageStore(root=tmp_path, say=lambda _: None, recipe_hash="")
    world = prepare_world(stages, reranked.data, source=world_files, columns={})
    new, others = np.array([3, 17], np.int32), np.setdiff1d(np.arange(36), [3, 17])
    for embed, kept in (
        (reranked.embed, 16),
        (CooccurrenceSvd(dim=4), 0),
        (ProvidedVectors(), 16),
        (Fuse(parts=(ProvidedVectors(),), whiten=5), 5),
    ):
        recipe = replace(reranked, embed=embed, tokenizer=None)
        evidence = gather_evidence(recipe, world, prepare_items(stages, recipe, world, seed=0))
        without = evidence.without(new)
        assert evidence.known_items().all() and np.flatnonzero(~without.known_items()).tolist() == [3, 17]
        assert evidence.vectors is not None and without.vectors is not None
        np.testing.assert_array_equal(without.vectors[others], evidence.vectors[others])
        np.testing.assert_allclose(without.vectors[new, :kept], evidence.vectors[new, :kept], rtol=1e-5)
        assert without.vectors[new, :kept].any() == (kept > 0) and not without.vectors[new, kept:].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"views": (View("a", ExactItems()), View("a", ExactItems()))}, r"are named \['a', 'a'\]"),
        ({"views": (View("two words", ExactItems()),)}, "are named"),
        ({"views": (View("", ExactItems()),)}, "are named"),
        ({"views": (View("a:b", ExactItems()),)}, "are named"),
        ({"model": item_knn().model}, "reranks a model that is not trained"),
    ],
)
def test_views_and_last_words_that_do_not_fit_are_refused(
    reranked: Recipe, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_recipe(replace(reranked, **change))
    with pytest.raises(ConfigError, match=message):
        check_recipe(replace(reranked, name="other", baselines=(replace(reranked, **change),)))
