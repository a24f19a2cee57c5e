"""The policy in training: a generator whose log-probabilities of sampled codes carry gradients.

Shape legend: N rows, G samples of a row, C columns of codes of a sample.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sememe.core.errors import ConfigError
from sememe.decode.protocol import TensorBatch
from sememe.objectives.samples import LOG_PROBS
from sememe.train.plan import Objective

PROMPT = "prompt_"
"""Before the name of an array of the prompt, so that it stands beside the batch that is imitated."""
SAMPLES = "samples"
"""Array of the sampled codes, (N, G, C) int64."""


def sample_log_probs(model: Any, batch: TensorBatch, samples: Tensor) -> Tensor:
    """(N, G, C) log-probabilities of `samples`, as `align.protocol.Policy` says.

    A model that has no way of its own is taught by force, its histories once for every sample.

    Raises:
        ConfigError: the model does not write codes.
    """
    own = getattr(model, "sample_log_probs", None)
    if own is not None:
        found: Tensor = own(batch, samples)
        return found
    rows, group, columns = samples.shape
    repeated = {name: values.repeat_interleave(group, 0) for name, values in batch.items()}
    outputs = model({**repeated, "target_codes": samples.flatten(0, 1)})
    if "code_logits" not in outputs:
        raise ConfigError(
            f"{type(model).__name__} gives no probability of codes, only {', '.join(sorted(outputs))}",
            fix="align a generator of semantic IDs, or give the model a method sample_log_probs",
        )
    log_probs = outputs["code_logits"].float().log_softmax(-1)
    chosen: Tensor = log_probs.gather(-1, samples.flatten(0, 1).unsqueeze(-1)).view(rows, group, columns)
    return chosen


@torch.no_grad()
def log_probs_now(model: Any, batch: TensorBatch, samples: Tensor) -> Tensor:
    """`sample_log_probs` without gradients and without dropout; the model's mode stays as it was."""
    was_training = model.training
    model.eval()
    found = sample_log_probs(model, batch, samples)
    model.train(was_training)
    return found


class Learner(nn.Module):
    """A generator as the training loop sees it in alignment: one batch of samples and, beside it, one of the log.

    The log is imitated as it was in pre-training, with dropout.  Samples are judged without: the policy that is in
    training is then the very one that is drawn from, and the first ratio is 1.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The model's outputs for what is imitated, where there is such, and `LOG_PROBS` (N, G, C) of "samples", where
        there are any."""
        outputs: dict[str, Tensor] = {}
        if "history" in batch:
            outputs |= self.model(batch)
        if SAMPLES in batch:
            was_training = self.model.training
            self.model.eval()
            outputs[LOG_PROBS] = sample_log_probs(self.model, prompt_of(batch), batch[SAMPLES])
            self.model.train(was_training)
        return outputs


def prompt_of(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a batch of the loop says of its prompts, under their own names."""
    return {name.removeprefix(PROMPT): values for name, values in batch.items() if name.startswith(PROMPT)}


class Steering:
    """The objective of a step: imitation, alignment, or both, by what the batch holds."""

    def __init__(self, alignment: Objective, *, imitation: Objective | None = None, weight: float = 1.0) -> None:
        """weight: of the alignment, beside an imitation of weight 1."""
        self.alignment, self.imitation, self.weight = alignment, imitation, weight

    def __call__(self, outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """Scalar loss."""
        parts = []
        if self.imitation is not None:
            parts.append(self.imitation(outputs, batch))
        if LOG_PROBS in outputs:
            parts.append(self.weight * self.alignment(outputs, batch))
        assert parts, "a batch holds samples, or something to imitate"
        return torch.stack(parts).sum()
