"""How autoencoders with codebooks are trained: one small loop, and what they all do before, during and after it.

First a short warm-up without quantisation, so that latents mean something; then each level's codebook starts at the
k-means centres of its residuals; then all is trained, and codes that nothing chose for an epoch restart at latents that
are represented worst.  All draws come from generators of their own, so that torch's global seed changes nothing.

Shape legend: n vectors, dim their width, L levels, K codes of a level, latent the width of the bottleneck.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from sememe.core.errors import ConfigError
from sememe.core.schema import FloatArray
from sememe.core.seeding import generator
from sememe.nn.quantize import Quantized, ResidualCodebooks
from sememe.sid.kmeans import k_means

ENCODE_ROWS = 16_384
"""Vectors that go through a network at once when encoding."""
LAST_REVIVAL = 0.9
"""Share of the epochs after which no code is revived any more: it would never be trained."""
Batch = TypeVar("Batch")


@dataclass(frozen=True)
class CodebookTraining:
    """How long and how fast."""

    epochs: int = 30
    warmup_epochs: int = 5
    """Epochs without quantisation, before the k-means start; not counted in `epochs`."""
    batch_size: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4

    def check(self, *, owner: str) -> None:
        """Raise ConfigError for values that cannot be; `owner` is the part that they are settings of."""
        for name, least in {"epochs": 1, "batch_size": 1, "warmup_epochs": 0}.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{owner} got {name}={getattr(self, name)}", fix=f"give at least {least}")
        if not self.learning_rate > 0:
            raise ConfigError(f"{owner} got learning_rate={self.learning_rate}", fix="give a number above 0")


class Learner(Protocol[Batch]):
    """A network in training, and the data it is trained on."""

    def batches(self, epoch: int) -> Iterable[Batch]:
        """The batches of an epoch, the same whenever asked for; epochs of the warm-up count."""
        ...

    def warm_loss(self, batch: Batch) -> Tensor:
        """Scalar without quantisation."""
        ...

    def start(self) -> None:
        """Put the codebooks where the residuals are."""
        ...

    def loss(self, batch: Batch) -> Tensor:
        """Scalar with quantisation."""
        ...

    def end_epoch(self, *, revive: bool) -> None:
        """Move codes that nothing chose in the epoch, where `revive` says so, and watch afresh."""
        ...


def train_codebooks(
    learner: Learner[Batch], parameters: Iterable[nn.Parameter], plan: CodebookTraining, *, steps_per_epoch: int
) -> None:
    """Warm up, start the codebooks, then train everything, with a learning rate that falls to 0 as a cosine does.

    Raises ConfigError where the loss is no longer a number.
    """
    optimizer = torch.optim.AdamW(parameters, lr=plan.learning_rate, weight_decay=plan.weight_decay)
    total = steps_per_epoch * (plan.warmup_epochs + plan.epochs)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total)

    def step(loss: Tensor) -> None:
        if not bool(torch.isfinite(loss)):
            raise ConfigError(
                f"the loss of the tokenizer became {loss.item()}", fix=f"lower its learning_rate, {plan.learning_rate}"
            )
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()

    for epoch in range(plan.warmup_epochs):
        for batch in learner.batches(epoch):
            step(learner.warm_loss(batch))
    learner.start()
    for epoch in range(plan.warmup_epochs, plan.warmup_epochs + plan.epochs):
        for batch in learner.batches(epoch):
            step(learner.loss(batch))
        learner.end_epoch(revive=epoch + 1 < plan.warmup_epochs + LAST_REVIVAL * plan.epochs)


def start_codebooks(
    codebooks: ResidualCodebooks, latents: FloatArray, *, seed: int, first_level: int = 0
) -> FloatArray:
    """Set each level's codebook to the k-means centres of that level's residuals; what all levels leave over, (n, d).

    latents: (n, d).  first_level: how many levels of other codebooks come before these; it keeps the draws apart.
    """
    residual = latents
    for level, size in enumerate(codebooks.sizes):
        rng = generator(seed, "sid", "rqvae", "kmeans", first_level + level)
        found = k_means(residual, num_clusters=size, rng=rng, max_iterations=20)
        # With fewer distinct vectors than codes the surplus repeats real centres: never first in a tie, so unused.
        centers = np.resize(found.centers[: max(1, int(found.labels.max()) + 1)], found.centers.shape)
        codebooks.place(level, torch.arange(size), torch.from_numpy(centers))
        residual = residual - found.centers[found.labels]
    return residual


def revive_dead_codes(codebooks: ResidualCodebooks, latents: Tensor) -> None:
    """Move codes that no batch used to those residuals of latents (n, d) that their level represents worst."""
    if bool(codebooks.used.all()):
        return
    with torch.no_grad():
        quantized: Quantized = codebooks(latents)
        error = (quantized.residuals - quantized.chosen).square().sum(dim=2)
        for level, used in enumerate(codebooks.used):
            dead = torch.nonzero(~used).ravel()[: len(latents)]
            worst = torch.argsort(error[level], descending=True, stable=True)[: len(dead)]
            codebooks.place(level, dead, quantized.residuals[level, worst])


@dataclass(frozen=True, eq=False)
class Scale:
    """Mean and spread of each dimension of some vectors."""

    mean: FloatArray
    """(dim,)"""
    spread: FloatArray
    """(dim,), 1 where the vectors do not vary."""

    @classmethod
    def of(cls, rows: FloatArray) -> "Scale":
        """Of float32 (n, dim)."""
        mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        spread = rows.std(axis=0, dtype=np.float64).astype(np.float32)
        # A dimension without spread carries nothing: leave it at zero instead of dividing by zero.
        return cls(mean, np.where(spread > 1e-8, spread, 1).astype(np.float32))

    def apply(self, rows: FloatArray) -> Tensor:
        """Standardised float32 (n, dim)."""
        return torch.from_numpy((rows - self.mean) / self.spread)

    def undo(self, standard: Tensor) -> FloatArray:
        """float32 (n, dim) in the units of the vectors."""
        return np.asarray(standard.numpy() * self.spread + self.mean, dtype=np.float32)


def shuffled(count: int, *, size: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """The numbers below `count` in random order, `size` at a time, int64."""
    order = torch.from_numpy(rng.permutation(count))
    for start in range(0, count, size):
        yield order[start : start + size]


def in_blocks(network: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """What a network makes of rows (n, dim) without gradients, a block at a time."""
    with torch.no_grad():
        blocks = [network(rows[start : start + ENCODE_ROWS]) for start in range(0, len(rows), ENCODE_ROWS)]
        made: Tensor = torch.cat(blocks)
    return made
