"""The benchmark of items that come after training, on a small planted world."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks.quality.added_items import check, grow, judged_recipe, measure, part_data
from sememe.core.errors import DataError, LimitError
from sememe.pipeline.recipe import Recipe
from sememe.pipeline.run import run_recipe


def test_new_items_are_found_after_they_came_and_never_before(
    world_files: Path, reranked: Recipe, tmp_path: Path
) -> None:
    parted = part_data(world_files, tmp_path / "data", share=0.1, seed=0)
    assert parted.new.height == 4 and len(parted.asked["new items"]) + len(parted.asked["others"]) == 150
    kept = pl.read_parquet(tmp_path / "data" / "interactions.parquet")
    assert set(kept["item_id"]).isdisjoint(parted.new["item_id"].to_list())
    recipe = judged_recipe(replace(reranked, train=replace(reranked.train, steps=60)), (0, 1))
    directory = run_recipe(recipe, data=tmp_path / "data", out=tmp_path / "run", say=lambda _: None)
    result = measure(directory, parted, seeds=(0, 1))
    for line in result["per_seed"]:
        assert (line["items_before"], line["items_added"]) == (32, 4)
        assert line["codes_that_two_items_share"] == line["known_items_whose_code_changed"] == 0
        assert min(line["seconds"].values()) >= 0
    found = {(row["row"], row["when"], row["asked for"]): row["recall@10"] for row in result["rows"]}
    assert {row for row, _, _ in found} == {"tiny", "tiny:rescored", "tiny:items"}
    for row in ("tiny", "tiny:rescored", "tiny:items"):
        assert found[row, "before", "new items"] == 0 < found[row, "after", "new items"]
    grown = grow(directory, parted.new, seed=1)
    assert grown.after.num_live == 36 and grown.before.num_live == 32
    for row, value, problem in (
        (33, grown.after.codes.matrix[0], "codes_that_two_items_share is 1 after 4 items"),
        (5, np.array([7, 7, 15], np.int32), "known_items_whose_code_changed is 1 after"),
    ):
        matrix = grown.after.codes.matrix.copy()
        assert matrix[5].tolist() != [7, 7, 15]
        matrix[row] = value
        wrong = replace(grown.after, codes=replace(grown.after.codes, matrix=matrix))
        with pytest.raises(LimitError, match=problem):
            check(replace(grown, after=wrong))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_that_takes_nothing_or_all_is_refused(world_files: Path, tmp_path: Path, share: float) -> None:
    with pytest.raises(DataError, match="of 36 items"):
        part_data(world_files, tmp_path, share=share, seed=0)
