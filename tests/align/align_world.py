"""A small catalogue with codes, a generator of each kind on it, and prompts, for the tests of this folder."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from sememe.align.protocol import Groups
from sememe.core.schema import ModelInputs
from sememe.data.simulator import PlantedWorld
from sememe.decode.trie import Trie
from sememe.models.depth import Depth
from sememe.models.encdec import EncDec, EncDecModel
from sememe.models.itemwise import ItemWise, ItemWiseModel
from sememe.nn.trunk import Trunk

WORLD = PlantedWorld(branching=(3, 3), items_per_leaf=3, num_users=60, events_per_user=(3, 9)).generate(seed=0)
LOG = WORLD.interactions
CODES = replace(WORLD.codes(), codebook_sizes=(4, 4, 4))
"""Of four codes a level, no item has the last: freely written, an ID may name none."""
TRIE = Trie.build(CODES)
INPUTS = ModelInputs(LOG.num_users, LOG.num_items, CODES, WORLD.catalog.vectors)


def itemwise(*, dropout: float = 0.0, seed: int = 1) -> ItemWiseModel:
    trunk = Trunk(layers=1, d_model=16, heads=2, ff=32, dropout=dropout, max_history=8)
    return ItemWise(trunk=trunk, depth=Depth(hidden=16, dropout=dropout)).build(INPUTS, seed=seed).eval()


def encdec(*, dropout: float = 0.0) -> EncDecModel:
    part = EncDec(layers=1, d_model=16, heads=2, head_dim=8, ff=32, user_buckets=7, dropout=dropout)
    return part.build(INPUTS, seed=1).eval()


def prompts(rows: int = 5) -> dict[str, Tensor]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 7, rows)
    history = np.full((rows, 6), -1)
    for row, length in enumerate(lengths):
        history[row, :length] = rng.integers(0, LOG.num_items, length)
    return {
        "history": torch.from_numpy(history),
        "lengths": torch.from_numpy(lengths),
        "user": torch.from_numpy(rng.integers(0, LOG.num_users, rows)),
    }


def of_items(items: list[list[int]]) -> Groups:
    """Groups of one item each, -1 where nothing was drawn, with the item's number as its code."""
    table = torch.tensor(items)
    return Groups(items=table.unsqueeze(2), codes=table.clamp(min=0).unsqueeze(2), drawn=table >= 0)
