"""From rewards of a group to what the objectives read: advantages, and the format reward by random choice.

Shape legend: N rows, G samples of a row, C columns of codes of a sample.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sememe.align.protocol import Groups
from sememe.core.errors import ConfigError
from sememe.core.schema import FloatArray
from sememe.objectives.advantages import group_advantages


@dataclass(frozen=True, eq=False)
class Scored:
    """Samples with what the objectives read of them."""

    codes: Tensor
    """(N, G, C) int64"""
    arrays: Mapping[str, npt.NDArray[np.generic]]
    """"rewards", "advantages" float32 and "counted" bool, (N, G) each."""


@dataclass(frozen=True)
class GroupScores:
    """Whole groups, each sample against the mean of its group; samples that name no item are dropped.

    The format reward is that of the OneRec Technical Report (arXiv 2506.13695): of a group drawn without the trie,
    `format_choices` samples are chosen at random, and the legal ones among them get an advantage of 1.  Chosen at
    random, since the most probable legal ones would pull everything to a few easy prefixes.  Changed: it is added to
    the advantage that the reward gives, with a weight, where the report leaves open how the two meet.
    """

    scale: bool = True
    """Divide by the standard deviation of the group."""
    format_choices: int = 0
    """0: no format reward."""
    format_weight: float = 1.0

    def score(self, groups: Groups, rewards: FloatArray, *, seed: int) -> Scored:
        """rewards (N, G); advantages sum to 0 in every group, but for the format reward."""
        counted = groups.legal.cpu()
        advantages = group_advantages(torch.from_numpy(rewards), counted=counted, scale=self.scale)
        if self.format_choices:
            chosen = format_choice(groups.drawn.cpu(), choices=self.format_choices, seed=seed)
            advantages = advantages + self.format_weight * (chosen & counted)
        arrays = {"rewards": rewards, "advantages": advantages.numpy(), "counted": counted.numpy()}
        return Scored(codes=groups.codes, arrays=arrays)


def format_choice(drawn: Tensor, *, choices: int, seed: int) -> Tensor:
    """(N, G) bool: `choices` of the samples of each row that were `drawn` (N, G), at random; all where there are fewer.

    Raises:
        ConfigError: fewer than 0, or more than a group has.
    """
    if not 0 <= choices <= drawn.shape[1]:
        raise ConfigError(
            f"format_choices is {choices}, and a group has {drawn.shape[1]} samples", fix="choose 5 of 16, say"
        )
    noise = torch.rand(drawn.shape, generator=torch.Generator().manual_seed(seed % 2**63))
    rank = noise.masked_fill(~drawn, 2.0).argsort(1).argsort(1)
    return (rank < choices) & drawn
