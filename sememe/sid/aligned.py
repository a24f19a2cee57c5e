"""Semantic IDs that know what is used together: several sources, coarse-to-fine codebooks, a contrast of co-used items.

Source: PLUM, arXiv 2510.07784, section 3.1 (SID-v2).
Kept: an encoder per content source, joined and projected; codebooks that halve from level to level; progressive masking
(for each item a prefix length r from 1..L is drawn, and the decoder sees the first r codes alone); reconstruction of
every source; InfoNCE by dot product on the quantised vectors of a batch of pairs of items used together.
Not stated there, so ours:
- the first codebook goes by the catalogue: the power of two at or above an eighth of the items, at most 2,048, which is
  PLUM's; all codebooks together must be able to name every item;
- the dot products are divided by a temperature, and the contrast is weighted against the error;
- items that the training log shows together anywhere are no negatives of each other, nor are items of equal vectors;
- the contrast counts in the warm-up already, so that codebooks start where it has put the latents.
Training, standardised inputs, start and revival of codes are those of our RQ-VAE; with all that is new switched off
the codes are its codes.

Shape legend: n vectors, m distinct ones, dim their width, M sources, L levels, K codes of a level, N pairs of a batch.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import FloatArray, Int32Array
from sememe.core.seeding import generator
from sememe.data.cooccurrence import cooccurrence
from sememe.nn.contrast import info_nce_of_pairs
from sememe.nn.quantize import Quantized, ResidualCodebooks, straight_through
from sememe.sid.codebook_training import (
    CodebookTraining,
    Scale,
    in_blocks,
    revive_dead_codes,
    shuffled,
    start_codebooks,
    train_codebooks,
)
from sememe.sid.context import CodeContext
from sememe.sid.kmeans import Distinct, distinct_rows
from sememe.sid.rqkmeans import check_room, check_sizes, check_vectors, quantize_residuals
from sememe.sid.sources import JoinedDecoder, JoinedEncoder, source_weights
from sememe.sid.together import Together

LARGEST_FIRST = 2048
"""Codes of PLUM's first level."""
ITEMS_PER_CODE = 8
"""Items that a code of the first level stands for, where its size goes by the catalogue."""


@dataclass(frozen=True)
class AlignedRqVae:
    """Fit PLUM's tokenizer on the CPU.  Each of its novelties can be switched off."""

    levels: int = 3
    codebook_size: int = 0
    """Codes of the first level; 0 goes by the catalogue."""
    multi_resolution: bool = True
    """Halve the codebook from level to level; off: all levels as the first."""
    encoder_per_source: bool = True
    """An encoder and a decoder per part of the joined vectors; off: one for the whole."""
    progressive: bool = True
    """Decode random prefixes in training; off: all codes always."""
    cooccurrence: float = 0.3
    """Weight of the contrast of items used together against the mean error of a standardised dimension; 0 leaves it
    out, and the log is not read."""
    temperature: float = 10.0
    """What the dot products are divided by.

    Weight and temperature were set on Beauty's text (12,101 items, 256, 128 and 64 codes, 10 epochs, one seed): unique
    codes rose from .862 to .882, and next items with the same first code from .087 to .106.  On vectors that hold
    co-occurrence already, the former rose (.873 to .932) and the latter fell (.147 to .129)."""
    window: int = 5
    """Items of a user that lie at most so many places apart were used together."""
    hidden: tuple[int, ...] = (512, 256, 128)
    latent: int = 32
    beta: float = 0.25
    """Weight of the commitment term."""
    training: CodebookTraining = CodebookTraining()

    def fit_in(self, vectors: FloatArray, *, context: CodeContext, seed: int) -> "FittedAligned":
        """Fit on float32 (n, dim) and the training log; the order of the items does not matter.

        Raises:
            ConfigError: settings that cannot be, or codebooks that do not fit the catalogue.
            DataError: vectors or a context that cannot be used, or a log in which no items are used together.
        """
        self._check()
        check_vectors(vectors)
        context.check(vectors)
        distinct = distinct_rows(vectors)
        sizes = self.sizes(len(vectors))
        check_room(sizes, items=len(vectors))
        if math.prod(sizes) < len(distinct.rows):
            raise ConfigError(
                f"codebooks of {sizes} codes name {math.prod(sizes)} items at most, and {len(distinct.rows)} of the "
                "items differ",
                fix="give a larger codebook_size or more levels",
            )
        together = self._together(context, distinct) if self.cooccurrence else None
        widths = context.widths if self.encoder_per_source else (vectors.shape[1],)
        net = AlignedNet(widths, sizes, config=self, rng=generator(seed, "sid", "rqvae", "init"))
        scale = Scale.of(distinct.rows)
        learner = _Learner(net, scale.apply(distinct.rows), together, self, seed)
        train_codebooks(learner, net.parameters(), self.training, steps_per_epoch=learner.steps_per_epoch)
        return FittedAligned(net.eval(), scale, self.hidden)

    def sizes(self, items: int) -> tuple[int, ...]:
        """(L,) codes of each level for a catalogue of so many items."""
        smallest = 2**self.levels if self.multi_resolution else 2
        wanted = 2 ** math.ceil(math.log2(max(items, 1) / ITEMS_PER_CODE)) if items > ITEMS_PER_CODE else 1
        first = self.codebook_size or min(max(smallest, wanted), max(LARGEST_FIRST, smallest))
        sizes = tuple(first >> level for level in range(self.levels)) if self.multi_resolution else first
        return check_sizes(self.levels, sizes)

    def _together(self, context: CodeContext, distinct: Distinct) -> Together:
        counts = cooccurrence(context.train, window=self.window, decay=1.0)
        together = Together.of(counts, distinct.inverse, num_rows=len(distinct.rows))
        if len(together) == 0:
            raise DataError(
                "no two different items of the training log are used together, so that there is nothing to contrast",
                fix="give a log with longer histories, a wider window, or --set tokenizer.cooccurrence=0",
            )
        return together

    def _check(self) -> None:
        self.training.check(owner="AlignedRqVae.training")
        for name, least in {"levels": 1, "latent": 1, "window": 1}.items():
            if getattr(self, name) < least:
                raise ConfigError(f"AlignedRqVae got {name}={getattr(self, name)}", fix=f"give at least {least}")
        if self.cooccurrence < 0 or not self.temperature > 0:
            raise ConfigError(
                f"AlignedRqVae got cooccurrence={self.cooccurrence} and temperature={self.temperature}",
                fix="give cooccurrence >= 0 and temperature > 0",
            )


class AlignedNet(nn.Module):
    """Encoders, codebooks and decoders."""

    weights: Tensor
    """(dim,) of the squared errors."""

    def __init__(
        self, widths: tuple[int, ...], sizes: tuple[int, ...], *, config: AlignedRqVae, rng: np.random.Generator
    ) -> None:
        super().__init__()
        self.encoder = JoinedEncoder(widths, hidden=config.hidden, latent=config.latent, rng=rng)
        self.decoder = JoinedDecoder(widths, hidden=config.hidden, latent=config.latent, rng=rng)
        self.codebooks = ResidualCodebooks(sizes, config.latent)
        self.register_buffer("weights", source_weights(widths), persistent=False)

    def error(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """(n,): squared error summed over sources, each of which counts alike."""
        return ((x - x_hat).square() * self.weights).sum(dim=1)


def prefix_sums(chosen: Tensor, lengths: Tensor) -> Tensor:
    """(n, latent): the sum of the first `lengths` (n,) of the code vectors `chosen` (L, n, latent)."""
    seen = torch.arange(len(chosen)).unsqueeze(1) < lengths
    return (chosen * seen.unsqueeze(2)).sum(dim=0)


@dataclass(frozen=True, eq=False)
class FittedAligned:
    """Turns vectors into codes and codes into the vectors they stand for."""

    rebuilds_prefixes: ClassVar[bool] = True
    """`reconstruct` takes the first codes alone, too."""

    net: AlignedNet
    scale: Scale
    hidden: tuple[int, ...]

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """(L,)"""
        return self.net.codebooks.sizes

    def encode(self, vectors: FloatArray) -> Int32Array:
        """int32 (n, L); equal vectors get equal codes wherever they stand in the input."""
        check_vectors(vectors, dim=len(self.scale.mean))
        distinct = distinct_rows(vectors)
        latents = in_blocks(self.net.encoder, self.scale.apply(distinct.rows)).numpy()
        books = [book.detach().numpy() for book in self.net.codebooks.books()]
        return quantize_residuals(latents, books)[distinct.inverse]

    def reconstruct(self, codes: Int32Array) -> FloatArray:
        """float32 (n, dim): the decoders' answer to codes (n, l), l <= L, in the units of the input vectors."""
        quantized = self.net.codebooks.sum_of(torch.from_numpy(codes.astype(np.int64)))
        return self.scale.undo(in_blocks(self.net.decoder, quantized))

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """Arrays from which `from_state` makes an equal tokenizer."""
        weights = {f"net.{name}": value.numpy() for name, value in self.net.state_dict().items()}
        shape = {"widths": self.net.encoder.widths, "sizes": self.codebook_sizes, "hidden": self.hidden}
        numbers = {name: np.array(value, np.int64) for name, value in shape.items()}
        return {"mean": self.scale.mean, "spread": self.scale.spread, **numbers, **weights}

    @classmethod
    def from_state(cls, state: Mapping[str, npt.NDArray[np.generic]]) -> "FittedAligned":
        """The tokenizer that `state` described."""
        weights = {
            name.removeprefix("net."): torch.from_numpy(np.array(value, dtype=np.float32))
            for name, value in state.items()
            if name.startswith("net.")
        }
        widths, sizes, hidden = (tuple(int(x) for x in state[name]) for name in ("widths", "sizes", "hidden"))
        config = AlignedRqVae(hidden=hidden, latent=weights["codebooks.vectors"].shape[2])
        # The weights drawn here are replaced at once.
        net = AlignedNet(widths, sizes, config=config, rng=generator(0, "sid", "aligned", "load"))
        net.load_state_dict(weights)
        mean, spread = (np.asarray(state[name], dtype=np.float32) for name in ("mean", "spread"))
        return cls(net.eval(), Scale(mean, spread), hidden)


@dataclass(frozen=True, eq=False)
class _Batch:
    rows: Tensor
    """(n,) distinct vectors to rebuild."""
    lengths: Tensor
    """(n,) how many of their codes the decoder sees."""
    pairs: Tensor
    """(2 N,) distinct vectors used together, k with k + N; none where nothing is contrasted."""
    belong: Tensor
    """bool (2 N, 2 N)"""


@dataclass(frozen=True, eq=False)
class _Learner:
    """The network in training."""

    net: AlignedNet
    inputs: Tensor
    """(m, dim) the distinct vectors, standardised."""
    together: Together | None
    config: AlignedRqVae
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.inputs) // self.config.training.batch_size)

    def batches(self, epoch: int) -> Iterator[_Batch]:
        size, levels = self.config.training.batch_size, self.config.levels
        order, prefixes, drawn = (
            generator(self.seed, "sid", "rqvae", name, epoch) for name in ("order", "prefixes", "pairs")
        )
        nothing = torch.zeros(0, dtype=torch.int64)
        for rows in shuffled(len(self.inputs), size=size, rng=order):
            lengths = prefixes.integers(1, levels, len(rows), endpoint=True)
            # Half a batch of pairs is a batch of vectors.
            pairs = self.together.draw(max(1, size // 2), drawn).ravel() if self.together else nothing
            belong = self.together.met(pairs, pairs) if self.together else nothing
            yield _Batch(rows, torch.from_numpy(lengths), pairs, belong)

    def warm_loss(self, batch: _Batch) -> Tensor:
        count, z = len(batch.rows), self._encode(batch)
        error = self.net.error(self.inputs[batch.rows], self.net.decoder(z[:count])).mean()
        return error + self._contrast(z[count:], batch)

    def start(self) -> None:
        start_codebooks(self.net.codebooks, self._latents().numpy(), seed=self.seed)

    def loss(self, batch: _Batch) -> Tensor:
        count, z = len(batch.rows), self._encode(batch)
        everything: Quantized = self.net.codebooks(z)
        own = everything.first(count)
        shown = prefix_sums(own.chosen, batch.lengths) if self.config.progressive else own.chosen.sum(dim=0)
        x_hat = self.net.decoder(straight_through(z[:count], shown))
        error = self.net.error(self.inputs[batch.rows], x_hat)
        loss = (error + self.net.codebooks.terms(own, beta=self.config.beta)).mean()
        self.net.codebooks.note(everything)
        # Straight through: a contrast of latents could be met without any code changing.
        quantized = straight_through(z[count:], everything.chosen[:, count:].sum(dim=0))
        return loss + self._contrast(quantized, batch)

    def end_epoch(self, *, revive: bool) -> None:
        if revive:
            revive_dead_codes(self.net.codebooks, self._latents())
        self.net.codebooks.forget()

    def _encode(self, batch: _Batch) -> Tensor:
        z: Tensor = self.net.encoder(self.inputs[torch.cat([batch.rows, batch.pairs])])
        return z

    def _contrast(self, vectors: Tensor, batch: _Batch) -> Tensor:
        if len(vectors) == 0:
            return torch.zeros(())
        contrast = info_nce_of_pairs(vectors @ vectors.T / self.config.temperature, belong=batch.belong)
        return self.config.cooccurrence * self.inputs.shape[1] * contrast

    def _latents(self) -> Tensor:
        return in_blocks(self.net.encoder, self.inputs)
