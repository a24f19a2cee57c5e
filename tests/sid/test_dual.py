"""GenSAR's dual IDs: what both share, what ends in which suffix, and that one branch alone is the plain quantiser."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted_use import log_of

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import Codes, FloatArray, Int32Array, Int64Array
from sememe.decode.trie import Trie
from sememe.nn.quantize import straight_through
from sememe.sid.codebook_training import CodebookTraining
from sememe.sid.collisions import CollisionToken, KeepTied, tuple_groups
from sememe.sid.context import CodeContext
from sememe.sid.dual import DualRqVae, FittedBranch, FittedDual, dual_codes
from sememe.sid.dual_net import DualNet, DualShape
from sememe.sid.extra_level import ExtraLevel
from sememe.sid.fitted import kind_of, load_tokenizer, save_tokenizer
from sememe.sid.reassign import ReassignLast
from sememe.sid.rqvae import RqVae

TRAINING = CodebookTraining(epochs=6, warmup_epochs=2, batch_size=64)
SMALL = DualRqVae(shared=(8,), semantic=(4, 3), collaborative=(8, 6), hidden=(16,), latent=4, training=TRAINING)


def cloud(rows: int, dim: int = 11, *, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)


def fit(part: DualRqVae, vectors: FloatArray, *widths: int, seed: int = 0) -> FittedDual:
    return part.fit_in(vectors, context=CodeContext(widths, log_of([], num_items=len(vectors))), seed=seed)


def test_the_loss_by_hand() -> None:
    """One number per branch and identity networks: every residual can be followed."""
    net = DualNet(DualShape((1, 1), (), 1, (2,), (2,), (2,)), seed=0)
    for layer in (*net.encoders, *net.decoders):
        torch.nn.init.ones_(layer[0].weight)
    net.shared.place(0, torch.arange(2), torch.tensor([[0.0, 0.0], [4.0, 8.0]]))
    net.semantic.place(0, torch.arange(2), torch.tensor([[1.0], [-1.0]]))
    net.collaborative.place(0, torch.arange(2), torch.tensor([[2.0], [-2.0]]))
    x = torch.tensor([[3.0, 9.0]])
    found = net.quantize(net.encode(x))
    # (3, 9) is nearest to (4, 8) and leaves (-1, 1): -1 to the semantic branch, 1 to the collaborative one.
    assert found.shared.codes.tolist() == [[1]] and [own.codes.tolist() for own in found.own] == [[[1]], [[0]]]
    assert found.total().tolist() == [[3.0, 10.0]]
    # Error 0 + 1; shared |(-1, 1)|^2 = 2, semantic 0, collaborative |1 - 2|^2 = 1; both terms, the second times .25.
    loss = net.loss(x, net.decode(straight_through(net.encode(x), found.total())), found, beta=0.25)
    assert loss.item() == pytest.approx(1 + 1.25 * (2 + 0 + 1))
    torch.autograd.backward(loss)
    # The codebook term of the branch moves its own code, and none of the shared ones.
    assert net.collaborative.vectors.grad is not None and net.collaborative.vectors.grad.ravel().tolist() == [2.0, 0.0]
    assert net.shared.vectors.grad is not None and net.shared.vectors.grad[0, 1].tolist() == [2.0, -2.0]


def test_errors_count_as_if_both_branches_were_equally_wide() -> None:
    net = DualNet(DualShape((4, 2), (), 1, (2,), (2,), (2,)), seed=0)
    x = torch.zeros(1, 6)
    only = [net.error(x, torch.eye(6)[place : place + 1]).item() for place in range(6)]
    assert only == [0.5] * 4 + [1.0] * 2


def test_with_the_semantic_branch_zeroed_it_is_the_plain_quantiser() -> None:
    collaborative = cloud(200, 6)
    vectors = np.concatenate([np.zeros((200, 5), np.float32), collaborative], axis=1)
    ours = fit(SMALL, vectors, 5, 6, seed=3).branch("collaborative")
    plain = RqVae(
        levels=3, codebook_size=(8, 8, 6), hidden=(16,), latent=4, epochs=6, warmup_epochs=2, batch_size=64
    ).fit(collaborative, seed=3)
    codes = plain.encode(collaborative)
    np.testing.assert_array_equal(ours.encode(vectors), codes)
    rebuilt = ours.reconstruct(codes)
    np.testing.assert_allclose(rebuilt[:, 5:], plain.reconstruct(codes), atol=1e-5)
    assert not rebuilt[:, :5].any()


def information(left: Int32Array, right: Int64Array) -> float:
    """Mutual information in nats, from counts."""
    counts = np.zeros((left.max() + 1, right.max() + 1))
    np.add.at(counts, (left, right), 1 / len(left))
    apart = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0, keepdims=True)
    met = counts > 0
    return float((counts[met] * np.log(counts[met] / apart[met])).sum())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_independent_factors_end_in_their_own_suffixes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    said, taken = np.indices((16, 16)).reshape(2, -1).repeat(4, axis=1)
    parts = [rng.standard_normal((16, width))[factor] for width, factor in ((12, said), (10, taken))]
    vectors = (np.concatenate(parts, axis=1) + 0.05 * rng.standard_normal((1024, 22))).astype(np.float32)
    training = CodebookTraining(epochs=25, warmup_epochs=10, batch_size=128, learning_rate=5e-3)
    part = DualRqVae(shared=(4,), semantic=(16,), collaborative=(16,), hidden=(32,), latent=8, training=training)
    codes, most = fit(part, vectors, 12, 10).encode(vectors), np.log(16)
    assert information(codes[:, 1], said) > 0.9 * most > 10 * information(codes[:, 1], taken)
    assert information(codes[:, 2], taken) > 0.9 * most > 10 * information(codes[:, 2], said)


@pytest.mark.parametrize("rule", [CollisionToken(), KeepTied(), ReassignLast(), ExtraLevel(size=8)])
def test_both_ids_begin_alike_and_each_has_a_trie_of_real_items(rule: Any) -> None:
    vectors = cloud(60)
    fitted = fit(replace(SMALL, semantic=(4, 16), collaborative=(8, 16)), vectors, 5, 6)
    both = dual_codes(fitted, vectors, rule=rule, seed=0)
    assert both.shared_levels == 1
    semantic, collaborative = both.semantic.codes, both.collaborative.codes
    np.testing.assert_array_equal(semantic.matrix[:, :1], collaborative.matrix[:, :1])
    assert not np.array_equal(semantic.matrix[:, 1:3], collaborative.matrix[:, 1:3])
    for codes in (semantic, collaborative):
        trie = Trie.build(codes)
        assert trie.num_items == 60
        assert {tuple(row) for row in trie.leaf_codes().tolist()} == {tuple(row) for row in codes.matrix.tolist()}
        groups = tuple_groups(codes.matrix, codes.codebook_sizes)
        assert isinstance(rule, KeepTied) or len(np.unique(groups)) == 60


def test_a_rule_that_changes_shared_codes_is_refused() -> None:
    class Scramble:
        calls = 0

        def resolve(self, matrix: Int32Array, sizes: tuple[int, ...]) -> Codes:
            self.calls += 1
            return Codes((matrix + self.calls) % np.array(sizes, np.int32), sizes, len(sizes))

    vectors = cloud(60)
    with pytest.raises(ConfigError, match="Scramble changes codes that both IDs begin with"):
        dual_codes(fit(SMALL, vectors, 5, 6), vectors, rule=Scramble(), seed=0)


def test_a_branch_is_its_columns_and_stands_for_what_it_knows() -> None:
    vectors = cloud(120)
    fitted = fit(SMALL, vectors, 5, 6)
    codes = fitted.encode(vectors)
    assert fitted.codebook_sizes == (8, 4, 3, 8, 6) and codes.shape == (120, 5)
    semantic, collaborative = fitted.branch("semantic"), fitted.branch("collaborative")
    np.testing.assert_array_equal(semantic.encode(vectors), codes[:, [0, 1, 2]])
    np.testing.assert_array_equal(collaborative.encode(vectors), codes[:, [0, 3, 4]])
    whole, shared = fitted.reconstruct(codes), fitted.reconstruct(codes[:, :1])
    ours, theirs = semantic.reconstruct(codes[:, [0, 1, 2]]), collaborative.reconstruct(codes[:, [0, 3, 4]])
    np.testing.assert_allclose(ours, np.concatenate([whole[:, :5], shared[:, 5:]], axis=1), atol=1e-6)
    np.testing.assert_allclose(theirs, np.concatenate([shared[:, :5], whole[:, 5:]], axis=1), atol=1e-6)
    np.testing.assert_array_equal(semantic.reconstruct(codes[:, :1]), shared)


def test_what_an_item_says_changes_shared_and_semantic_codes_alone() -> None:
    vectors = cloud(120)
    fitted = fit(SMALL, vectors, 5, 6)
    swapped = vectors.copy()
    swapped[:, :5] = vectors[::-1, :5]
    before, after = fitted.encode(vectors), fitted.encode(swapped)
    same_start = before[:, 0] == after[:, 0]
    assert 5 < same_start.sum() < 120 and not np.array_equal(before[same_start, 1:3], after[same_start, 1:3])
    np.testing.assert_array_equal(before[same_start, 3:], after[same_start, 3:])


def test_several_parts_can_be_semantic() -> None:
    vectors = cloud(60)
    two = fit(replace(SMALL, semantic_parts=2), vectors, 3, 2, 6)
    np.testing.assert_array_equal(two.encode(vectors), fit(SMALL, vectors, 5, 6).encode(vectors))


def test_order_global_seed_and_state_change_nothing(tmp_path: Path) -> None:
    vectors = cloud(120)
    vectors[7] = vectors[80]
    order = np.random.default_rng(1).permutation(120)
    fitted = fit(SMALL, vectors, 5, 6, seed=3)
    codes = fitted.encode(vectors)
    assert np.array_equal(codes[7], codes[80])
    torch.manual_seed(99)
    np.testing.assert_array_equal(fit(SMALL, vectors[order], 5, 6, seed=3).encode(vectors[order]), codes[order])
    restored = FittedDual.from_state(fitted.state())
    np.testing.assert_array_equal(restored.encode(vectors), codes)
    np.testing.assert_array_equal(restored.reconstruct(codes), fitted.reconstruct(codes))
    kind, file = kind_of(fitted.branch("semantic")), tmp_path / "branch.safetensors"
    save_tokenizer(file, fitted.branch("semantic"))
    np.testing.assert_array_equal(load_tokenizer(file, kind=kind).encode(vectors), codes[:, :3])
    branch = FittedBranch.from_state(fitted.branch("semantic").state())
    assert branch.branch == "semantic" and branch.codebook_sizes == (8, 4, 3)
    np.testing.assert_array_equal(branch.encode(vectors), codes[:, :3])
    assert not np.array_equal(fit(SMALL, vectors, 5, 6, seed=4).encode(vectors), codes)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (replace(SMALL, shared=()), "tell no items apart"),
        (replace(SMALL, semantic=()), "tell no items apart"),
        (replace(SMALL, collaborative=(1,)), "tell no items apart"),
        (replace(SMALL, shared=(61,)), "larger than the catalogue of 60 items"),
        (replace(SMALL, latent=0), "latent=0"),
        (replace(SMALL, training=CodebookTraining(batch_size=0)), "training got batch_size=0"),
    ],
)
def test_settings_that_cannot_be_are_refused(part: DualRqVae, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        fit(part, cloud(60), 5, 6)


def test_vectors_that_cannot_be_are_refused() -> None:
    vectors = cloud(60)
    broken = vectors.copy()
    broken[3, 2] = np.nan
    for wrong, widths, words in (
        (broken, (5, 6), "first at item index 3"),
        (vectors, (11,), r"joined from parts of widths \(11,\); 1 of them are to be semantic"),
        (vectors, (5, 5), "item vectors are 11 wide"),
        (vectors[:0], (5, 6), r"item vectors have shape \(0, 11\)"),
    ):
        with pytest.raises(DataError, match=words):
            fit(SMALL, wrong, *widths)
