"""Noise that belongs to a request and a place in the tree of codes, not to the moment or the batch it is drawn in.

Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators" (OOPSLA 2014): SplitMix64 mixes seed + i * gamma
into the i-th number of a stream.  Kept: the mixer and gamma.  Changed: streams are nested, the key of a prefix being
the seed of its children's keys, so that a prefix has its noise whatever else the catalogue holds and in whatever order
the tree is walked.  All numbers are int64 that wrap around, as torch's do on every device.

Shape legend: N rows, T items of the longest history, B beams, W children.
"""

import torch
from torch import Tensor

from sememe.core.schema import PAD
from sememe.core.seeding import derive_seed
from sememe.decode.protocol import TensorBatch


def _signed(value: int) -> int:
    """The int64 with the bits of an unsigned number below 2**64."""
    return value - (1 << 64) if value >> 63 else value


# Of the reference implementation, https://prng.di.unimi.it/splitmix64.c
GAMMA = _signed(0x9E3779B97F4A7C15)
FIRST_FACTOR = _signed(0xBF58476D1CE4E5B9)
SECOND_FACTOR = _signed(0x94D049BB133111EB)


def row_keys(batch: TensorBatch, *, seed: int) -> Tensor:
    """(N,) int64: equal for equal seeds, users and histories, whatever the padding and the other rows.

    batch: "user" (N,) or "history" (N, T) with PAD where a row is shorter, or both; the rest is not read.
    """
    user, history = batch.get("user"), batch.get("history")
    assert user is not None or history is not None, "a request says who asks, or what they took"
    keys = torch.tensor(derive_seed(seed, "sample"))
    if history is not None:
        real = history != PAD
        # An item counts by its place among the row's items, so that padding may stand anywhere.
        events = mix(history.long() + GAMMA * real.cumsum(1))
        keys = mix(keys.to(history.device) + (events * real).sum(1))
    if user is not None:
        keys = mix(keys.to(user.device) + mix(user.long() + GAMMA))
    return keys


def child_keys(keys: Tensor, codes: Tensor) -> Tensor:
    """Keys of the prefixes that continue those with `keys` (N, B) by `codes` (N, B, W); (N, B, W) int64."""
    return mix(keys.unsqueeze(2) + GAMMA * (codes + 1))


def gumbel(keys: Tensor) -> Tensor:
    """A standard Gumbel number for each key; fp64, since the largest of many decide and fp32 is coarse there."""
    # The upper 52 bits and a half: every value in between 0 and 1, neither of them reached.
    uniform = (_shift(keys, 12).double() + 0.5) * 2.0**-52
    return -torch.log(-torch.log(uniform))


def mix(keys: Tensor) -> Tensor:
    """SplitMix64's finaliser: a bijection after which each bit of the input changes each bit of the output."""
    keys = (keys ^ _shift(keys, 30)) * FIRST_FACTOR
    keys = (keys ^ _shift(keys, 27)) * SECOND_FACTOR
    return keys ^ _shift(keys, 31)


def _shift(keys: Tensor, bits: int) -> Tensor:
    """Shift right as an unsigned number."""
    return (keys >> bits) & ((1 << (64 - bits)) - 1)
