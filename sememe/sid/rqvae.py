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
Beyond the paper, off by default: the rotation trick, codebooks as running means, a size per level.

Shape legend: n vectors, dim their width, L levels, K codes per level, latent the width of the bottleneck.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sememe.core.errors import ConfigError
from sememe.core.schema import FloatArray, Int32Array
from sememe.core.seeding import generator
from sememe.nn.mlp import relu_mlp
from sememe.nn.quantize import PAST_THE_CHOICE, Gradient, LearntBy, Quantized, ResidualCodebooks
from sememe.sid.codebook_training import (
    CodebookTraining,
    Scale,
    in_blocks,
    revive_dead_codes,
    shuffled,
    start_codebooks,
    train_codebooks,
)
from sememe.sid.kmeans import distinct_rows
from sememe.sid.rqkmeans import check_room, check_sizes, check_vectors, quantize_residuals


@dataclass(frozen=True)
class RqVae:
    """Fit TIGER's residual-quantised autoencoder on the CPU."""

    levels: int = 3
    codebook_size: int | tuple[int, ...] = 256
    """One size for all levels, or one per level."""
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
    gradient: Gradient = "straight_through"
    """What the encoder learns from the decoder: its gradient as it is, or rotated and rescaled to the latent."""
    codebooks: LearntBy = "loss"
    """Whether codes follow the codebook term of the loss, or are running means of the residuals that chose them."""
    decay: float = 0.99
    """Share that running means keep at each step."""

    def fit(self, vectors: FloatArray, *, seed: int) -> "FittedRqVae":
        """Fit on float32 (n, dim); the order of the rows does not matter."""
        sizes = check_sizes(self.levels, self.codebook_size)
        self._check()
        check_vectors(vectors)
        check_room(sizes, items=len(vectors))
        rows = distinct_rows(vectors).rows
        scale = Scale.of(rows)
        net = RqVaeNet(rows.shape[1], self, rng=generator(seed, "sid", "rqvae", "init"))
        learner = _Learner(net, scale.apply(rows), self, seed)
        train_codebooks(learner, net.parameters(), self._training(), steps_per_epoch=-(-len(rows) // self.batch_size))
        return FittedRqVae(net.eval(), mean=scale.mean, scale=scale.spread)

    def _training(self) -> CodebookTraining:
        return CodebookTraining(self.epochs, self.warmup_epochs, self.batch_size, self.learning_rate, self.weight_decay)

    def _check(self) -> None:
        self._training().check(owner="RqVae")
        if self.latent < 1:
            raise ConfigError(f"RqVae got latent={self.latent}", fix="give at least 1")
        for name, choices in {"gradient": get_args(Gradient), "codebooks": get_args(LearntBy)}.items():
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"RqVae got {name}={getattr(self, name)!r}", fix=f"choose one of: {', '.join(choices)}"
                )
        if not 0 <= self.decay < 1:
            raise ConfigError(f"RqVae got decay={self.decay}", fix="give a share from 0 to below 1")


class RqVaeNet(nn.Module):
    """Encoder, codebooks and decoder."""

    def __init__(self, dim: int, config: RqVae, *, rng: np.random.Generator) -> None:
        super().__init__()
        widths = (dim, *config.hidden, config.latent)
        self.encoder = relu_mlp(widths, rng=rng)
        self.decoder = relu_mlp(widths[::-1], rng=rng)
        sizes = check_sizes(config.levels, config.codebook_size)
        self.codebooks = ResidualCodebooks(sizes, config.latent, learnt_by=config.codebooks, decay=config.decay)
        self.past_the_choice = PAST_THE_CHOICE[config.gradient]

    def decode_quantized(self, z: Tensor, quantized: Tensor) -> Tensor:
        """The decoder on `quantized` (n, latent), whose gradient goes to `z` (n, latent)."""
        decoded: Tensor = self.decoder(self.past_the_choice(z, quantized))
        return decoded


def rqvae_loss(x: Tensor, x_hat: Tensor, terms: Tensor) -> Tensor:
    """Equation of TIGER section 3.1, mean over the batch.

    |x - x_hat|^2 + sum_d (|sg[r_d] - e_d|^2 + beta |r_d - sg[e_d]|^2)

    x, x_hat: (n, dim); terms: (n,) the sum over d.  Norms are sums over dimensions, as in the paper.
    """
    return ((x - x_hat).square().sum(dim=1) + terms).mean()


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
        return self.net.codebooks.sizes

    def encode(self, vectors: FloatArray) -> Int32Array:
        """int32 (n, L); equal vectors get equal codes wherever they stand in the input."""
        check_vectors(vectors, dim=len(self.mean))
        distinct = distinct_rows(vectors)
        latents = in_blocks(self.net.encoder, Scale(self.mean, self.scale).apply(distinct.rows))
        books = [book.detach().numpy() for book in self.net.codebooks.books()]
        return quantize_residuals(latents.numpy(), books)[distinct.inverse]

    def reconstruct(self, codes: Int32Array) -> FloatArray:
        """float32 (n, dim): the decoder's answer to codes (n, l), l <= L, in the units of the input vectors."""
        quantized = self.net.codebooks.sum_of(torch.from_numpy(codes.astype(np.int64)))
        return Scale(self.mean, self.scale).undo(in_blocks(self.net.decoder, quantized))

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """Arrays from which `from_state` makes an equal tokenizer."""
        state = self.net.state_dict()
        weights: dict[str, npt.NDArray[np.generic]] = {
            f"net.{_name_on_file(name)}": value.numpy() for name, value in state.items()
        }
        sizes = self.codebook_sizes
        uneven = {"sizes": np.array(sizes, np.int64)} if len(set(sizes)) > 1 else {}
        return {"mean": self.mean, "scale": self.scale, **weights, **uneven}

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray[np.generic]]) -> "FittedRqVae":
        """The tokenizer that `state` described."""
        weights = {
            name.removeprefix("net."): torch.from_numpy(np.array(value, dtype=np.float32))
            for name, value in state.items()
            if name.startswith("net.")
        }
        levels, size, latent = weights["codebooks"].shape
        sizes = state.get("sizes", np.full(levels, size))
        # Linear layers sit at the even places of the encoder; the last one leads to the latent.
        layers = sum(name.startswith("encoder.") and name.endswith(".weight") for name in weights)
        hidden = tuple(len(weights[f"encoder.{2 * place}.weight"]) for place in range(layers - 1))
        config = RqVae(levels=levels, codebook_size=tuple(int(size) for size in sizes), hidden=hidden, latent=latent)
        # The weights drawn here are replaced at once.
        net = RqVaeNet(len(state["mean"]), config, rng=generator(0, "sid", "rqvae", "load"))
        net.load_state_dict({name: weights[_name_on_file(name)] for name in net.state_dict()})
        mean, scale = (np.asarray(state[name], dtype=np.float32) for name in ("mean", "scale"))
        return cls(net.eval(), mean=mean, scale=scale)


def _name_on_file(name: str) -> str:
    return name.replace("codebooks.vectors", "codebooks")


@dataclass(frozen=True, eq=False)
class _Learner:
    """The network in training."""

    net: RqVaeNet
    inputs: Tensor
    """(m, dim) the distinct vectors, standardised."""
    config: RqVae
    seed: int

    def batches(self, epoch: int) -> Iterator[Tensor]:
        rng = generator(self.seed, "sid", "rqvae", "order", epoch)
        for rows in shuffled(len(self.inputs), size=self.config.batch_size, rng=rng):
            yield self.inputs[rows]

    def warm_loss(self, batch: Tensor) -> Tensor:
        decoded: Tensor = self.net.decoder(self.net.encoder(batch))
        return (batch - decoded).square().sum(dim=1).mean()

    def start(self) -> None:
        start_codebooks(self.net.codebooks, self._latents().numpy(), seed=self.seed)

    def loss(self, batch: Tensor) -> Tensor:
        z = self.net.encoder(batch)
        quantized: Quantized = self.net.codebooks(z)
        x_hat = self.net.decode_quantized(z, quantized.chosen.sum(dim=0))
        loss = rqvae_loss(batch, x_hat, self.net.codebooks.terms(quantized, beta=self.config.beta))
        self.net.codebooks.note(quantized)
        return loss

    def end_epoch(self, *, revive: bool) -> None:
        if revive:
            revive_dead_codes(self.net.codebooks, self._latents())
        self.net.codebooks.forget()

    def _latents(self) -> Tensor:
        return in_blocks(self.net.encoder, self.inputs)
