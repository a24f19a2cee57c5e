"""The network inside a blend, what it is trained on, and its training.

Shape legend: N requests, C candidates, F features, M targets.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sememe.core.schema import PAD, Batch, BoolArray, Int32Array
from sememe.core.seeding import generator
from sememe.train.loop import fit
from sememe.train.optim import AdamW, WarmupCosine
from sememe.train.plan import TrainPlan


class BlendNet(nn.Module):
    """score = linear(features) + network(features), features standardised."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: int, *, hidden: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        self.linear = nn.Linear(features, 1, bias=False)
        self.net = None
        if hidden:
            layers = (nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU())
            self.net = nn.Sequential(*layers, nn.Linear(hidden, 1, bias=False))

    @torch.no_grad()
    def start(self, random: np.random.Generator, *, from_feature: int | None) -> None:
        """Draw the weights anew: normal with a deviation of fan-in ** -0.5, biases zero; what comes out of the network
        begins at zero, so that the scores begin as those of one feature, or at zero."""
        for parameter in self.parameters():
            drawn = random.standard_normal(tuple(parameter.shape)) * parameter.shape[-1] ** -0.5
            parameter.copy_(torch.from_numpy(drawn) if parameter.ndim > 1 else torch.zeros_like(parameter))
        self.linear.weight.zero_()
        if from_feature is not None:
            self.linear.weight[0, from_feature] = self.deviation[from_feature]
        if self.net is not None:
            last = cast(nn.Linear, self.net[-1])
            last.weight.zero_()

    def standardize(self, features: Tensor) -> None:
        """Take mean and deviation over all requests and candidates of (N, C, F)."""
        flat = features.flatten(0, 1)
        self.mean.copy_(flat.mean(0))
        # A feature that never changes says nothing; dividing by its deviation would blow up rounding.
        self.deviation.copy_(flat.std(0, correction=0).clamp(min=1e-4))

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """batch["features"]: (N, C, F).  Returns "scores" (N, C)."""
        scaled = (batch["features"] - self.mean) / self.deviation
        scores = self.linear(scaled)
        if self.net is not None:
            scores = scores + self.net(scaled)
        return {"scores": scores.squeeze(2)}


@dataclass(frozen=True, eq=False)
class JudgedCandidates:
    """Candidates of requests whose answers are known."""

    items: Tensor
    """(N, C) int64."""
    features: Tensor
    """(N, C, F) float32."""
    targets: Int32Array
    """(N, M), PAD-filled."""
    requests: Tensor
    """(N,) int64: which request each row answers."""

    def take(self, rows: Tensor) -> "JudgedCandidates":
        """The requests at `rows` (n,) int64."""
        return JudgedCandidates(self.items[rows], self.features[rows], self.targets[rows.numpy()], self.requests[rows])

    def joined(self, other: "JudgedCandidates | None") -> "JudgedCandidates":
        """These rows and then those of `other`, of the same number of candidates and targets."""
        if other is None:
            return self
        return JudgedCandidates(
            items=torch.cat([self.items, other.items]),
            features=torch.cat([self.features, other.features]),
            targets=np.concatenate([self.targets, other.targets]),
            requests=torch.cat([self.requests, other.requests]),
        )

    def without(self, left_out: BoolArray) -> "JudgedCandidates":
        """The same rows, with PAD in place of the candidates for which `left_out` (I,) is true."""
        gone = torch.from_numpy(left_out)[self.items.clamp(min=0)]
        return replace(self, items=self.items.masked_fill(gone, PAD))

    def hits(self) -> Tensor:
        """(N, C) bool: which candidates are targets."""
        wanted = torch.from_numpy(self.targets).long()
        # A PAD candidate is no item, even where a row has PAD among its targets.
        return (self.items.unsqueeze(2) == wanted.unsqueeze(1)).any(2) & self.is_item()

    def is_item(self) -> Tensor:
        """(N, C) bool: which candidates are none of the padding."""
        return self.items != PAD


@dataclass(frozen=True, eq=False)
class _Batches:
    """Random access to shuffled requests: a pure function of the step, as every source of the loop."""

    features: Tensor
    hits: Tensor
    is_item: Tensor
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.features) // self.batch_size)

    def __call__(self, step: int, /) -> Batch:
        epoch, place = divmod(step, self.steps_per_epoch)
        order = generator(self.seed, "blend-batches", epoch).permutation(len(self.features))
        rows = torch.from_numpy(order[place * self.batch_size : (place + 1) * self.batch_size])
        parts = {"features": self.features, "hits": self.hits, "is_item": self.is_item}
        return {name: part[rows].numpy() for name, part in parts.items()}


def listwise_softmax(outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
    """Mean over all hits of -log softmax over the row's items; "scores" (N, C), "hits" and "is_item" (N, C) bool."""
    scores = outputs["scores"].masked_fill(~batch["is_item"], float("-inf"))
    return -F.log_softmax(scores, dim=1)[batch["hits"]].mean()


@dataclass(frozen=True)
class BlendTraining:
    """How a BlendNet is trained."""

    hidden: int
    epochs: int
    lr: float
    batch_size: int
    starts_from: int | None = None
    """The feature whose order the network begins with."""

    def start(self, judged: JudgedCandidates, *, seed: int) -> BlendNet:
        """The network as it is before the first step, with the mean and the deviation of what it is to be fitted on."""
        net = BlendNet(judged.features.shape[2], hidden=self.hidden)
        net.standardize(judged.features)
        net.start(generator(seed, "blend"), from_feature=self.starts_from)
        return net

    def run(self, judged: JudgedCandidates, *, seed: int, scratch: Path) -> BlendNet:
        """A network fitted to the requests whose candidates hold a target, as it starts where none does; `scratch` lets
        a killed fit go on."""
        hits = judged.hits()
        rows = hits.any(1).nonzero().squeeze(1)
        net = self.start(judged, seed=seed)
        if len(rows) == 0:
            return net.eval()
        plan = TrainPlan(
            epochs=self.epochs,
            optimizer=AdamW(lr=self.lr, weight_decay=0.01),
            schedule=WarmupCosine(),
            device="cpu",
            precision="fp32",
            log_every=1_000_000,
        )
        source = _Batches(
            judged.features[rows], hits[rows], judged.is_item()[rows], batch_size=self.batch_size, seed=seed
        )
        fit(net, source, listwise_softmax, plan, out=scratch, seed=seed, report=_silent)
        return net.eval()


def _silent(line: str) -> None:
    del line  # seconds of work, inside a stage that says so itself
