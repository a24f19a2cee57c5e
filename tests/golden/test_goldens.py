"""What must not change unnoticed: the expanded recipes, and the losses of a short training.

After a change that is meant: SEMEME_UPDATE_GOLDENS=1 python -m pytest tests/golden, then read the difference.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from sememe.cli.find_recipe import recipe_header, recipe_names
from sememe.core.config import render
from sememe.data.simulated_files import write_world
from sememe.data.simulator import PlantedWorld
from sememe.embed.fuse import ProvidedVectors
from sememe.pipeline.recipe import Recipe
from sememe.pipeline.run import run_recipe
from sememe.recipes import (
    bsarec,
    esasrec,
    item_knn,
    itemwise,
    onerec,
    onerec_v2,
    popularity,
    repeat_last,
    sasrec,
    tiger,
)

EXPECTED = Path(__file__).parent / "expected"
RECIPES = {
    "bsarec": bsarec(),
    "esasrec": esasrec(),
    "item_knn": item_knn(),
    "itemwise_debug": itemwise("debug"),
    "itemwise": itemwise(),
    "onerec_debug": onerec("debug"),
    "onerec": onerec(),
    "onerec_v2_debug": onerec_v2("debug"),
    "onerec_v2": onerec_v2(),
    "popularity": popularity(),
    "repeat_last": repeat_last(),
    "sasrec": sasrec(),
    "tiger_debug": tiger("debug"),
    "tiger_small": tiger("small"),
    "tiger_paper": tiger("paper"),
}


def compare(name: str, text: str) -> tuple[str, str]:
    """(`text`, what the golden file says), after writing the file where that was asked for."""
    file = EXPECTED / name
    if os.environ.get("SEMEME_UPDATE_GOLDENS"):
        file.write_text(text, encoding="utf-8")
    return text, file.read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "recipe"), RECIPES.items(), ids=list(RECIPES))
def test_an_expanded_recipe_is_the_one_on_record(name: str, recipe: Recipe) -> None:
    now, before = compare(f"{name}.txt", render(recipe) + "\n")
    assert now == before


def test_fifty_steps_of_training_lose_what_they_lost_before(tmp_path: Path) -> None:
    """Losses agree to 1 %: processors add up in different orders, a changed model or batch order does much more."""
    write_world(PlantedWorld(branching=(3, 3), items_per_leaf=4, num_users=120).generate(seed=0), tmp_path / "world")
    debug = tiger("debug")
    plan = replace(debug.train, log_every=5, threads=1, precision="fp32") if debug.train else None
    split = replace(debug.data, split=replace(debug.data.split, rule="leave_one_out"))
    alone = replace(debug, embed=ProvidedVectors(), baselines=(), train=plan, data=split)
    run_recipe(alone, data=tmp_path / "world", out=tmp_path / "run", say=lambda _: None)
    log = next(tmp_path.glob("run/stages/model-tiger-*/logs/train.jsonl")).read_text().splitlines()
    losses = {line["step"]: line["loss"] for line in map(json.loads, log) if line["kind"] == "train"}
    assert len(losses) == 10
    now, before = compare("tiger_debug_losses.json", json.dumps({str(k): round(v, 4) for k, v in losses.items()}))
    assert json.loads(now) == pytest.approx(json.loads(before), rel=0.01)


def recipe_page() -> str:
    """docs/recipes.md, from the headers of the recipe files."""
    blocks = ["# Recipes\n\nFrom the headers of the files in `sememe/recipes`; `sememe show NAME` adds every setting."]
    blocks += [f"## {name}\n\n```text\n{recipe_header(name).text}\n```" for name in recipe_names()]
    return "\n\n".join(blocks) + "\n"


def test_the_page_of_recipes_is_made_from_their_headers() -> None:
    page = Path(__file__).parents[2] / "docs" / "recipes.md"
    if os.environ.get("SEMEME_UPDATE_GOLDENS"):
        page.write_text(recipe_page(), encoding="utf-8")
    assert page.read_text(encoding="utf-8") == recipe_page()
