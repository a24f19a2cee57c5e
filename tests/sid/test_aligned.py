"""PLUM's tokenizer: its losses by hand, what each novelty does on planted data, and what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted_use import log_of, paired_clusters, relabelled

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import FloatArray, Interactions
from sememe.data.splits import LeaveOneOut
from sememe.sid.aligned import AlignedRqVae, FittedAligned, prefix_sums
from sememe.sid.codebook_training import CodebookTraining
from sememe.sid.context import CodeContext
from sememe.sid.kmeans import distinct_rows
from sememe.sid.report import relative_error
from sememe.sid.rqvae import RqVae

TRAINING = CodebookTraining(epochs=4, warmup_epochs=2, batch_size=64)
SMALL = AlignedRqVae(
    levels=2, codebook_size=16, hidden=(16,), latent=4, cooccurrence=1.0, temperature=1.0, training=TRAINING
)
PLAIN = replace(SMALL, multi_resolution=False, encoder_per_source=False, progressive=False, cooccurrence=0.0)


def cloud(rows: int, dim: int = 6) -> FloatArray:
    return np.random.default_rng(0).standard_normal((rows, dim)).astype(np.float32)


def walks(items: int) -> Interactions:
    """Users who take a few neighbouring items each."""
    rng = np.random.default_rng(1)
    starts = rng.integers(0, items, 80)
    return log_of([[(int(start) + step) % items for step in range(4)] for start in starts], num_items=items)


def fit(part: AlignedRqVae, vectors: FloatArray, *, train: Interactions, seed: int = 0) -> FittedAligned:
    half = vectors.shape[1] // 2
    return part.fit_in(vectors, context=CodeContext((half, vectors.shape[1] - half), train), seed=seed)


def test_prefix_sums_by_hand() -> None:
    chosen = torch.tensor([[[1.0], [1.0], [1.0]], [[10.0], [10.0], [10.0]], [[100.0], [100.0], [100.0]]])
    assert prefix_sums(chosen, torch.tensor([1, 3, 2])).ravel().tolist() == [1, 111, 11]


@pytest.mark.parametrize(
    ("items", "part", "sizes"),
    [
        (12_101, AlignedRqVae(), (2048, 1024, 512)),
        (3_706, AlignedRqVae(), (512, 256, 128)),
        (10**7, AlignedRqVae(levels=5), (2048, 1024, 512, 256, 128)),
        (20, AlignedRqVae(), (8, 4, 2)),
        (3_706, AlignedRqVae(multi_resolution=False), (512, 512, 512)),
        (50, AlignedRqVae(codebook_size=24, levels=2), (24, 12)),
    ],
)
def test_codebooks_halve_and_go_by_the_catalogue(items: int, part: AlignedRqVae, sizes: tuple[int, ...]) -> None:
    assert part.sizes(items) == sizes


def test_with_every_novelty_off_it_is_the_plain_rqvae() -> None:
    vectors = cloud(120)
    ours = fit(PLAIN, vectors, train=walks(120), seed=3)
    plain = RqVae(levels=2, codebook_size=16, hidden=(16,), latent=4, epochs=4, warmup_epochs=2, batch_size=64)
    theirs = plain.fit(vectors, seed=3)
    codes = theirs.encode(vectors)
    np.testing.assert_array_equal(ours.encode(vectors), codes)
    np.testing.assert_array_equal(ours.reconstruct(codes), theirs.reconstruct(codes))


def test_codebooks_of_halving_sizes_are_used_to_their_size() -> None:
    vectors, train = cloud(120), walks(120)
    even, halving = (
        fit(replace(PLAIN, multi_resolution=on), vectors, train=train).encode(vectors) for on in (False, True)
    )
    assert even.max(axis=0).tolist() == [15, 15] and halving.max(axis=0).tolist() == [15, 7]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_wide_source_does_not_drown_a_narrow_one_that_has_its_own_encoder(seed: int) -> None:
    """Of 36 unrelated numbers 3 are a source: a twelfth of the error, or half of it where sources count alike."""
    vectors = np.random.default_rng(seed).standard_normal((240, 36)).astype(np.float32)
    training = CodebookTraining(epochs=15, warmup_epochs=5, batch_size=64, learning_rate=1e-2)
    lost = []
    for on in (False, True):
        part = replace(PLAIN, encoder_per_source=on, training=training)
        fitted = part.fit_in(vectors, context=CodeContext((3, 33), log_of([], num_items=240)), seed=seed)
        rebuilt = fitted.reconstruct(fitted.encode(vectors))
        lost.append(relative_error(vectors[:, :3], rebuilt[:, :3]))
    assert lost[1] < 0.6 * lost[0]


def test_masking_makes_prefixes_stand_for_more() -> None:
    rng = np.random.default_rng(1)
    vectors = (rng.standard_normal((1200, 4)) @ rng.standard_normal((4, 16))).astype(np.float32)
    known, held_out = vectors[:600], vectors[600:]
    training = CodebookTraining(epochs=20, warmup_epochs=5, batch_size=64, learning_rate=1e-2)
    part = AlignedRqVae(
        codebook_size=16, multi_resolution=False, hidden=(32,), latent=8, cooccurrence=0.0, training=training
    )
    errors = []
    for progressive in (False, True):
        fitted = fit(replace(part, progressive=progressive), known, train=log_of([], num_items=600))
        codes = fitted.encode(held_out)
        errors.append([relative_error(held_out, fitted.reconstruct(codes[:, :depth])) for depth in (1, 2, 3)])
    without, masked = errors
    assert masked[0] > masked[1] > masked[2]
    assert masked[0] < 0.98 * without[0]


def test_items_used_together_share_codes_though_their_content_differs() -> None:
    vectors, cluster, train = paired_clusters(0)
    training = CodebookTraining(epochs=15, warmup_epochs=10, batch_size=64, learning_rate=1e-2)
    part = AlignedRqVae(
        levels=4, codebook_size=4, multi_resolution=False, hidden=(32,), latent=8, training=training, temperature=2.0
    )
    shares = []
    for weight in (0.0, 0.3):
        first = fit(replace(part, cooccurrence=weight), vectors, train=train).encode(vectors)[:, 0]
        of = [first[cluster == number] for number in range(8)]
        shares.append(np.mean([np.equal.outer(of[pair], of[pair + 1]).mean() for pair in range(0, 8, 2)]))
    assert shares[0] < 0.5 and shares[1] > 0.9


def test_where_all_items_are_used_together_there_is_nothing_to_learn_from_the_log() -> None:
    """True positives are no negatives: with none left, the contrast is 0 and moves nothing."""
    vectors, everybody = cloud(60), log_of([list(range(60))], num_items=60)
    part = replace(SMALL, window=60)
    with_log, without = (
        fit(replace(part, cooccurrence=weight), vectors, train=everybody).encode(vectors) for weight in (1.0, 0.0)
    )
    assert np.mean(with_log == without) > 0.95
    chain = log_of([[item, item + 1] for item in range(59)], num_items=60)
    assert np.mean(fit(part, vectors, train=chain).encode(vectors) == without) < 0.7


def test_pairs_come_from_the_training_part_alone() -> None:
    vectors = cloud(60)
    rng = np.random.default_rng(0)
    whole = log_of([rng.permutation(60)[:8].tolist() for _ in range(40)], num_items=60)
    train = LeaveOneOut().split(whole).train()
    assert train.num_events < whole.num_events
    # The last events of every user are others: nothing that training sees has changed.
    items = whole.items.copy()
    items[whole.offsets[1:] - 1] = (items[whole.offsets[1:] - 1] + 7) % 60
    other = LeaveOneOut().split(replace(whole, items=items)).train()
    fitted, again = (fit(SMALL, vectors, train=log) for log in (train, other))
    for name, array in fitted.state().items():
        np.testing.assert_array_equal(again.state()[name], array)
    pairs = SMALL._together(CodeContext((6,), train), distinct_rows(vectors)).pairs
    seen = {frozenset((a, b)) for user in range(40) for a in train.history(user) for b in train.history(user)}
    rows = np.argsort(distinct_rows(vectors).inverse)
    assert {frozenset(rows[pair].tolist()) for pair in pairs.T} <= {frozenset(map(int, pair)) for pair in seen}


def test_order_global_seed_and_state_change_nothing() -> None:
    vectors, train = cloud(120), walks(120)
    vectors[7] = vectors[80]
    order = np.random.default_rng(1).permutation(120)
    fitted = fit(SMALL, vectors, train=train, seed=3)
    codes = fitted.encode(vectors)
    assert np.array_equal(codes[7], codes[80]) and fitted.codebook_sizes == (16, 8)
    torch.manual_seed(99)
    permuted = fit(SMALL, vectors[order], train=relabelled(train, order), seed=3)
    np.testing.assert_array_equal(permuted.encode(vectors[order]), codes[order])
    restored = FittedAligned.from_state(fitted.state())
    np.testing.assert_array_equal(restored.encode(vectors), codes)
    np.testing.assert_array_equal(restored.reconstruct(codes[:, :1]), fitted.reconstruct(codes[:, :1]))
    assert restored.codebook_sizes == (16, 8)
    assert not np.array_equal(fit(SMALL, vectors, train=train, seed=4).encode(vectors), codes)


def test_a_log_without_pairs_is_refused_unless_nothing_is_contrasted() -> None:
    vectors, alone = cloud(60), log_of([[item] for item in range(60)], num_items=60)
    with pytest.raises(DataError, match="no two different items of the training log are used together"):
        fit(SMALL, vectors, train=alone)
    assert fit(replace(SMALL, cooccurrence=0.0), vectors, train=alone).encode(vectors).shape == (60, 2)


@pytest.mark.parametrize(
    ("part", "items", "words"),
    [
        (replace(SMALL, codebook_size=64), 60, r"codebooks of \(64, 32\) codes are larger than the catalogue of 60"),
        (AlignedRqVae(), 5, r"codebooks of \(8, 4, 2\) codes are larger than the catalogue of 5"),
        (
            replace(SMALL, codebook_size=8),
            60,
            r"codebooks of \(8, 4\) codes name 32 items at most, and 60 of the items",
        ),
        (replace(SMALL, codebook_size=2), 60, "tell no items apart"),
        (replace(SMALL, levels=0), 60, "levels=0"),
        (replace(SMALL, latent=0), 60, "latent=0"),
        (replace(SMALL, window=0), 60, "window=0"),
        (replace(SMALL, cooccurrence=-1.0), 60, "cooccurrence=-1.0"),
        (replace(SMALL, temperature=0.0), 60, "temperature=0.0"),
        (replace(SMALL, training=CodebookTraining(epochs=0)), 60, "training got epochs=0"),
    ],
)
def test_settings_that_cannot_be_are_refused(part: AlignedRqVae, items: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        fit(part, cloud(items), train=walks(items))


def test_vectors_that_cannot_be_are_refused() -> None:
    vectors, train = cloud(60), walks(60)
    broken = vectors.copy()
    broken[3, 2] = np.nan
    for wrong, widths, words in (
        (broken, (3, 3), "first at item index 3"),
        (vectors, (3, 4), r"item vectors are 6 wide, and their parts \(3, 4\)"),
        (vectors[:50], (3, 3), "there are 50 item vectors, and the log knows 60 items"),
        (vectors[:0], (3, 3), r"item vectors have shape \(0, 6\)"),
    ):
        with pytest.raises(DataError, match=words):
            SMALL.fit_in(wrong, context=CodeContext(widths, train), seed=0)
