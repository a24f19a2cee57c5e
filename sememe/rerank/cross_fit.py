"""What a blend is worth on requests that it was not fitted on, and the order that its network gives to candidates.

Shape legend: N rows, C candidates, F features.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sememe.core.schema import PAD, Ranked
from sememe.core.seeding import generator
from sememe.metrics.ranking import rank_metrics
from sememe.nn.select import rank_best
from sememe.rerank.blend_net import BlendNet, BlendTraining, JudgedCandidates

NEVER = float("-inf")
"""Score of what must not be listed."""


def cross_fit(
    training: BlendTraining,
    judged: JudgedCandidates,
    learned_from: JudgedCandidates,
    *,
    ordered: int,
    seed: int,
    scratch: Path,
) -> dict[str, float]:
    """Mean metrics at 10 of requests by a network fitted on the other half, and of the mixture that it starts from
    ("mixture_..."); none where a half has no answer.

    learned_from: the same requests to fit on, those that are asked twice in two rows.
    ordered: how many candidates of a request are ordered.
    """
    order = torch.from_numpy(generator(seed, "blend-halves").permutation(len(judged.targets)))
    halves, answered = order.chunk(2), judged.hits().any(1)
    if len(halves) < 2 or not all(bool(answered[half].any()) for half in halves):
        return {}
    values: dict[str, list[npt.NDArray[np.float64]]] = {}
    for number, (fitted_on, held_out) in enumerate((halves, halves[::-1])):
        half = learned_from.take(torch.isin(learned_from.requests, judged.requests[fitted_on]).nonzero()[:, 0])
        held = judged.take(held_out)
        nets = {
            "": training.run(half, seed=seed, scratch=scratch / f"half{number}"),
            "mixture_": training.start(half, seed=seed),
        }
        for prefix, net in nets.items():
            ranked = order_candidates(net, held.features, held.items, k=10, ordered=ordered)
            for name, per_row in rank_metrics(ranked, held.targets, ks=(10,)).items():
                values.setdefault(prefix + name, []).append(per_row)
    return {name: float(np.concatenate(parts).mean()) for name, parts in values.items()}


@torch.inference_mode()
def order_candidates(net: BlendNet, features: Tensor, items: Tensor, *, k: int, ordered: int) -> Ranked:
    """Candidates (N, C) with features (N, C, F) to lists; PAD candidates come last and score -inf.

    The first `ordered` candidates are ordered by `net`; the others keep their order after them.

    Raises:
        ArtifactError: a score is not a number.
    """
    net.eval()
    scores = net({"features": features[:, :ordered]})["scores"].masked_fill(items[:, :ordered] == PAD, NEVER)
    # NaN is refused here.
    best = rank_best(scores, k=min(k, scores.shape[1]))
    columns, values = best.columns, best.values
    last = values[:, -1:]
    tied = (scores == last).sum(1) - (values == last).sum(1)
    if k > ordered and items.shape[1] > ordered:
        rest = torch.arange(ordered, min(k, items.shape[1]))
        steps = torch.arange(1, len(rest) + 1, dtype=values.dtype)
        columns = torch.cat([columns, rest.expand(len(items), -1)], 1)
        further = (last - steps).masked_fill(items[:, rest] == PAD, NEVER)
        values = torch.cat([values, further], 1)
    return Ranked(
        items=items.gather(1, columns).numpy().astype(np.int32),
        scores=values.numpy(),
        source="blend",
        tied_beyond=torch.where(last.squeeze(1) == NEVER, 0, tied).numpy().astype(np.int64),
    )
