"""A model whose every probability is written in a table, and the slowest possible search over it."""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sememe.core.schema import Codes


@dataclass
class Walk:
    """State of one search: which prefix each beam stands on."""

    users: Tensor
    level: int = 0
    prefixes: Tensor | None = None


class TableModel:
    """StepModel: log p(code | user, prefix) of every prefix in one table per level, (users, prefixes, K)."""

    def __init__(self, codebook_sizes: tuple[int, ...], *, users: int, seed: int, distinct: int | None = None) -> None:
        """distinct: draw logits from so few values that equal scores are common; None: continuous."""
        self.codebook_sizes = codebook_sizes
        generator = torch.Generator().manual_seed(seed)
        self.tables, prefixes = [], 1
        for size in codebook_sizes:
            if distinct is None:
                logits = torch.randn(users, prefixes, size, generator=generator)
            else:
                # A rotation of the same values: every prefix has the same normaliser, so that sums tie exactly.
                shift = torch.randint(size, (users, prefixes, 1), generator=generator)
                logits = ((torch.arange(size) + shift) % size % distinct).float()
            self.tables.append(logits.log_softmax(dim=2))
            prefixes *= size

    def encode(self, batch: dict[str, Tensor]) -> Walk:
        return Walk(users=batch["user"])

    def step(self, state: Walk, codes: Tensor | None, parents: Tensor | None) -> Tensor:
        if codes is None or parents is None:
            assert state.level == 0 and codes is None and parents is None
            state.prefixes = torch.zeros(len(state.users), 1, dtype=torch.int64)
        else:
            size = self.codebook_sizes[state.level - 1]
            assert codes.dtype == parents.dtype == torch.int64 and codes.shape == parents.shape
            assert int(codes.min()) >= 0 and int(codes.max()) < size
            state.prefixes = state.prefixes.gather(1, parents) * size + codes
        table = self.tables[state.level][state.users]
        state.level += 1
        return table.gather(1, state.prefixes.unsqueeze(2).expand(-1, -1, table.shape[2]))

    def score(self, user: int, code: tuple[int, ...]) -> float:
        """fp32 sum of the log-probabilities of a (prefix of a) semantic ID, added from the first level on."""
        total, prefix = np.float32(0), 0
        for level, value in enumerate(code):
            total = np.float32(total + np.float32(self.tables[level][user, prefix, value]))
            prefix = prefix * self.codebook_sizes[level] + value
        return float(total)


def slow_beam(
    model: TableModel, codes: Codes, user: int, *, width: int, seen: set[int], first_width: int = 0
) -> list[tuple[int, float]]:
    """(item, score) of every found item, best first: beam search over sets of prefixes of the allowed items."""
    allowed = {item: tuple(row) for item, row in enumerate(codes.matrix.tolist()) if item not in seen}
    live: list[tuple[int, ...]] = [()]
    for depth in range(1, codes.num_levels + 1):
        grown = {code[:depth] for code in allowed.values() if code[: depth - 1] in live}
        kept = max(width, first_width) if depth == 1 < codes.num_levels else width
        live = sorted(grown, key=lambda prefix: (-model.score(user, prefix), prefix))[:kept]
    return [
        (item, model.score(user, prefix)) for prefix in live for item, code in sorted(allowed.items()) if code == prefix
    ]


def random_codes(sizes: tuple[int, ...], *, items: int, seed: int) -> Codes:
    """Codes drawn with repeats, so that trees are ragged and items collide."""
    rng = np.random.default_rng(seed)
    matrix = np.stack([rng.integers(size, size=items) for size in sizes], axis=1).astype(np.int32)
    return Codes(matrix=matrix, codebook_sizes=sizes, num_semantic_levels=len(sizes))


def unique_codes(sizes: tuple[int, ...], *, items: int, seed: int) -> Codes:
    """Distinct codes in random order."""
    everything = np.array(list(itertools.product(*map(range, sizes))), np.int32)
    chosen = np.random.default_rng(seed).permutation(len(everything))[:items]
    return Codes(matrix=everything[chosen], codebook_sizes=sizes, num_semantic_levels=len(sizes))
