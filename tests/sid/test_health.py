"""The long report: planted trees are recognised, random codes are not praised, and what cannot be measured says why."""

import json
from typing import Any

import numpy as np
import polars as pl
import pytest
from planted_tree import tree

from sememe.core.errors import DataError
from sememe.core.schema import Catalog, Codes, FloatArray, Int32Array, Interactions
from sememe.sid.collisions import CollisionToken, KeepTied
from sememe.sid.controls import RandomCodes, RandomPlanes
from sememe.sid.health import Absent, CodesHealth, SecondFit, category_labels, codes_health
from sememe.sid.report import prefix_groups, relative_error, sid_report
from sememe.sid.rqkmeans import ResidualKMeans

NO_SECOND = Absent("none was made")
VECTORS, PATHS = tree(seed=0)


def events(rows: list[list[int]], *, items: int) -> Interactions:
    """One user per row."""
    lengths = [len(row) for row in rows]
    return Interactions(
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=np.array([item for row in rows for item in row], np.int32),
        user_ids=pl.Series(range(len(rows))),
        item_ids=pl.Series(range(items)),
    )


def users_of_branches(paths: Int32Array, *, per_branch: int = 20) -> Interactions:
    """Users who stay within one branch of the first level, 8 items each."""
    rng = np.random.default_rng(1)
    rows = []
    for branch in np.unique(paths[:, 0]):
        members = np.flatnonzero(paths[:, 0] == branch)
        rows += [rng.choice(members, 8, replace=False).tolist() for _ in range(per_branch)]
    return events(rows, items=len(paths))


def catalog_of(paths: Int32Array) -> Catalog:
    """Items whose category is the first step of their path, "branch 2" for instance."""
    return Catalog(pl.DataFrame({"item_id": range(len(paths)), "categories": [f"branch {path[0]}" for path in paths]}))


def judge(codes: Codes, vectors: FloatArray = VECTORS, **changed: Any) -> CodesHealth:
    known: dict[str, Any] = {
        "report": changed.pop("report", None) or sid_report(codes, vectors, reconstruction=vectors),
        "fitted": None,
        "catalog": catalog_of(PATHS),
        "train": users_of_branches(PATHS),
        "second": NO_SECOND,
    }
    return codes_health(codes, vectors, **{**known, **changed})


def fitted_tree() -> tuple[Codes, Any]:
    fitted = ResidualKMeans(levels=3, codebook_size=4).fit(VECTORS, seed=0)
    return CollisionToken(size=16).resolve(fitted.encode(VECTORS), fitted.codebook_sizes), fitted


def test_codes_that_follow_a_planted_tree_are_found_healthy() -> None:
    codes, fitted = fitted_tree()
    report = sid_report(codes, VECTORS, reconstruction=fitted.reconstruct(codes.matrix[:, :3]))
    second = SecondFit(1, PATHS, (4, 4, 4))
    health = judge(codes, report=report, fitted=fitted, second=second)
    # Four items to a leaf, all tied.
    assert health.group_sizes == ((4, 64),)
    errors = [row.error for row in health.reconstruction]
    assert [row.depth for row in health.reconstruction] == [1, 2, 3]
    assert 1 > errors[0] > errors[1] > errors[2] < 0.01
    assert not isinstance(health.neighbours, Absent)
    assert [row.depth for row in health.neighbours.rows] == [1, 2, 3]
    # An item's 3 nearest are those of its leaf; the other 7 are of its branch.
    assert [row.share for row in health.neighbours.rows] == pytest.approx([1, 1, 0.3])
    assert not isinstance(health.categories, Absent)
    assert [row.purity for row in health.categories.rows] == [1, 1, 1]
    assert (health.categories.items, health.categories.different, health.categories.whole) == (256, 4, 0.25)
    assert health.categories.rows[0].by_chance < 0.4
    assert not isinstance(health.cooccurrence, Absent)
    none, first, *_ = health.cooccurrence.rows
    # Nobody leaves a branch: pairs without a shared code never occur together, so there is nothing to compare with.
    assert (none.mean, first.lift, health.cooccurrence.users, health.cooccurrence.events) == (0, None, 80, 640)
    assert first.mean is not None and first.mean > 0
    # The planted paths are the same tree under other names.
    assert not isinstance(health.stability, Absent)
    assert [row.agreement for row in health.stability.rows] == [1, 1, 1]
    assert health.notes == ()


def test_random_codes_are_no_better_than_chance() -> None:
    fitted = RandomCodes(levels=2, codebook_size=4).fit(VECTORS, seed=0)
    codes = KeepTied().resolve(fitted.encode(VECTORS), fitted.codebook_sizes)
    rng = np.random.default_rng(2)
    wanderers = events([rng.choice(256, 16, replace=False).tolist() for _ in range(300)], items=256)
    other = RandomCodes(levels=2, codebook_size=4).fit(VECTORS, seed=1)
    second = SecondFit(1, other.encode(VECTORS), other.codebook_sizes)
    health = judge(codes, fitted=fitted, train=wanderers, second=second)
    assert not isinstance(health.neighbours, Absent) and not isinstance(health.categories, Absent)
    assert not isinstance(health.cooccurrence, Absent) and not isinstance(health.stability, Absent)
    assert health.neighbours.rows[0].share == pytest.approx(health.neighbours.rows[0].by_chance, abs=0.05)
    assert health.categories.rows[0].purity == pytest.approx(health.categories.rows[0].by_chance, abs=0.06)
    assert health.cooccurrence.rows[1].lift == pytest.approx(1, abs=0.05)
    assert health.stability.rows[0].agreement == pytest.approx(0, abs=0.02)


def test_errors_by_number_of_codes_are_those_of_the_tokenizer() -> None:
    codes, fitted = fitted_tree()
    report = sid_report(codes, VECTORS, reconstruction=fitted.reconstruct(codes.matrix[:, :3]))
    health = judge(codes, report=report, fitted=fitted)
    by_hand = [relative_error(VECTORS, fitted.reconstruct(codes.matrix[:, :depth])) for depth in (1, 2, 3)]
    assert [row.error for row in health.reconstruction] == pytest.approx(by_hand)


def test_a_tokenizer_that_cannot_rebuild_from_fewer_codes_gives_the_last_error_and_a_note() -> None:
    fitted = RandomPlanes(levels=2, bits=2).fit(VECTORS, seed=0)
    codes = KeepTied().resolve(fitted.encode(VECTORS), fitted.codebook_sizes)
    for tokenizer in (fitted, None):
        health = judge(codes, fitted=tokenizer)
        assert [(row.depth, row.error) for row in health.reconstruction] == [(2, 0)]
        assert "first codes alone" in health.notes[0]


def test_absent_measures_say_why() -> None:
    codes, _ = fitted_tree()
    bare = Catalog(pl.DataFrame({"item_id": range(256)}))
    alike = Catalog(pl.DataFrame({"item_id": range(256), "categories": ["books"] * 255 + [None]}))
    blank = Catalog(pl.DataFrame({"item_id": range(256), "categories": [" ", None] * 128}))
    for catalog, why in (
        (bare, "the catalogue has no column of categories"),
        (alike, "all items with a category have the same one"),
        (blank, "no item has a category"),
    ):
        assert judge(codes, catalog=catalog).categories == Absent(why)
    for rows in ([], [[3], [4, 4]]):
        found = judge(codes, train=events(rows, items=256)).cooccurrence
        assert found == Absent("no user has two different items in the training part")
    assert judge(codes).stability == NO_SECOND
    empty = np.zeros_like(VECTORS)
    assert isinstance(judge(codes, empty, report=sid_report(codes, VECTORS)).neighbours, Absent)


def test_one_item_has_a_report() -> None:
    one = np.ones((1, 4), np.float32)
    codes = KeepTied().resolve(np.zeros((1, 1), np.int32), (2,))
    health = judge(
        codes,
        one,
        catalog=Catalog(pl.DataFrame({"item_id": ["a"]})),
        train=events([[0]], items=1),
        second=SecondFit(1, np.zeros((1, 1), np.int32), (2,)),
    )
    assert health.group_sizes == ((1, 1),)
    absent = (health.neighbours, health.categories, health.cooccurrence, health.stability)
    assert all(isinstance(measure, Absent) for measure in absent)


def test_vectors_that_are_no_numbers_and_empty_catalogues_are_refused() -> None:
    codes, _ = fitted_tree()
    broken = VECTORS.copy()
    broken[3, 1] = np.nan
    with pytest.raises(DataError, match="1 of 256 item vectors hold NaN or infinity, first at item index 3"):
        judge(codes, broken, report=sid_report(codes, VECTORS))
    with pytest.raises(DataError, match="item vectors hold NaN"):
        sid_report(codes, broken)
    nothing = KeepTied().resolve(np.empty((0, 2), np.int32), (4, 4))
    with pytest.raises(DataError, match=r"item vectors have shape \(0, 16\)"):
        sid_report(nothing, VECTORS[:0])


def test_large_catalogues_look_for_neighbours_in_a_sample_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    codes, _ = fitted_tree()
    monkeypatch.setattr("sememe.sid.health.POOL", 100)
    health = judge(codes)
    assert not isinstance(health.neighbours, Absent)
    assert (health.neighbours.items, health.neighbours.queries) == (100, 100)
    assert health.neighbours.rows[0].share > 2 * health.neighbours.rows[0].by_chance
    assert any("a random sample of 100 of the 256 items" in note for note in health.notes)
    assert judge(codes) == health


def test_category_labels_are_equal_where_categories_are_written_the_same() -> None:
    texts = pl.Series(["b", " a ", "a", "", None, "b"])
    assert category_labels(texts).tolist() == [1, 0, 0, -1, -1, 1]
    lists = pl.Series([["x", "y"], ["x"], [], None, ["x", None, "y"], ["y", "x"]], dtype=pl.List(pl.String))
    assert category_labels(lists).tolist() == [1, 0, -1, -1, 1, 2]
    assert category_labels(pl.Series([7, 7, 3])).tolist() == [1, 1, 0]


def test_the_collision_level_is_no_part_of_any_prefix() -> None:
    codes, _ = fitted_tree()
    assert codes.num_levels == 4
    assert [len(np.unique(groups)) for groups in prefix_groups(codes)] == [4, 16, 64]


def test_the_report_is_json() -> None:
    codes, fitted = fitted_tree()
    content = json.loads(json.dumps(judge(codes, fitted=fitted, second=SecondFit(1, PATHS, (4, 4, 4))).to_json()))
    assert content["unique_share"] == 0.25
    assert content["colliding_share"] == 1
    assert content["group_sizes"] == [[4, 64]]
    assert content["levels"][0] == {
        "size": 4, "used": 4, "entropy": 2, "perplexity": 4, "distinct_prefixes": 4, "used_share": 1,
        "perplexity_share": 1,
    }  # fmt: skip
    assert [row["depth"] for row in content["neighbours"]["rows"]] == [1, 2, 3]
    assert content["cooccurrence"]["rows"][1]["lift"] is None
    assert content["stability"]["seed"] == 1
    assert json.loads(json.dumps(judge(codes).to_json()))["stability"] == {"absent": "none was made"}
