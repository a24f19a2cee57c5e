"""The report on semantic IDs: hand-worked numbers, and warnings where the codes are bad."""

import json

import numpy as np
import pytest

from sememe.core.schema import Codes, FloatArray
from sememe.sid.collisions import CollisionToken, KeepTied
from sememe.sid.report import SidReport, nearest_by_cosine, neighbour_shares, relative_error, sid_report
from sememe.sid.rqkmeans import ResidualKMeans

AXES = np.array([[1, 0], [2, 0], [0, 1], [0, 2]], np.float32)


def tied(rows: list[list[int]], sizes: tuple[int, ...]) -> Codes:
    return KeepTied().resolve(np.array(rows, np.int32), sizes)


def test_counts_and_level_use_by_hand() -> None:
    codes = CollisionToken(size=8).resolve(np.array([[0, 0], [0, 0], [1, 1], [1, 0]], np.int32), (4, 2))
    report = sid_report(codes, AXES)
    assert (report.items, report.distinct_contents, report.items_without_content) == (4, 4, 0)
    assert (report.distinct_tuples, report.unique_share) == (3, 0.75)
    assert (report.colliding_items, report.largest_group) == (2, 2)
    first, second = report.levels
    # Level 1: codes 0 and 1 twice each: one bit.  Level 2: three zeros and a one.
    assert (first.size, first.used, first.entropy, first.perplexity, first.distinct_prefixes) == (4, 2, 1.0, 2.0, 2)
    assert (second.size, second.used, second.distinct_prefixes) == (2, 2, 3)
    bits = -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25))
    assert second.entropy == pytest.approx(bits)
    assert second.perplexity == pytest.approx(2**bits)
    assert report.reconstruction_error is None


def test_relative_error_by_hand() -> None:
    vectors = np.array([[0.0], [2.0], [4.0]], np.float32)
    # The mean is 2, the spread 4 + 0 + 4.
    assert relative_error(vectors, np.array([[1.0], [2.0], [4.0]], np.float32)) == pytest.approx(1 / 8)
    assert relative_error(vectors, np.full((3, 1), 2.0, np.float32)) == pytest.approx(1)
    assert relative_error(vectors[:1], vectors[:1]) == 0
    codes = tied([[0], [1], [2]], (3,))
    assert sid_report(codes, vectors, reconstruction=vectors).reconstruction_error == 0


def test_equal_vectors_have_no_variance_to_lose() -> None:
    # The mean of 49 times 0.3 is not 0.3 to the last digit.
    same = np.full((49, 3), 0.3, np.float32)
    assert relative_error(same, same) == 0
    assert relative_error(same, same + np.float32(1e-8)) == 0
    assert relative_error(same, same + 1) == 1


def test_the_error_of_many_vectors_is_added_up_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors, rebuilt = rng.standard_normal((2, 50, 4)).astype(np.float32)
    whole = relative_error(vectors, rebuilt)
    monkeypatch.setattr("sememe.sid.report.BLOCK_ROWS", 7)
    assert relative_error(vectors, rebuilt) == pytest.approx(whole)


def test_neighbour_shares_by_hand() -> None:
    # 12 items in two directions of 6; with 10 neighbours each item has 5 near ones and 5 of the other direction.
    vectors = np.array([[1, 0]] * 6 + [[0, 1]] * 6, np.float32)
    groups = np.array([0] * 6 + [1] * 6)
    (near,) = neighbour_shares(vectors, [groups])
    assert near.share == pytest.approx(0.5)
    assert near.by_chance == pytest.approx(5 / 11)
    assert near.ceiling == pytest.approx(0.5)
    (all_alone,) = neighbour_shares(vectors, [np.arange(12)])
    assert (all_alone.share, all_alone.by_chance, all_alone.ceiling) == (0, 0, 0)


def test_nearest_by_cosine_equals_the_slow_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).standard_normal((40, 5)).astype(np.float32)
    monkeypatch.setattr("sememe.sid.report.BLOCK_CELLS", 100)
    found = nearest_by_cosine(vectors, np.array([3, 0, 39]), count=4)
    for query, row in zip((3, 0, 39), found, strict=True):
        cosine = [float(v @ vectors[query] / np.linalg.norm(v) / np.linalg.norm(vectors[query])) for v in vectors]
        others = sorted((i for i in range(40) if i != query), key=lambda i: -cosine[i])
        assert set(row.tolist()) == set(others[:4])


def test_items_without_content_are_counted_and_not_neighbours() -> None:
    vectors = np.zeros((50, 2), np.float32)
    vectors[:4] = AXES
    report = sid_report(tied([[0]] * 2 + [[1]] * 48, (2,)), vectors)
    assert report.items_without_content == 46
    assert "46 of 50 items have no content" in " ".join(report.warnings)
    assert sid_report(tied([[0], [0]], (2,)), np.zeros((2, 2), np.float32)).neighbours == ()


def clustered(items: int, *, seed: int = 0) -> FloatArray:
    rng = np.random.default_rng(seed)
    middles = rng.standard_normal((40, 16))
    return (middles[rng.integers(0, 40, items)] + 0.4 * rng.standard_normal((items, 16))).astype(np.float32)


def report_of(vectors: FloatArray) -> tuple[str, ...]:
    fitted = ResidualKMeans(levels=3, codebook_size=32).fit(vectors, seed=0)
    return sid_report(KeepTied().resolve(fitted.encode(vectors), fitted.codebook_sizes), vectors).warnings


def test_healthy_codes_give_no_warning() -> None:
    assert report_of(clustered(600)) == ()


def test_content_from_genres_alone_is_called_too_coarse() -> None:
    rng = np.random.default_rng(0)
    genres = (rng.random((60, 18)) < 0.15).astype(np.float32)
    vectors = genres[rng.integers(0, 60, 600)]
    assert any("the content signal is too coarse: 600 items have only" in warning for warning in report_of(vectors))


def test_too_few_codes_are_called_too_coarse() -> None:
    vectors = clustered(600)
    fitted = ResidualKMeans(levels=2, codebook_size=4).fit(vectors, seed=0)
    codes = KeepTied().resolve(fitted.encode(vectors), fitted.codebook_sizes)
    assert any(warning.startswith("the codes are too coarse: ") for warning in sid_report(codes, vectors).warnings)


def test_collapsed_and_random_codes_are_called_out() -> None:
    vectors = clustered(600)
    rng = np.random.default_rng(1)
    collapsed = np.stack([np.where(rng.random(600) < 0.98, 0, rng.integers(0, 32, 600)), np.arange(600)], axis=1)
    warnings = sid_report(tied(collapsed.tolist(), (32, 600)), vectors).warnings
    assert any(warning.startswith("level 1 hardly uses its codes") for warning in warnings)
    by_chance = tied(rng.integers(0, 32, (600, 3)).tolist(), (32, 32, 32))
    assert any(w.startswith("similar items do not share codes") for w in sid_report(by_chance, vectors).warnings)


def test_report_is_json_and_text() -> None:
    report = sid_report(tied([[0, 0], [0, 0], [1, 1], [1, 0]], (4, 2)), AXES, reconstruction=AXES)
    content = json.loads(json.dumps(report.to_json()))
    assert content["levels"][0]["perplexity"] == 2.0
    assert SidReport.from_json(content) == report
    text = report.render()
    assert "distinct tuples  3 (75.0% of items), 2 items share theirs, largest group 2" in text
    assert "level 1          2 of 4 codes used, perplexity 2.0, entropy 1.00 bits, 2 prefixes" in text
    assert "reconstruction   0.000 of the variance is lost" in text
