"""Networks for vectors that were joined from several sources: an encoder and a decoder for each.

Source: PLUM, arXiv 2510.07784, section 3.1: z = Proj(concat_m Enc_m(x_m)), and a reconstruction of every source.
Kept: both.  Changed: with a single source there is nothing to join and no projection, which leaves the plain RQ-VAE's
encoder; each source's squared error is scaled to the mean width, so that a wide source does not drown a narrow one.

Shape legend: n vectors, dim the width of the joined ones, M sources, latent the width of the bottleneck.
"""

import numpy as np
import torch
from torch import Tensor, nn

from sememe.nn.mlp import relu_mlp


class JoinedEncoder(nn.Module):
    """One network per source, their answers side by side and projected."""

    def __init__(
        self, widths: tuple[int, ...], *, hidden: tuple[int, ...], latent: int, rng: np.random.Generator
    ) -> None:
        super().__init__()
        self.widths = widths
        self.sources = nn.ModuleList(relu_mlp((width, *hidden, latent), rng=rng) for width in widths)
        single = len(widths) == 1
        self.projection = nn.Identity() if single else relu_mlp((len(widths) * latent, latent), rng=rng)

    def forward(self, joined: Tensor) -> Tensor:
        """(n, dim) -> (n, latent)"""
        parts = zip(self.sources, torch.split(joined, list(self.widths), dim=1), strict=True)
        projected: Tensor = self.projection(torch.cat([source(part) for source, part in parts], dim=1))
        return projected


class JoinedDecoder(nn.Module):
    """One network per source, all of which read the same latent."""

    def __init__(
        self, widths: tuple[int, ...], *, hidden: tuple[int, ...], latent: int, rng: np.random.Generator
    ) -> None:
        super().__init__()
        self.sources = nn.ModuleList(relu_mlp((latent, *hidden[::-1], width), rng=rng) for width in widths)

    def forward(self, latents: Tensor) -> Tensor:
        """(n, latent) -> (n, dim)"""
        return torch.cat([source(latents) for source in self.sources], dim=1)


def source_weights(widths: tuple[int, ...]) -> Tensor:
    """(dim,): what makes every source's sum of squared errors count as if all sources were equally wide."""
    share = sum(widths) / len(widths)
    return torch.cat([torch.full((width,), share / width) for width in widths])
