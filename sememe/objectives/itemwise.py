"""The loss of the item-wise generator: the codes of the next item, and the item itself among candidates.

Shape legend: P positions with a target, L levels, C candidates.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from sememe.core.errors import ConfigError


@dataclass(frozen=True)
class ItemWiseLoss:
    """code_weight * -log p(codes) + item_weight * -log p(item), means over positions; scalar, in nats, float32."""

    code_weight: float = 1.0
    item_weight: float = 1.0
    label_smoothing: float = 0.0
    """Of the item part: share of the target spread evenly over the candidates, 0 <= share < 1."""

    def __call__(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """The loss of one batch.

        outputs: "code_log_probs" (P, L), "item_logits" (P, C), "places" (P,) the target's place among the candidates.
        batch: "candidate_log_prob" (C,), the log-probability that an item became a candidate.
        """
        self._check()
        codes = -outputs["code_log_probs"].float().sum(1).mean()
        if self.item_weight == 0:
            return self.code_weight * codes
        logits, places = outputs["item_logits"].float(), outputs["places"]
        # The target is among the candidates for certain, whatever was drawn: its own logit is not corrected.
        corrected = logits - batch["candidate_log_prob"]
        own = logits.gather(1, places.unsqueeze(1))
        corrected = corrected.scatter(1, places.unsqueeze(1), own)
        items = F.cross_entropy(corrected, places, label_smoothing=self.label_smoothing)
        return self.code_weight * codes + self.item_weight * items

    def _check(self) -> None:
        if min(self.code_weight, self.item_weight) < 0 or self.code_weight + self.item_weight == 0:
            raise ConfigError(
                f"code_weight is {self.code_weight} and item_weight {self.item_weight}",
                fix="give weights of at least 0, not both 0",
            )
        if self.label_smoothing and self.item_weight == 0:
            raise ConfigError(
                f"label_smoothing is {self.label_smoothing}, but item_weight is 0, and codes are not smoothed",
                fix="set label_smoothing=0, or an item_weight above 0",
            )
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ConfigError(
                f"label_smoothing is {self.label_smoothing}, and must be at least 0 and below 1",
                fix="choose a share such as 0.1, or 0 to switch it off",
            )
