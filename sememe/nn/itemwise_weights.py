"""The numbers of an item-wise generator as plain arrays: what an engine that is not torch needs, and nothing else.

Whoever holds the model fills it (`sememe/models/itemwise_export.py`), and an engine reads it without knowing the model
(`sememe/decode/native`).

Shape legend: I items, L levels, K codes of a level, V nodes of a depth, D width, H hidden width of a depth network.
"""

from dataclasses import dataclass

from sememe.core.schema import Codes, FloatArray


@dataclass(frozen=True, eq=False)
class Affine:
    """x -> x @ weight.T + bias."""

    weight: FloatArray
    """(out, in)"""
    bias: FloatArray
    """(out,)"""


@dataclass(frozen=True, eq=False)
class LayerNorm:
    """Layer norm over the width."""

    gain: FloatArray
    """(D,)"""
    bias: FloatArray
    """(D,)"""


@dataclass(frozen=True, eq=False)
class BlockWeights:
    """A causal block: a norm before each part, and a shortcut around it."""

    attention_norm: LayerNorm
    query_key_value: Affine
    """D -> 3 D: queries, keys and values, each of all heads."""
    joined: Affine
    ff_norm: LayerNorm
    wide: Affine
    narrow: Affine
    """With gelu between the two."""


@dataclass(frozen=True, eq=False)
class DepthNetwork:
    """What a level asks for, beside the position itself: narrow(gelu(wide([position, sum of the codes so far])))."""

    wide: Affine
    """2 D -> H where the network reads codes, D -> H where it does not."""
    narrow: Affine


@dataclass(frozen=True, eq=False)
class ItemWiseWeights:
    """A causal trunk over items with learned positions, and a depth decoder that writes the next item's codes."""

    heads: int
    epsilon: float
    """Of every layer norm."""
    positions: FloatArray
    """(max_history, D), counted from the first item."""
    blocks: tuple[BlockWeights, ...]
    norm: LayerNorm
    codes: Codes
    """Of every item that a history may name; a level is normalised over the codes that exist here."""
    item_vectors: FloatArray | None
    """(I, D) what an item's vector has beside its codes: its own and its content; None where there is neither."""
    read: tuple[FloatArray, ...]
    """L times (K, D): inputs of codes, to the trunk and, times the root of D, to the decoder."""
    write: tuple[FloatArray, ...]
    """L times (K, D): output vectors of codes."""
    own: tuple[FloatArray, ...] | None
    """L times (V, D) for the nodes of depth 1..L in lexicographic order: added to the output vector of their code."""
    networks: tuple[DepthNetwork, ...]
    """(L,)"""

    @property
    def width(self) -> int:
        """D"""
        return int(self.positions.shape[1])
