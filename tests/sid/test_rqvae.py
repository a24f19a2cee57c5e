"""RQ-VAE: its loss by hand, its gradients, and its codes on a planted tree."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from planted_tree import same_tree, tree
from torch import Tensor

from sememe.core.errors import ConfigError
from sememe.nn.quantize import ResidualCodebooks
from sememe.sid.codebook_training import revive_dead_codes, start_codebooks
from sememe.sid.rqvae import FittedRqVae, RqVae, RqVaeNet, rqvae_loss

SMALL = RqVae(levels=2, codebook_size=8, hidden=(16,), latent=4, epochs=4, warmup_epochs=2, batch_size=64)


def net_of(part: RqVae, dim: int) -> RqVaeNet:
    return RqVaeNet(dim, part, rng=np.random.default_rng(0))


def cloud(rows: int, dim: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, dim)).astype(np.float32)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("options", [{}, {"gradient": "rotation"}, {"codebooks": "ema", "decay": 0.9}])
def test_codes_recover_the_planted_tree(options: Any, seed: int) -> None:
    vectors, paths = tree(seed)
    part = RqVae(
        levels=3,
        codebook_size=4,
        hidden=(32,),
        latent=16,
        epochs=60,
        warmup_epochs=30,
        batch_size=64,
        learning_rate=0.01,
        **options,
    )
    assert same_tree(part.fit(vectors, seed=seed).encode(vectors), paths)


def worked_example() -> ResidualCodebooks:
    """(3, 1) has (4, 0) nearest and leaves (-1, 1), which has (1, 1) nearest and leaves (-2, 0)."""
    codebooks = ResidualCodebooks((2, 2), 2)
    codebooks.place(0, torch.arange(2), torch.tensor([[0.0, 0.0], [4.0, 0.0]]))
    codebooks.place(1, torch.arange(2), torch.tensor([[1.0, 1.0], [0.0, -1.0]]))
    return codebooks


def test_loss_by_hand() -> None:
    codebooks = worked_example()
    x, x_hat = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 0.0, 2.0]])
    terms = codebooks.terms(codebooks(torch.tensor([[3.0, 1.0]])), beta=0.25)
    # Reconstruction 0 + 4 + 1; level 0: |(-1, 1)|^2 = 2; level 1: |(-2, 0)|^2 = 4; codebook 6, commitment .25 * 6.
    assert rqvae_loss(x, x_hat, terms).item() == pytest.approx(5 + 6 + 1.5)
    assert rqvae_loss(x.repeat(2, 1), x_hat.repeat(2, 1), terms.repeat(2)).item() == pytest.approx(12.5)


def test_gradients_by_hand() -> None:
    z, codebooks = torch.tensor([[3.0, 1.0]], requires_grad=True), worked_example()
    x = torch.zeros(1, 3)
    torch.autograd.backward(rqvae_loss(x, x, codebooks.terms(codebooks(z), beta=0.25)))
    # Commitment only: .25 * 2 * ((3, 1) - (4, 0)) + .25 * 2 * ((-1, 1) - (1, 1)).
    assert z.grad is not None and z.grad.tolist() == [[-1.5, 0.5]]
    # Codebook only: 2 * (e - r), and nothing for the codes not chosen.
    assert codebooks.vectors.grad is not None
    assert codebooks.vectors.grad.tolist() == [[[0.0, 0.0], [2.0, -2.0]], [[4.0, 0.0], [0.0, 0.0]]]


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


def test_the_decoder_gradient_can_be_rotated() -> None:
    net, z = net_of(replace(SMALL, gradient="rotation"), 5), torch.tensor([[3.0, 0.0, 0.0, 0.0]], requires_grad=True)
    quantized = torch.tensor([[0.0, 6.0, 0.0, 0.0]], requires_grad=True)
    decoded = net.decode_quantized(z, quantized)
    assert torch.equal(decoded, net.decoder(quantized))
    torch.autograd.backward(decoded.square().sum())
    plain = quantized.detach().requires_grad_()
    torch.autograd.backward(net.decoder(plain).square().sum())
    assert z.grad is not None and plain.grad is not None and quantized.grad is None
    # A quarter turn from the first axis to the second, and twice as long: back again, x is what y was and y is -x.
    (x, y, *rest) = plain.grad[0].tolist()
    np.testing.assert_allclose(z.grad[0], [2 * y, -2 * x, *(2 * other for other in rest)], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("learnt_by", ["loss", "ema"])
def test_codebooks_start_on_the_residuals_and_dead_codes_come_back(learnt_by: Any) -> None:
    net, inputs = net_of(replace(SMALL, codebooks=learnt_by), 6), torch.from_numpy(cloud(200, 6))
    latents = net.encoder(inputs).detach()
    start_codebooks(net.codebooks, latents.numpy(), seed=0)
    codes = net.codebooks(latents).codes
    assert [len(codes[:, level].unique()) for level in range(2)] == [8, 8]
    with torch.no_grad():
        net.codebooks.vectors[0, 5] = 1e3
    before = _first_level_error(net, latents)
    net.codebooks.used[:] = True
    net.codebooks.used[0, 5] = False
    kept = net.codebooks.vectors.detach().clone()
    revive_dead_codes(net.codebooks, latents)
    assert (net.codebooks(latents).codes[:, 0] == 5).any()
    assert _first_level_error(net, latents) < before
    assert torch.equal(net.codebooks.vectors[1], kept[1])
    assert torch.equal(net.codebooks.vectors[0, :5], kept[0, :5])


def _first_level_error(net: RqVaeNet, latents: Tensor) -> float:
    found = net.codebooks(latents)
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


def test_fewer_different_items_than_codes_still_get_codes() -> None:
    vectors = np.tile(cloud(5, 6), (4, 1))
    codes = SMALL.fit(vectors, seed=0).encode(vectors)
    assert codes.shape == (20, 2) and len(np.unique(codes, axis=0)) == 5


def test_a_size_per_level() -> None:
    vectors = cloud(120, 6)
    fitted = replace(SMALL, codebook_size=(8, 3)).fit(vectors, seed=0)
    codes = fitted.encode(vectors)
    assert fitted.codebook_sizes == (8, 3) and codes.max(axis=0).tolist() == [7, 2]
    restored = FittedRqVae.from_state(fitted.state())
    assert restored.codebook_sizes == (8, 3)
    np.testing.assert_array_equal(restored.encode(vectors), codes)
    np.testing.assert_array_equal(restored.reconstruct(codes[:, :1]), fitted.reconstruct(codes[:, :1]))
    # One size given for each level is the same as one size for all.
    even = replace(SMALL, codebook_size=(8, 8)).fit(vectors, seed=0).state()
    for name, array in SMALL.fit(vectors, seed=0).state().items():
        np.testing.assert_array_equal(even[name], array)


@pytest.mark.parametrize("options", [{"gradient": "rotation"}, {"codebooks": "ema"}])
def test_options_change_the_codes_and_keep_every_promise(options: Any) -> None:
    vectors, part = cloud(150, 6), replace(SMALL, **options)
    order = np.random.default_rng(1).permutation(150)
    codes = part.fit(vectors, seed=3).encode(vectors)
    assert not np.array_equal(codes, SMALL.fit(vectors, seed=3).encode(vectors))
    np.testing.assert_array_equal(part.fit(vectors[order], seed=3).encode(vectors[order]), codes[order])
    restored = FittedRqVae.from_state(part.fit(vectors, seed=3).state())
    np.testing.assert_array_equal(restored.encode(vectors), codes)


def test_running_means_keep_every_code_in_use_where_the_latents_move() -> None:
    """Codes that training leaves behind are revived, and the running means go on from there."""
    part = RqVae(
        levels=1, codebook_size=32, hidden=(16,), latent=4, epochs=20, batch_size=64, codebooks="ema", decay=0.9
    )
    vectors = cloud(400, 6)
    codes = part.fit(vectors, seed=0).encode(vectors)
    assert len(np.unique(codes)) >= 31


@pytest.mark.parametrize(
    "part",
    [
        RqVae(levels=0),
        RqVae(levels=2, codebook_size=(8, 8, 8)),
        RqVae(latent=0),
        RqVae(epochs=0),
        RqVae(learning_rate=0.0),
        RqVae(gradient="sideways"),  # type: ignore[arg-type]
        RqVae(codebooks="guess"),  # type: ignore[arg-type]
        RqVae(codebooks="ema", decay=1.0),
    ],
)
def test_impossible_settings_are_refused(part: RqVae) -> None:
    with pytest.raises(ConfigError):
        part.fit(cloud(5, 6), seed=0)
