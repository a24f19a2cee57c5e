"""The network behind dual semantic IDs: two autoencoders whose latents share their first codes.

Source: GenSAR, arXiv 2504.05730, section 3.1; see `sememe.sid.dual`.

Shape legend: n vectors, dim their width, S shared levels, latent the width of one branch's bottleneck.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from sememe.core.seeding import generator
from sememe.nn.mlp import relu_mlp
from sememe.nn.quantize import Quantized, ResidualCodebooks

Branch = Literal["semantic", "collaborative"]
BRANCHES: tuple[Branch, Branch] = ("semantic", "collaborative")
STREAMS = {"semantic": ("dual", "semantic"), "collaborative": ("rqvae", "init")}
"""Where weights are drawn from: the collaborative branch's are those of a plain RQ-VAE."""


@dataclass(frozen=True)
class DualShape:
    """What a network looks like."""

    widths: tuple[int, ...]
    """Of the semantic and of the collaborative vectors."""
    hidden: tuple[int, ...]
    latent: int
    shared: tuple[int, ...]
    """Codes of each shared level; then those of each branch's own levels."""
    semantic: tuple[int, ...]
    collaborative: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class DualQuantized:
    """A latent batch cut into shared codes and the codes of each branch."""

    shared: Quantized
    own: tuple[Quantized, ...]
    """Semantic, collaborative: of the halves of what the shared codes leave over."""

    def total(self) -> Tensor:
        """(n, 2 latent): the sum of all code vectors."""
        halves = torch.cat([own.chosen.sum(dim=0) for own in self.own], dim=1)
        return self.shared.chosen.sum(dim=0) + halves


class DualNet(nn.Module):
    """An encoder, codebooks and a decoder per branch, and the codebooks that both share."""

    weights: Tensor
    """(dim,) of the squared errors."""

    def __init__(self, shape: DualShape, *, seed: int) -> None:
        super().__init__()
        self.shape = shape
        self.encoders, self.decoders = nn.ModuleList(), nn.ModuleList()
        for branch, width in zip(BRANCHES, shape.widths, strict=True):
            rng = generator(seed, "sid", *STREAMS[branch])
            layers = (width, *shape.hidden, shape.latent)
            self.encoders.append(relu_mlp(layers, rng=rng))
            self.decoders.append(relu_mlp(layers[::-1], rng=rng))
        self.shared = ResidualCodebooks(shape.shared, 2 * shape.latent)
        self.semantic = ResidualCodebooks(shape.semantic, shape.latent)
        self.collaborative = ResidualCodebooks(shape.collaborative, shape.latent)
        # A squared error counts by its share of a branch's width, as if both were as wide as the collaborative one.
        spread = [torch.full((width,), shape.widths[1] / width) for width in shape.widths]
        self.register_buffer("weights", torch.cat(spread), persistent=False)

    def own(self) -> tuple[ResidualCodebooks, ...]:
        """The codebooks of each branch alone."""
        return self.semantic, self.collaborative

    def encode(self, x: Tensor) -> Tensor:
        """(n, dim) -> (n, 2 latent), the semantic half first."""
        parts = zip(self.encoders, torch.split(x, list(self.shape.widths), dim=1), strict=True)
        return torch.cat([encoder(part) for encoder, part in parts], dim=1)

    def decode(self, z: Tensor) -> Tensor:
        """(n, 2 latent) -> (n, dim)"""
        halves = zip(self.decoders, torch.chunk(z, 2, dim=1), strict=True)
        return torch.cat([decoder(half) for decoder, half in halves], dim=1)

    def quantize(self, z: Tensor) -> DualQuantized:
        """Nearest codes of latents (n, 2 latent)."""
        shared: Quantized = self.shared(z)
        halves = zip(self.own(), torch.chunk(shared.rest, 2, dim=1), strict=True)
        return DualQuantized(shared, tuple(codebooks(half) for codebooks, half in halves))

    def loss(self, x: Tensor, x_hat: Tensor, quantized: DualQuantized, *, beta: float) -> Tensor:
        """Errors of both branches, and codebook and commitment terms of all three quantisers; mean over the batch.

        x, x_hat: (n, dim)
        """
        terms = self.shared.terms(quantized.shared, beta=beta)
        for codebooks, own in zip(self.own(), quantized.own, strict=True):
            terms = terms + codebooks.terms(own, beta=beta)
        return (self.error(x, x_hat) + terms).mean()

    def error(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """(n,): squared error of both branches, which count alike however wide they are."""
        return ((x - x_hat).square() * self.weights).sum(dim=1)

    def sum_of(self, shared: Tensor, own: tuple[Tensor, ...]) -> Tensor:
        """(n, 2 latent): the sum of the vectors of the first codes (n, <= S) and of each branch's first codes."""
        halves = zip(self.own(), own, strict=True)
        return self.shared.sum_of(shared) + torch.cat([codebooks.sum_of(codes) for codebooks, codes in halves], dim=1)
