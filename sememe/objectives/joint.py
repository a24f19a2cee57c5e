"""Imitation and alignment at once: the loss of the log kept beside the one that pulls away from it.

OneRec (2502.18965) trains on next-item loss + lambda * DPO, its Technical Report (2506.13695) keeps the supervised loss
beside ECPO.  Both read one model's outputs and one batch.  Neither states lambda.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from sememe.core.errors import ConfigError
from sememe.train.plan import Objective


@dataclass(frozen=True)
class Joint:
    """imitation + weight * alignment; scalar, float32."""

    imitation: Objective
    """`NextToken` or `ItemWiseLoss`, on the rows that come from the log."""
    alignment: Objective
    """`DPO`, `GRPO`, `ECPO`, `GBPO` or `RewardWeighted`, on the sampled tuples."""
    weight: float = 1.0

    def __call__(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """The loss of one batch; both parts find their own keys in `outputs` and `batch`."""
        if self.weight < 0:
            raise ConfigError(f"weight is {self.weight}", fix="give a weight of at least 0")
        return self.imitation(outputs, batch) + self.weight * self.alignment(outputs, batch)
