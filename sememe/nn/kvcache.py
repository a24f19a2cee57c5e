"""Keys and values of what a causal transformer has read, so that one item more costs one position.

A position reads itself and what came before it, so that nothing that was computed for earlier positions changes when
later ones come.  That ends where a window slides: dropping the first item moves every position, and what the others
said had read it.  Then the window has to be read anew (`TrunkModule.extend` refuses to go beyond its longest history).

Shape legend: N rows, H heads, S positions read so far, t new ones, E width of one head, D model width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class KeyValues:
    """Of one layer."""

    keys: Tensor
    """(N, H, S, E), their positions told."""
    values: Tensor
    """(N, H, S, E)"""

    @property
    def length(self) -> int:
        """S"""
        return self.keys.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.keys.nbytes + self.values.nbytes

    def then(self, keys: Tensor, values: Tensor) -> "KeyValues":
        """With (N, H, t, E) more; these stay as they are."""
        return KeyValues(torch.cat([self.keys, keys], 2), torch.cat([self.values, values], 2))


@dataclass(frozen=True, eq=False)
class Extended:
    """What a layer says of new positions, and what the next ones will need of it."""

    states: Tensor
    """(N, t, D), or (N, 1, D) where the last position alone was asked for."""
    cache: KeyValues


@dataclass(frozen=True, eq=False)
class TrunkCache:
    """Of a whole trunk, once it has read S positions; S is the same for all rows."""

    layers: tuple[KeyValues, ...]

    @property
    def length(self) -> int:
        """S"""
        return self.layers[0].length

    @property
    def nbytes(self) -> int:
        """Bytes of all layers."""
        return sum(layer.nbytes for layer in self.layers)


@dataclass(frozen=True, eq=False)
class TrunkReading:
    """What a trunk says after the last position, and its cache."""

    last: Tensor
    """(N, D)"""
    cache: TrunkCache


def later_positions(queries: int, *, first: int, device: torch.device) -> Tensor:
    """(queries, first + queries) bool: whether the query at position first + row may read the key at column."""
    return torch.ones(queries, first + queries, dtype=torch.bool, device=device).tril(first)
