"""Ranked candidates as a search would give them: best first, ties among them, some rows shorter than others."""

import numpy as np

from sememe.core.schema import PAD, Ranked


def random_ranked(rows: int, candidates: int, *, items: int, seed: int) -> Ranked:
    """Distinct items per row, scores below 0 of few values, ragged ends."""
    rng = np.random.default_rng(seed)
    listed = np.stack([rng.permutation(items)[:candidates] for _ in range(rows)]).astype(np.int32)
    scores = -np.sort(rng.integers(1, 7, size=(rows, candidates)), axis=1).astype(np.float32) / 2
    missing = np.arange(candidates) >= rng.integers(0, candidates + 1, size=(rows, 1))
    return Ranked(
        items=np.where(missing, PAD, listed).astype(np.int32),
        scores=np.where(missing, -np.inf, scores).astype(np.float32),
        source="beam:code_log_prob",
        tied_beyond=np.zeros(rows, np.int64),
        eligible=rng.integers(0, 99, size=rows),
    )


def assert_lists_of_candidates(lists: Ranked, candidates: Ranked, *, k: int) -> None:
    """Each row holds k places: candidates of the row, each once, then PAD; scores that never rise."""
    assert lists.items.shape == lists.scores.shape == (len(candidates.items), k)
    assert lists.items.dtype == np.int32 and lists.scores.dtype == np.float32
    for ours, scores, theirs in zip(lists.items, lists.scores, candidates.items, strict=True):
        real = ours[ours != PAD].tolist()
        assert ours.tolist() == real + [PAD] * (k - len(real))
        assert len(set(real)) == len(real) and set(real) <= set(theirs.tolist())
        assert ((scores == -np.inf) == (ours == PAD)).all()
        assert (scores[1 : len(real)] <= scores[: max(0, len(real) - 1)]).all()
    assert candidates.eligible is not None and lists.eligible is not None
    assert lists.eligible.tolist() == candidates.eligible.tolist() and lists.tied_beyond is None
