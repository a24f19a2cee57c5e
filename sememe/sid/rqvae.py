"""RQ-VAE: an autoencoder whose latent vector is a sum of codebook entries, one per level, picked residual by residual.

Source: TIGER, Rajput et al., NeurIPS 2023, arXiv 2305.05065, section 3.1 (after SoundStream, arXiv 2107.03312).
Kept: MLP 512-256-128 with ReLU to a 32-d latent and its mirror, 3 codebooks of 256, straight-through estimator, squared
error plus codebook and commitment terms with beta .25, k-means start of each codebook on the residuals of its level.
Changed, because the paper's Adagrad with learning rate .4 collapses to a handful of codes, and its 20,000 epochs take
hours:
- AdamW with a cosine schedule, learning rate 2e-3, batches of 256 instead of 1,024, 30 epochs;
- the k-means start sees all items, not the first batch;
- inputs are standardised per dimension; the error is measured on the standardised values;
- a short warm-up without quantisation, so that the k-means start sees a latent space that means something;
- codes that nothing chose for an epoch restart at latents that are represented worst;
- each distinct vector is trained on once, in an order that does not depend on the order of the items.

Shape legend: n vectors, dim their width, L levels, K codes per level, latent the width of the bottleneck.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from sememe.core.errors import ConfigError
from sememe.core.schema import FloatArray, Int32Array
from sememe.core.seeding import generator
from sememe.sid.kmeans import distinct_rows, k_means
from sememe.sid.rqkmeans import check_sizes, check_vectors, quantize_residuals

ENCODE_ROWS = 16_384
"""Vectors that go through the network at once when encoding."""


@dataclass(frozen=True)
class RqVae:
    """Fit TIGER's residual-quantised autoencoder on the CPU."""

    levels: int = 3
    codebook_size: int = 256
    hidden: tuple[int, ...] = (512, 256, 128)
    latent: int = 32
    beta: float = 0.25
    """Weight of the commitment term."""
    epochs: int = 30
    warmup_epochs: int = 5
    """Epochs without quantisation, before the k-means start; not counted in `epochs`."""
    batch_size: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4

    def fit(self, vectors: FloatArray, *, seed: int) -> "FittedRqVae":
        """Fit on float32 (n, dim); the order of the rows does not matter."""
        check_sizes(self.levels, self.codebook_size)
        self._check()
        check_vectors(vectors)
        rows = distinct_rows(vectors).rows
        mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        scale = rows.std(axis=0, dtype=np.float64).astype(np.float32)
        # A dimension without spread carries nothing: leave it at zero instead of dividing by zero.
        scale = np.where(scale > 1e-8, scale, 1).astype(np.float32)
        inputs = torch.from_numpy((rows - mean) / scale)
        net = RqVaeNet(rows.shape[1], self, rng=generator(seed, "sid", "rqvae", "init"))
        _train(net, inputs, self, seed=seed)
        return FittedRqVae(net.eval(), mean=mean, scale=scale)

    def _check(self) -> None:
        sizes = {"latent": self.latent, "epochs": self.epochs, "batch_size": self.batch_size}
        for name, value in sizes.items():
            if value < 1:
                raise ConfigError(f"RqVae got {name}={value}", fix="give at least 1")
        if not self.learning_rate > 0:
            raise ConfigError(f"RqVae got learning_rate={self.learning_rate}", fix="give a number above 0")


class RqVaeNet(nn.Module):
    """Encoder, codebooks and decoder."""

    codebooks: nn.Parameter

    def __init__(self, dim: int, config: RqVae, *, rng: np.random.Generator) -> None:
        super().__init__()
        widths = (dim, *config.hidden, config.latent)
        self.encoder = _mlp(widths, rng=rng)
        self.decoder = _mlp(widths[::-1], rng=rng)
        self.codebooks = nn.Parameter(torch.zeros(config.levels, config.codebook_size, config.latent))
        """(L, K, latent)"""

    def decode_quantized(self, z: Tensor, quantized: Tensor) -> Tensor:
        """The decoder on `quantized` (n, latent), with its gradient handed to `z` unchanged (straight-through)."""
        decoded: Tensor = self.decoder(z + (quantized - z).detach())
        return decoded


@dataclass(frozen=True, eq=False)
class Quantized:
    """A latent batch cut into code vectors."""

    codes: Tensor
    """int64 (n, L)"""
    residuals: Tensor
    """(L, n, latent): what each level had to represent; level 0 is the latent itself."""
    chosen: Tensor
    """(L, n, latent): the code vectors chosen."""


def quantize(z: Tensor, codebooks: Tensor) -> Quantized:
    """Nearest code of each level for latents (n, latent) and codebooks (L, K, latent).

    Gradients reach `z` through the residuals and the codebooks through `chosen`; a residual does not pass gradients on
    to the codebooks of the levels above it.
    """
    codes, residuals, chosen = [], [], []
    residual = z
    for codebook in codebooks:
        with torch.no_grad():
            affinity = residual @ codebook.T - 0.5 * codebook.square().sum(dim=1)
            code = affinity.argmax(dim=1)
        picked = functional.embedding(code, codebook)
        codes.append(code)
        residuals.append(residual)
        chosen.append(picked)
        residual = residual - picked.detach()
    return Quantized(torch.stack(codes, dim=1), torch.stack(residuals), torch.stack(chosen))


def rqvae_loss(x: Tensor, x_hat: Tensor, quantized: Quantized, *, beta: float) -> Tensor:
    """Equation of TIGER section 3.1, mean over the batch.

    |x - x_hat|^2 + sum_d (|sg[r_d] - e_d|^2 + beta |r_d - sg[e_d]|^2)

    x, x_hat: (n, dim).  Norms are sums over dimensions, as in the paper.
    """
    reconstruction = (x - x_hat).square().sum(dim=1)
    codebook = (quantized.residuals.detach() - quantized.chosen).square().sum(dim=(0, 2))
    commitment = (quantized.residuals - quantized.chosen.detach()).square().sum(dim=(0, 2))
    return (reconstruction + codebook + beta * commitment).mean()


@dataclass(frozen=True, eq=False)
class FittedRqVae:
    """Turns vectors into codes and codes into the vectors they stand for."""

    rebuilds_prefixes: ClassVar[bool] = True
    """`reconstruct` takes the first codes alone, too."""

    net: RqVaeNet
    mean: FloatArray
    scale: FloatArray

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """(L,)"""
        levels, size, _ = self.net.codebooks.shape
        return (size,) * levels

    def encode(self, vectors: FloatArray) -> Int32Array:
        """int32 (n, L); equal vectors get equal codes wherever they stand in the input."""
        check_vectors(vectors, dim=len(self.mean))
        distinct = distinct_rows(vectors)
        inputs = torch.from_numpy((distinct.rows - self.mean) / self.scale)
        codes = quantize_residuals(_latents(self.net, inputs), self.net.codebooks.detach().numpy())
        return codes[distinct.inverse]

    def reconstruct(self, codes: Int32Array) -> FloatArray:
        """float32 (n, dim): the decoder's answer to codes (n, l), l <= L, in the units of the input vectors."""
        books = self.net.codebooks.detach()[: codes.shape[1]]
        index = torch.from_numpy(codes.astype(np.int64))
        with torch.no_grad():
            quantized = torch.stack([book[index[:, level]] for level, book in enumerate(books)]).sum(dim=0)
            decoded = torch.cat([self.net.decoder(block) for block in _blocks(quantized)])
        return np.asarray(decoded.numpy() * self.scale + self.mean, dtype=np.float32)

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """Arrays from which `from_state` makes an equal tokenizer."""
        weights = {f"net.{name}": value.numpy() for name, value in self.net.state_dict().items()}
        return {"mean": self.mean, "scale": self.scale, **weights}

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray[np.generic]]) -> "FittedRqVae":
        """The tokenizer that `state` described."""
        weights = {
            name.removeprefix("net."): torch.from_numpy(np.array(value, dtype=np.float32))
            for name, value in state.items()
            if name.startswith("net.")
        }
        levels, size, latent = weights["codebooks"].shape
        # Linear layers sit at the even places of the encoder; the last one leads to the latent.
        layers = sum(name.startswith("encoder.") and name.endswith(".weight") for name in weights)
        hidden = tuple(len(weights[f"encoder.{2 * place}.weight"]) for place in range(layers - 1))
        config = RqVae(levels=levels, codebook_size=size, hidden=hidden, latent=latent)
        # The weights drawn here are replaced at once.
        net = RqVaeNet(len(state["mean"]), config, rng=generator(0, "sid", "rqvae", "load"))
        net.load_state_dict(weights)
        mean, scale = (np.asarray(state[name], dtype=np.float32) for name in ("mean", "scale"))
        return cls(net.eval(), mean=mean, scale=scale)


def _mlp(widths: tuple[int, ...], *, rng: np.random.Generator) -> nn.Sequential:
    """Linear layers with ReLU between them; He-uniform weights drawn from `rng`, not from torch's global seed."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(widths[:-1], widths[1:], strict=True):
        linear = nn.Linear(fan_in, fan_out)
        bound = (3 / fan_in) ** 0.5
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(rng.uniform(-bound, bound, (fan_out, fan_in)).astype(np.float32)))
            linear.bias.zero_()
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _train(net: RqVaeNet, inputs: Tensor, config: RqVae, *, seed: int) -> None:
    """Warm up, start the codebooks by k-means, then train everything."""
    steps_per_epoch = -(-len(inputs) // config.batch_size)
    total = steps_per_epoch * (config.warmup_epochs + config.epochs)
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total)

    def step(loss: Tensor) -> None:
        assert bool(torch.isfinite(loss)), "the RQ-VAE loss is not finite"
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()

    for epoch in range(config.warmup_epochs):
        for batch in _batches(inputs, config.batch_size, generator(seed, "sid", "rqvae", "order", epoch)):
            step((batch - net.decoder(net.encoder(batch))).square().sum(dim=1).mean())
    start_codebooks(net, inputs, seed=seed)
    for epoch in range(config.warmup_epochs, config.warmup_epochs + config.epochs):
        used = torch.zeros(config.levels, config.codebook_size, dtype=torch.bool)
        for batch in _batches(inputs, config.batch_size, generator(seed, "sid", "rqvae", "order", epoch)):
            z = net.encoder(batch)
            quantized = quantize(z, net.codebooks)
            x_hat = net.decode_quantized(z, quantized.chosen.sum(dim=0))
            step(rqvae_loss(batch, x_hat, quantized, beta=config.beta))
            for level in range(config.levels):
                used[level, quantized.codes[:, level]] = True
        # Codes revived at the very end would never be trained.
        if epoch + 1 < config.warmup_epochs + 0.9 * config.epochs:
            revive_dead_codes(net, inputs, used=used)


def start_codebooks(net: RqVaeNet, inputs: Tensor, *, seed: int) -> None:
    """Set each level's codebook to the k-means centres of that level's residuals."""
    residual = _latents(net, inputs)
    for level in range(len(net.codebooks)):
        rng = generator(seed, "sid", "rqvae", "kmeans", level)
        found = k_means(residual, num_clusters=net.codebooks.shape[1], rng=rng, max_iterations=20)
        # With fewer distinct vectors than codes the surplus repeats real centres: never first in a tie, so unused.
        centers = np.resize(found.centers[: max(1, int(found.labels.max()) + 1)], found.centers.shape)
        with torch.no_grad():
            net.codebooks[level] = torch.from_numpy(centers)
        residual = residual - found.centers[found.labels]


def revive_dead_codes(net: RqVaeNet, inputs: Tensor, *, used: Tensor) -> None:
    """Move codes (L, K) that `used` marks False to the residuals that their level represents worst."""
    if bool(used.all()):
        return
    with torch.no_grad():
        quantized = quantize(torch.from_numpy(_latents(net, inputs)), net.codebooks)
        error = (quantized.residuals - quantized.chosen).square().sum(dim=2)
        for level, level_used in enumerate(used):
            dead = torch.nonzero(~level_used).ravel()[: len(inputs)]
            worst = torch.argsort(error[level], descending=True, stable=True)[: len(dead)]
            net.codebooks[level, dead] = quantized.residuals[level, worst]


def _batches(inputs: Tensor, size: int, rng: np.random.Generator) -> Iterator[Tensor]:
    order = torch.from_numpy(rng.permutation(len(inputs)))
    for start in range(0, len(inputs), size):
        yield inputs[order[start : start + size]]


def _latents(net: RqVaeNet, inputs: Tensor) -> FloatArray:
    """float32 (n, latent) of standardised inputs (n, dim), in blocks."""
    with torch.no_grad():
        latents: FloatArray = torch.cat([net.encoder(block) for block in _blocks(inputs)]).numpy()
    return latents


def _blocks(rows: Tensor) -> list[Tensor]:
    return [rows[start : start + ENCODE_ROWS] for start in range(0, len(rows), ENCODE_ROWS)]
