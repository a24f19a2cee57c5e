"""Drift: no false alarm on items of the same kind, an alarm with its number on others, and nothing judged unfounded."""

import json
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
from planted_line import LINE, on_line
from planted_use import log_of

from sememe.core.errors import ConfigError
from sememe.core.schema import Catalog, FloatArray, Interactions
from sememe.embed.fuse import Fuse, ProvidedVectors
from sememe.sid.balanced import BalancedKMeans
from sememe.sid.catalogue import FreshItems, LiveCatalogue
from sememe.sid.collisions import CollisionToken, KeepTied
from sememe.sid.context import CodeContext
from sememe.sid.drift import DriftLimits, divergence, measure_drift, measure_fresh
from sememe.sid.encode import settle_catalog
from sememe.sid.reassign import ReassignLast
from sememe.sid.rqkmeans import ResidualKMeans

PART = ResidualKMeans(levels=2, codebook_size=16, iterations=10)
TOKEN = CollisionToken(size=64)


def topics(rng: np.random.Generator, *, count: int, centers: np.ndarray) -> np.ndarray:
    drawn = centers[rng.integers(len(centers), size=count)] + 0.5 * rng.standard_normal((count, centers.shape[1]))
    return drawn.astype(np.float32)


def world(seed: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """600 items of 20 topics, and the topics."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((20, 8))
    return topics(rng, count=600, centers=centers), centers, rng


def start(vectors: np.ndarray, *, part: Any = PART, rule: Any = TOKEN, fresh: bool = True) -> LiveCatalogue:
    settled = settle_catalog(rule, tokenizer=part.fit(vectors, seed=0), vectors=vectors, seed=0)
    return LiveCatalogue.start(
        settled.codes,
        item_ids=np.arange(len(vectors)),
        tokenizer=settled.tokenizer,
        vectors=vectors,
        fresh=measure_fresh(part, rule, vectors, seed=0) if fresh else None,
    )


def add(catalogue: LiveCatalogue, vectors: np.ndarray) -> LiveCatalogue:
    first = len(catalogue.live)
    return catalogue.add(list(range(first, first + len(vectors))), vectors=vectors)


@pytest.mark.parametrize(
    ("part", "rule"),
    [
        (PART, TOKEN),
        (BalancedKMeans(levels=2, codebook_size=16), TOKEN),
        (ResidualKMeans(levels=2, codebook_size=(16, 128), iterations=10), ReassignLast()),
    ],
)
def test_items_of_the_same_kind_call_for_nothing(part: Any, rule: Any) -> None:
    for seed in range(6):
        vectors, centers, rng = world(seed)
        drift = measure_drift(add(start(vectors, part=part, rule=rule), topics(rng, count=200, centers=centers)))
        assert not drift.refit, drift.render()
        assert drift.verdict == "keep the codes" and drift.notes == ()
        assert drift.error_ratio > 1  # though there is no drift


@dataclass(frozen=True)
class FromLog:
    """Stands for vectors of co-occurrence, which items that come do not have."""

    reads_log: ClassVar[bool] = True

    def embed(self, catalog: Catalog, train: Interactions, *, seed: int) -> FloatArray:
        raise AssertionError("its vectors are given")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_is_usual_is_found_out_on_vectors_as_new_items_have_them(seed: int) -> None:
    """Of the log's part a new item has its neighbours' mean, of which codes lose less than of an item's own."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((20, 16))

    def draw(count: int) -> list[FloatArray]:
        noise = np.repeat([0.3, 1.0], 8) * rng.standard_normal((count, 16))
        return np.split((centers[rng.integers(20, size=count)] + noise).astype(np.float32), 2, axis=1)

    fuse = Fuse(parts=(ProvidedVectors(), FromLog()), neighbors=5)
    known = fuse.join(draw(600))
    drift = measure_drift(add(start(known, fresh=False), fuse.extend(known, (8, 8), [draw(200)[0], 0 * draw(200)[1]])))
    blind = measure_fresh(PART, TOKEN, known, seed=0)
    told = measure_fresh(PART, TOKEN, known, seed=0, as_new=lambda rows: fuse.without_log(known, (8, 8), rows))
    assert drift.error_ratio == pytest.approx(told.error_ratio, rel=0.2)
    assert drift.error_ratio < 0.8 * blind.error_ratio


def test_a_tokenizer_that_reads_the_log_is_fitted_in_what_is_left_of_it() -> None:
    given: list[CodeContext] = []

    class Curious:
        def fit_in(self, vectors: FloatArray, *, context: CodeContext, seed: int) -> Any:
            context.check(vectors)
            given.append(context)
            return PART.fit(vectors, seed=seed)

    vectors, _, rng = world(0)
    log = log_of([rng.permutation(600)[:5].tolist() for _ in range(100)], num_items=600)
    found = measure_fresh(Curious(), TOKEN, vectors, seed=0, context=CodeContext((8,), log))
    assert found == measure_fresh(PART, TOKEN, vectors, seed=0)
    (context,) = given
    ids = context.train.item_ids.to_list()
    assert len(ids) == 540
    left = [item for item in log.items.tolist() if item in ids]
    assert [ids[item] for item in context.train.items] == left and 0 < len(left) < len(log.items)
    with pytest.raises(ConfigError, match="Curious is fitted on the parts of the vectors and the log too") as caught:
        measure_fresh(Curious(), TOKEN, vectors, seed=0)
    assert "context=CodeContext" in caught.value.fix


def test_items_that_the_codes_do_not_describe_call_for_a_new_fit() -> None:
    vectors, _, rng = world(0)
    strange = topics(rng, count=200, centers=1.5 * rng.standard_normal((20, 8)))
    drift = measure_drift(add(start(vectors), strange))
    assert drift.refit and drift.error_ratio_low < drift.error_ratio
    assert any(reason.startswith("the error of items since the fit is") for reason in drift.reasons)
    assert drift.fresh is not None
    times = drift.error_ratio / drift.fresh.error_ratio
    assert f"{times:.2f} times what it is without drift" in drift.verdict and times > 1.2
    assert json.loads(json.dumps(drift.to_json()))["refit"] is True


def test_the_error_is_not_judged_where_nobody_knows_what_it_is_without_drift() -> None:
    vectors, _, rng = world(0)
    strange = topics(rng, count=200, centers=1.5 * rng.standard_normal((20, 8)))
    drift = measure_drift(add(start(vectors, fresh=False), strange))
    assert not any("error" in reason for reason in drift.reasons)
    assert len(drift.notes) == 1 and drift.notes[0].startswith("the error is not judged")


def test_errors_by_hand() -> None:
    vectors = on_line(0, 1, 100, 101)
    codes = settle_catalog(KeepTied(), tokenizer=LINE, vectors=vectors, seed=0).codes
    before = LiveCatalogue.start(codes, item_ids=list("abcd"), tokenizer=LINE, vectors=vectors)
    assert before.spread == pytest.approx(50**2 + 0.25)
    # 1 and 101 lie between codes: errors 0, 1, 0, 1; then 6 is 4 away from 2 and from 10.
    drift = measure_drift(before.add(["e", "f"], vectors=on_line(6, 0)))
    assert drift.error_fitted == pytest.approx(0.5 / 2500.25)
    assert drift.error_since == pytest.approx(8 / 2500.25)
    assert drift.error_ratio == pytest.approx(16)
    # 0 and 1 share a code, and so do 100 and 101; of the new ones only the second meets others.
    assert (drift.collision_share, drift.collision_share_fitted) == (0.5, 1)
    assert "2 items came since the fit" in drift.notes[0] and not drift.refit


def test_items_that_stand_where_others_do_call_for_a_new_fit() -> None:
    vectors, _, rng = world(1)
    part = ResidualKMeans(levels=2, codebook_size=64, iterations=10)
    catalogue = start(vectors, part=part)
    drift = measure_drift(add(catalogue, vectors[rng.permutation(600)[:200]]))
    assert drift.collision_share == 1
    assert [reason for reason in drift.reasons if reason.startswith("100.0% of the items since the fit have a tuple")]


def test_new_items_of_a_few_topics_use_codes_otherwise() -> None:
    vectors, centers, rng = world(2)
    drift = measure_drift(add(start(vectors), topics(rng, count=200, centers=centers[:2])))
    first = drift.levels[0]
    assert first.divergence > first.noise and first.excess > 0.25
    assert drift.fresh is not None
    beyond = first.excess - drift.fresh.divergences[0]
    assert f"the codes of level 1 are used otherwise than in the fit, by {beyond:.2f} bits" in drift.verdict


def test_divergence_by_hand() -> None:
    left = np.array([[1, 1, 0], [5, 5, 0], [1, 0, 0], [2, 2, 4]])
    right = np.array([[2, 0, 0], [1, 1, 0], [0, 0, 7], [1, 1, 2]])
    np.testing.assert_allclose(divergence(left, right), [0.311278, 0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(divergence(right, left), divergence(left, right), atol=1e-12)


def test_the_noise_is_what_chance_alone_gives() -> None:
    """Of samples of one distribution, about one in a hundred is beyond the noise, and none by the limit."""
    rng = np.random.default_rng(0)
    vectors = on_line(*rng.choice([0, 2, 10, 40, 100, 102, 110, 140], size=400))
    codes = settle_catalog(KeepTied(), tokenizer=LINE, vectors=vectors, seed=0).codes
    before = LiveCatalogue.start(codes, item_ids=np.arange(400), tokenizer=LINE, vectors=vectors)
    beyond = []
    for seed in range(60):
        drawn = on_line(*np.random.default_rng(seed + 1).choice([0, 2, 10, 40, 100, 102, 110, 140], size=100))
        drift = measure_drift(add(before, drawn), seed=seed)
        beyond += [level.divergence > level.noise for level in drift.levels]
        assert all(level.excess < 0.1 for level in drift.levels)
    assert np.mean(beyond) < 0.06


def test_a_tuple_that_is_nearly_full_calls_for_a_new_fit() -> None:
    vectors = on_line(0, 100)
    codes = settle_catalog(CollisionToken(size=4), tokenizer=LINE, vectors=vectors, seed=0).codes
    catalogue = LiveCatalogue.start(codes, item_ids=["a", "b"], tokenizer=LINE, vectors=vectors)
    assert measure_drift(catalogue).fullness == 0.25
    full = catalogue.add(["c", "d", "e"], vectors=on_line(0, 0, 0)).remove(["c"])  # a retired number is taken, too
    drift = measure_drift(full)
    assert drift.reasons == ("the fullest tuple has 100% of its numbers taken (limit 90%)",)
    assert measure_drift(full.release()).reasons == ()


def test_before_anything_came_there_is_nothing_to_say() -> None:
    vectors, _, _ = world(0)
    drift = measure_drift(start(vectors, fresh=False))
    assert not drift.refit and drift.levels == () and np.isnan(drift.error_ratio)
    assert drift.notes[0].startswith("0 items came since the fit")
    assert drift.to_json()["error_ratio"] is None
    assert drift.render().splitlines()[0] == "keep the codes"


def test_numbers_that_json_does_not_have_are_none() -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    vectors = on_line(0, 0, 0)  # met exactly and without spread: any error at all is infinitely more
    codes = settle_catalog(CollisionToken(size=8), tokenizer=LINE, vectors=vectors, seed=0).codes
    before = LiveCatalogue.start(codes, item_ids=list("abc"), tokenizer=LINE, vectors=vectors)
    usual = FreshItems(error_ratio=float("inf"), collision_share=None, divergences=(0.0, 0.0))
    drift = measure_drift(replace(before.add(["d"], vectors=on_line(5)), fresh=usual))
    assert np.isinf(drift.error_ratio)
    read = json.loads(json.dumps(drift.to_json()), parse_constant=refuse)
    assert read["error_ratio"] is None and read["error_ratio_low"] is None and read["fresh"]["error_ratio"] is None
    assert read["error_since"] == drift.error_since


def test_where_everything_was_updated_the_fit_is_gone() -> None:
    vectors, _, _ = world(0)
    catalogue = start(vectors, fresh=False)
    drift = measure_drift(catalogue.update(list(range(600)), vectors=vectors))
    assert drift.verdict == "fit again: no item has the code of the fit any more"


def test_removed_items_stay_part_of_what_was_fitted() -> None:
    vectors, centers, rng = world(3)
    grown = add(start(vectors, fresh=False), topics(rng, count=100, centers=centers))
    fewer = grown.remove(list(range(300)))
    assert measure_drift(fewer).levels == measure_drift(grown).levels
    assert measure_drift(fewer).items_fitted == 600


@pytest.mark.parametrize("name", ["error", "collisions", "divergence", "fullness", "least_items"])
def test_limits_that_cannot_be_are_refused(name: str) -> None:
    vectors, _, _ = world(0)
    with pytest.raises(ConfigError, match=f"DriftLimits got {name}=0"):
        measure_drift(start(vectors, fresh=False), limits=DriftLimits(**{name: 0}))
    with pytest.raises(ConfigError, match="leaves out 0 of 600 items"):
        measure_fresh(PART, TOKEN, vectors, seed=0, share=0.0)
