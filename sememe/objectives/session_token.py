"""Cross-entropy of the codes of a whole session, as in OneRec version 1 (2025, arXiv 2502.18965).

Kept: the sum runs over the codes of all items of the session, each given those before it.  Changed: it is a mean over
items and levels, as `NextToken` has it, so that sessions of few items and of many mean one learning rate.

Shape legend: N rows, m items of a session, L code levels, K codes of the largest level.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from sememe.core.schema import PAD
from sememe.objectives.next_token import NextToken


@dataclass(frozen=True)
class SessionToken:
    """Mean over the items that are there, and levels, of -log p(code); scalar, in nats, float32."""

    item: NextToken = NextToken()

    def __call__(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """outputs["code_logits"]: (N, m, L, K); batch["target_codes"]: (N, m, L), PAD where an item is missing."""
        logits, targets = outputs["code_logits"], batch["target_codes"]
        there = targets[:, :, 0] != PAD
        return self.item({"code_logits": logits[there]}, {"target_codes": targets[there]})
