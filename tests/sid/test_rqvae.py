"""RQ-VAE: its loss by hand, its gradients, and its codes on a planted tree."""

import numpy as np
import pytest
import torch
from planted_tree import same_tree, tree
from torch import Tensor

from sememe.core.errors import ConfigError
from sememe.sid.rqvae import FittedRqVae, RqVae, RqVaeNet, quantize, revive_dead_codes, rqvae_loss, start_codebooks

SMALL = RqVae(levels=2, codebook_size=8, hidden=(16,), latent=4, epochs=4, warmup_epochs=2, batch_size=64)


def net_of(part: RqVae, dim: int) -> RqVaeNet:
    return RqVaeNet(dim, part, rng=np.random.default_rng(0))


def cloud(rows: int, dim: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, dim)).astype(np.float32)


def test_codes_recover_the_planted_tree() -> None:
    vectors, paths = tree(0)
    part = RqVae(
        levels=3,
        codebook_size=4,
        hidden=(32,),
        latent=16,
        epochs=60,
        warmup_epochs=30,
        batch_size=64,
        learning_rate=0.01,
    )
    assert same_tree(part.fit(vectors, seed=0).encode(vectors), paths)


BOOKS = torch.tensor([[[0.0, 0.0], [4.0, 0.0]], [[1.0, 1.0], [0.0, -1.0]]])


def test_quantize_by_hand() -> None:
    # (3, 1): nearest of level 0 is (4, 0), rest (-1, 1), nearest of level 1 is (1, 1) at 4 against (0, -1) at 5.
    found = quantize(torch.tensor([[3.0, 1.0]]), BOOKS)
    assert found.codes.tolist() == [[1, 0]]
    assert found.residuals.tolist() == [[[3.0, 1.0]], [[-1.0, 1.0]]]
    assert found.chosen.tolist() == [[[4.0, 0.0]], [[1.0, 1.0]]]


def test_loss_by_hand() -> None:
    found = quantize(torch.tensor([[3.0, 1.0]]), BOOKS)
    x, x_hat = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 0.0, 2.0]])
    # Reconstruction 0 + 4 + 1; level 0: |(-1, 1)|^2 = 2; level 1: |(-2, 0)|^2 = 4; codebook 6, commitment .25 * 6.
    assert rqvae_loss(x, x_hat, found, beta=0.25).item() == pytest.approx(5 + 6 + 1.5)
    two = quantize(torch.tensor([[3.0, 1.0], [3.0, 1.0]]), BOOKS)
    assert rqvae_loss(x.repeat(2, 1), x_hat.repeat(2, 1), two, beta=0.25).item() == pytest.approx(12.5)


def test_gradients_by_hand() -> None:
    z = torch.tensor([[3.0, 1.0]], requires_grad=True)
    books = BOOKS.clone().requires_grad_()
    found = quantize(z, books)
    x = torch.zeros(1, 3)
    torch.autograd.backward(rqvae_loss(x, x, found, beta=0.25))
    # Commitment only: .25 * 2 * ((3, 1) - (4, 0)) + .25 * 2 * ((-1, 1) - (1, 1)).
    assert z.grad is not None and z.grad.tolist() == [[-1.5, 0.5]]
    # Codebook only: 2 * (e - r), and nothing for the codes not chosen.
    assert books.grad is not None
    assert books.grad.tolist() == [[[0.0, 0.0], [2.0, -2.0]], [[4.0, 0.0], [0.0, 0.0]]]


def test_the_decoder_gradient_goes_straight_through() -> None:
    net = net_of(SMALL, 5)
    z = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    quantized = torch.ones(3, 4, requires_grad=True)
    decoded = net.decode_quantized(z, quantized)
    np.testing.assert_allclose(decoded.detach().numpy(), net.decoder(quantized).detach().numpy(), rtol=1e-5, atol=1e-6)
    torch.autograd.backward(decoded.square().sum())
    plain = quantized.detach().requires_grad_()
    torch.autograd.backward(net.decoder(plain).square().sum())
    assert z.grad is not None and plain.grad is not None and quantized.grad is None
    np.testing.assert_allclose(z.grad.numpy(), plain.grad.numpy(), rtol=1e-4, atol=1e-5)


def test_codebooks_start_on_the_residuals_and_dead_codes_come_back() -> None:
    net, inputs = net_of(SMALL, 6), torch.from_numpy(cloud(200, 6))
    start_codebooks(net, inputs, seed=0)
    codes = quantize(net.encoder(inputs), net.codebooks).codes
    assert [len(codes[:, level].unique()) for level in range(2)] == [8, 8]
    with torch.no_grad():
        net.codebooks[0, 5] = 1e3
    before = _first_level_error(net, inputs)
    used = torch.ones(2, 8, dtype=torch.bool)
    used[0, 5] = False
    kept = net.codebooks.detach().clone()
    revive_dead_codes(net, inputs, used=used)
    assert (quantize(net.encoder(inputs), net.codebooks).codes[:, 0] == 5).any()
    assert _first_level_error(net, inputs) < before
    assert torch.equal(net.codebooks[1], kept[1]) and torch.equal(net.codebooks[0, :5], kept[0, :5])


def _first_level_error(net: RqVaeNet, inputs: Tensor) -> float:
    found = quantize(net.encoder(inputs), net.codebooks)
    return (found.residuals[0] - found.chosen[0]).square().sum().item()


def test_order_global_seed_and_state_change_nothing() -> None:
    vectors = cloud(150, 6)
    order = np.random.default_rng(1).permutation(150)
    fitted = SMALL.fit(vectors, seed=3)
    codes = fitted.encode(vectors)
    torch.manual_seed(99)
    permuted = SMALL.fit(vectors[order], seed=3)
    np.testing.assert_array_equal(permuted.encode(vectors[order]), codes[order])
    restored = FittedRqVae.from_state(fitted.state())
    np.testing.assert_array_equal(restored.encode(vectors), codes)
    np.testing.assert_array_equal(restored.reconstruct(codes), fitted.reconstruct(codes))
    assert restored.codebook_sizes == (8, 8)
    assert not np.array_equal(SMALL.fit(vectors, seed=4).encode(vectors), codes)


def test_reconstruction_is_in_the_units_of_the_input() -> None:
    vectors, _ = tree(1)
    vectors = vectors * np.float32(100) + np.float32(7)
    vectors[:, 3] = 5
    part = RqVae(levels=2, codebook_size=16, hidden=(32,), latent=8, epochs=20, learning_rate=1e-2, batch_size=64)
    fitted = part.fit(vectors, seed=0)
    rebuilt = fitted.reconstruct(fitted.encode(vectors))
    lost = np.square(vectors - rebuilt).sum() / np.square(vectors - vectors.mean(axis=0)).sum()
    assert rebuilt.dtype == np.float32
    assert lost < 0.3
    np.testing.assert_allclose(rebuilt[:, 3], 5, atol=1)


def test_fewer_items_than_codes_still_get_codes() -> None:
    vectors = cloud(5, 6)
    codes = SMALL.fit(vectors, seed=0).encode(vectors)
    assert codes.shape == (5, 2) and len(np.unique(codes, axis=0)) == 5


@pytest.mark.parametrize("part", [RqVae(levels=0), RqVae(latent=0), RqVae(epochs=0), RqVae(learning_rate=0.0)])
def test_impossible_settings_are_refused(part: RqVae) -> None:
    with pytest.raises(ConfigError):
        part.fit(cloud(5, 6), seed=0)
