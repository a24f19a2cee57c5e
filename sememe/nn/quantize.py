"""Residual vector quantisation that trains: nearest codes, two gradients past the choice, two ways to learn codebooks.

Sources: van den Oord et al. 2017, arXiv 1711.00937 (codebook and commitment terms, straight-through estimator,
codebooks as running means, appendix A.1); SoundStream, arXiv 2107.03312 (residual levels); Fifty et al. 2024,
arXiv 2410.06424 (rotation trick).
Kept: all of them as written.  The running means take Laplace smoothing with the constant of the authors' code.
Changed: the rotation turns the latent to the sum of its codes at once, not level by level, so that the decoder's
gradient is rotated and rescaled once.

Shape legend: n latents, d their width, L levels, K codes of a level, which may differ from level to level.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Gradient = Literal["straight_through", "rotation"]
"""How the decoder's gradient gets past the choice of codes to the encoder."""
LearntBy = Literal["loss", "ema"]
"""Whether codes move by the gradient of the codebook term or as running means of what chose them."""
SMOOTHING = 1e-5
"""Added to every running count; the constant of the authors' code (Sonnet)."""
LEAST_LENGTH = 1e-6
"""Shorter vectors have no direction to turn to; the constant of the authors' code."""


@dataclass(frozen=True, eq=False)
class Quantized:
    """A latent batch cut into code vectors."""

    codes: Tensor
    """int64 (n, L)"""
    residuals: Tensor
    """(L, n, d): what each level had to represent; level 0 is the latent itself."""
    chosen: Tensor
    """(L, n, d): the code vectors chosen."""

    @property
    def rest(self) -> Tensor:
        """(n, d): what all levels together leave over; gradients reach the latents alone, as on the levels."""
        return self.residuals[-1] - self.chosen[-1].detach()

    def first(self, count: int) -> "Quantized":
        """The first `count` latents alone."""
        return Quantized(self.codes[:count], self.residuals[:, :count], self.chosen[:, :count])


def quantize(z: Tensor, codebooks: Sequence[Tensor] | Tensor) -> Quantized:
    """Nearest code of each level for latents (n, d) and L codebooks (K, d).

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


def codebook_term(quantized: Quantized) -> Tensor:
    """(n,): sum over levels of |sg[r] - e|^2, which pulls codes to what chose them."""
    return (quantized.residuals.detach() - quantized.chosen).square().sum(dim=(0, 2))


def commitment_term(quantized: Quantized) -> Tensor:
    """(n,): sum over levels of |r - sg[e]|^2, which holds latents to their codes."""
    return (quantized.residuals - quantized.chosen.detach()).square().sum(dim=(0, 2))


def straight_through(z: Tensor, quantized: Tensor) -> Tensor:
    """`quantized` (n, d), whose gradient is handed to `z` (n, d) unchanged."""
    return z + (quantized - z).detach()


def rotate(z: Tensor, quantized: Tensor) -> Tensor:
    """`quantized` (n, d) exactly, whose gradient goes to `z` (n, d) as if z had been turned and stretched to it.

    The turn is the rotation in the plane of the two, the stretch the ratio of their lengths; both count as constants.
    Where one of them has no length, the gradient is handed on unchanged.
    """
    turned: Tensor = _Rotation.apply(z, quantized)  # type: ignore[no-untyped-call]
    return turned


class _Rotation(torch.autograd.Function):
    """q = s R z with R = 1 - 2 m m^T + 2 q^ z^^T, where q^ and z^ have length 1, m halves them and s = |q| / |z|."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, quantized: Tensor) -> Tensor:
        ctx.save_for_backward(z, quantized)
        return quantized.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        z, quantized = ctx.saved_tensors
        (grad,) = grads
        lengths = [vectors.norm(dim=1, keepdim=True) for vectors in (z, quantized)]
        from_unit, to_unit = (
            vectors / length.clamp(min=LEAST_LENGTH) for vectors, length in zip((z, quantized), lengths, strict=True)
        )
        middle = functional.normalize(from_unit + to_unit, dim=1, eps=LEAST_LENGTH)
        # The transpose of R: it turns back.
        turned = grad - 2 * middle * _dot(middle, grad) + 2 * from_unit * _dot(to_unit, grad)
        stretch = lengths[1] / lengths[0].clamp(min=LEAST_LENGTH)
        has_direction = torch.minimum(*lengths) > LEAST_LENGTH
        return torch.where(has_direction, stretch * turned, grad), None


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).sum(dim=1, keepdim=True)


PAST_THE_CHOICE = {"straight_through": straight_through, "rotation": rotate}


class ResidualCodebooks(nn.Module):
    """The codebooks of L levels and what training has to know of them.

    They start at zero: `place` puts codes where they belong.  Learnt by "ema" they are no parameters, and `note` moves
    them.
    """

    vectors: Tensor
    """(L, largest K, d); rows beyond the K of their level are zero and stay so."""
    used: Tensor
    """bool (L, largest K): the codes that `note` has met since `forget`; True where there is no code."""
    counts: Tensor
    """(L, largest K), learnt by "ema": running counts of the latents that chose each code."""
    sums: Tensor
    """(L, largest K, d), learnt by "ema": running sums of what they wanted represented."""

    def __init__(
        self, sizes: tuple[int, ...], width: int, *, learnt_by: LearntBy = "loss", decay: float = 0.99
    ) -> None:
        super().__init__()
        self.sizes, self.learnt_by, self.decay = sizes, learnt_by, decay
        zeros = torch.zeros(len(sizes), max(sizes), width)
        if learnt_by == "loss":
            self.vectors = nn.Parameter(zeros)
        else:
            self.register_buffer("vectors", zeros)
            self.register_buffer("counts", zeros[:, :, 0].clone(), persistent=False)
            self.register_buffer("sums", zeros.clone(), persistent=False)
        self.register_buffer("used", self._missing(), persistent=False)

    def books(self) -> tuple[Tensor, ...]:
        """L times (K, d)."""
        return tuple(book[:size] for book, size in zip(self.vectors.unbind(), self.sizes, strict=True))

    def forward(self, z: Tensor) -> Quantized:
        """Nearest codes of latents (n, d)."""
        return quantize(z, self.books())

    @torch.no_grad()
    def sum_of(self, codes: Tensor) -> Tensor:
        """(n, d): the sum of the vectors of int64 codes (n, l) of the first l <= L levels; zeros where l = 0."""
        chosen = [book[codes[:, level]] for level, book in enumerate(self.books()[: codes.shape[1]])]
        return torch.stack(chosen).sum(dim=0) if chosen else self.vectors.new_zeros(len(codes), self.vectors.shape[2])

    def terms(self, quantized: Quantized, *, beta: float) -> Tensor:
        """(n,): what the choice of codes adds to the loss, the commitment weighted by `beta`."""
        commitment = beta * commitment_term(quantized)
        return codebook_term(quantized) + commitment if self.learnt_by == "loss" else commitment

    @torch.no_grad()
    def place(self, level: int, codes: Tensor, vectors: Tensor) -> None:
        """Put `codes` (m,) of a level at `vectors` (m, d); as running means they weigh like one latent of a batch."""
        self.vectors[level, codes] = vectors
        if self.learnt_by == "ema":
            self.counts[level, codes] = 1.0
            self.sums[level, codes] = vectors

    @torch.no_grad()
    def note(self, quantized: Quantized) -> None:
        """Take notice of which codes a training batch chose; running means move."""
        for level, size in enumerate(self.sizes):
            codes = quantized.codes[:, level]
            self.used[level, codes] = True
            if self.learnt_by == "ema":
                self._move(level, size, codes=codes, chosen_by=quantized.residuals[level])

    def forget(self) -> None:
        """Start to watch afresh which codes are used."""
        self.used.copy_(self._missing())

    def _missing(self) -> Tensor:
        """bool (L, largest K): where there is no code."""
        return torch.arange(max(self.sizes)) >= torch.tensor(self.sizes)[:, None]

    def _move(self, level: int, size: int, *, codes: Tensor, chosen_by: Tensor) -> None:
        counts, sums = self.counts[level, :size], self.sums[level, :size]
        met = torch.bincount(codes, minlength=size).to(counts.dtype)
        counts.mul_(self.decay).add_(met, alpha=1 - self.decay)
        total = torch.zeros_like(sums).index_add_(0, codes, chosen_by)
        sums.mul_(self.decay).add_(total, alpha=1 - self.decay)
        # Laplace smoothing leaves the sum of all counts as it is.
        everything = counts.sum()
        smoothed = (counts + SMOOTHING) / (everything + size * SMOOTHING) * everything
        self.vectors[level, :size] = sums / smoothed.unsqueeze(1)
