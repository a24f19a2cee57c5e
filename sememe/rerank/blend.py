"""The last word: a small network that weighs what the model, co-occurrence and content say of each candidate.

Stacking (Wolpert, "Stacked Generalization", 1992) with a listwise softmax (Cao et al., "Learning to Rank: From Pairwise
to Listwise Approach", ICML 2007).  It is fitted on validation requests, which the model was not trained on: on training
requests the model knows the answers, and would be trusted too much.  About two thousand weights learn there; what they
are worth on requests that they have not seen is estimated by fitting on one half and judging on the other.

Popularity is no feature: in data filtered to items with at least k events, a low count in the training part gives away
that the rest of them are held out.

Shape legend: N rows, C candidates, I items, F features, S seen items.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sememe.core.errors import ArtifactError, ConfigError
from sememe.core.schema import PAD, Batch, Int32Array, Ranked
from sememe.core.seeding import generator
from sememe.metrics.ranking import mask_items, rank_metrics
from sememe.rerank.blend_net import BlendNet, BlendTraining, JudgedCandidates
from sememe.rerank.signals import Evidence, FittedSignal, Signal

NEVER = float("-inf")
"""Score of what must not be listed."""
MODEL_FEATURES = ("item_log_prob", "code_log_prob", "log_mixture", "read")
"""What the model says, what chose the candidate, and whether the history holds it."""

TensorBatch = Mapping[str, Tensor]


class Generator(Protocol):
    """A model that scores items and the codes of items, as `ItemWiseModel` does."""

    def score_items(self, batch: TensorBatch) -> Tensor: ...
    def code_log_prob(self, batch: TensorBatch, items: Tensor) -> Tensor: ...


class Request(Protocol):
    """Requests whose answers are known."""

    batch: Batch
    seen: Int32Array
    targets: Int32Array


@dataclass(frozen=True)
class Blend:
    """Choose candidates by a fixed mixture of the item head and the first signal; order them by what was learned."""

    signals: tuple[Signal, ...] = ()
    candidates: int = 200
    max_requests: int = 30_000
    """At most so many validation requests are used, drawn by the seed."""
    signal_share: float = 0.3
    """Weight of the first signal's share in the mixture that chooses candidates; the item head has the rest."""
    hidden: int = 32
    """Width of the network beside the linear part; 0 leaves the linear part alone."""
    epochs: int = 12
    lr: float = 3e-3
    batch_size: int = 128
    """Requests per step."""

    def fit(
        self,
        model: Generator,
        requests: Iterable[Request],
        *,
        evidence: Evidence,
        device: torch.device,
        seed: int,
        scratch: Path,
    ) -> "FittedBlend":
        """Fit on `requests`; `scratch` keeps what an interrupted fit needs to go on.

        Raises:
            ConfigError: there is no signal, or a setting is out of range.
        """
        self._check()
        signals = tuple(signal.fit(evidence) for signal in self.signals)
        untrained = FittedBlend(config=self, signals=signals, net=BlendNet(_num_features(signals), hidden=self.hidden))
        judged = judge_candidates(untrained, model, requests, device=device)
        estimate = cross_fit(self, judged, seed=seed, scratch=scratch)
        net = self.training().run(judged, seed=seed, scratch=scratch / "all")
        return FittedBlend(config=self, signals=signals, net=net, estimate=estimate)

    def load(self, state: Mapping[str, npt.NDArray[np.generic]], *, evidence: Evidence) -> "FittedBlend":
        """The fitted blend whose `state()` this is."""
        signals = []
        for number, signal in enumerate(self.signals):
            prefix = f"signal{number}."
            own = {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}
            signals.append(signal.load(own, evidence))
        net = BlendNet(_num_features(signals), hidden=self.hidden)
        weights = {name: torch.from_numpy(array) for name, array in state.items() if name.startswith("net.")}
        net.load_state_dict({name.removeprefix("net."): tensor for name, tensor in weights.items()})
        return FittedBlend(config=self, signals=tuple(signals), net=net.eval())

    def _check(self) -> None:
        if not self.signals:
            raise ConfigError("Blend has no signal", fix="give it at least one, such as CoOccurrence(ItemKnn())")
        for name in ("candidates", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} of Blend is {getattr(self, name)}, below 1", fix=f"set {name} higher")
        if self.hidden < 0 or not 0.0 <= self.signal_share <= 1.0:
            raise ConfigError(
                f"Blend has hidden={self.hidden} and signal_share={self.signal_share}",
                fix="give hidden >= 0 and a share in 0..1",
            )

    def training(self) -> BlendTraining:
        """How the network is trained."""
        return BlendTraining(hidden=self.hidden, epochs=self.epochs, lr=self.lr, batch_size=self.batch_size)


@dataclass(frozen=True, eq=False)
class FittedBlend:
    """Signals and the network that weighs them."""

    config: Blend
    signals: tuple[FittedSignal, ...]
    net: BlendNet
    estimate: Mapping[str, float] = field(default_factory=dict)
    """Cross-fitted validation metrics, after `Blend.fit`; empty where there were too few requests to tell."""

    def recommend(
        self, model: Generator, batch: Batch, tensors: TensorBatch, *, k: int, seen: Int32Array | None
    ) -> Ranked:
        """The k best of `candidates` candidates, of k where that is more; items of `seen` (N, S) are left out."""
        items, features = self.candidates(model, batch, tensors, seen=seen, count=max(k, self.config.candidates))
        return order_candidates(self.net, features, items, k=k)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the features, a signal's after its number; without those that are multiplied by the history's length."""
        said = [f"{number}.{name}" for number, signal in enumerate(self.signals) for name in signal.names]
        return (*MODEL_FEATURES, *said)

    @torch.inference_mode()
    def candidates(
        self, model: Generator, batch: Batch, tensors: TensorBatch, *, seen: Int32Array | None, count: int
    ) -> tuple[Tensor, Tensor]:
        """Items (N, C), PAD where a row has fewer, and features (N, C, F), both on the CPU."""
        item_log_prob = model.score_items(tensors).log_softmax(1).cpu()
        said = [torch.from_numpy(np.ascontiguousarray(f)) for signal in self.signals for f in signal.features(batch)]
        share = self.config.signal_share
        mixture = (1.0 - share) * item_log_prob.exp() + share * said[0]
        if seen is not None:
            mixture = torch.from_numpy(mask_items(mixture.numpy(), seen))
        best = mixture.topk(min(count, mixture.shape[1]), dim=1)
        columns = best.indices
        device = next(iter(tensors.values())).device
        code_log_prob = model.code_log_prob(tensors, columns.to(device)).cpu()
        history = torch.from_numpy(np.ascontiguousarray(batch["history"])).long()
        read = (columns.unsqueeze(2) == history.unsqueeze(1)).any(2).float()
        plain = [item_log_prob.gather(1, columns), code_log_prob, best.values.clamp(min=1e-9).log(), read]
        features = torch.stack([*plain, *(feature.gather(1, columns) for feature in said)], 2)
        # What a signal is worth depends on how much history there is to go by.
        length = torch.from_numpy(np.asarray(batch["lengths"], np.float32)).clamp(min=1).log()
        features = torch.cat([features, features * length[:, None, None]], 2)
        return columns.masked_fill(best.values == NEVER, PAD), features

    def state(self) -> dict[str, npt.NDArray[np.generic]]:
        """Arrays from which `Blend.load` rebuilds this."""
        state: dict[str, npt.NDArray[np.generic]] = {
            f"net.{name}": tensor.detach().cpu().numpy() for name, tensor in self.net.state_dict().items()
        }
        for number, signal in enumerate(self.signals):
            state |= {f"signal{number}.{name}": array for name, array in signal.state().items()}
        return state


def _num_features(signals: Iterable[FittedSignal]) -> int:
    """Those of the model, the signals' own, and each of them once more times the log of the history's length."""
    return 2 * (len(MODEL_FEATURES) + sum(len(signal.names) for signal in signals))


def judge_candidates(
    blend: FittedBlend, model: Generator, requests: Iterable[Request], *, device: torch.device
) -> JudgedCandidates:
    """The candidates of `requests`, chosen as for a recommendation, with their features and the right answers."""
    items, features, targets = [], [], []
    for request in requests:
        tensors = {
            name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in request.batch.items()
        }
        found, said = blend.candidates(model, request.batch, tensors, seen=None, count=blend.config.candidates)
        items.append(found)
        features.append(said)
        targets.append(request.targets)
    width = max(target.shape[1] for target in targets)
    padded = [np.pad(t, ((0, 0), (0, width - t.shape[1])), constant_values=PAD) for t in targets]
    return JudgedCandidates(items=torch.cat(items), features=torch.cat(features), targets=np.concatenate(padded))


def cross_fit(blend: Blend, judged: JudgedCandidates, *, seed: int, scratch: Path) -> dict[str, float]:
    """Mean metrics at 10 of requests by a network fitted on the other half; none where a half has no answer."""
    order = torch.from_numpy(generator(seed, "blend-halves").permutation(len(judged.targets)))
    halves, answered = order.chunk(2), judged.hits().any(1)
    if len(halves) < 2 or not all(bool(answered[half].any()) for half in halves):
        # Where no request has its answer at all, the fit on all of them says so.
        return {}
    values: dict[str, list[npt.NDArray[np.float64]]] = {}
    for number, (fitted_on, held_out) in enumerate((halves, halves[::-1])):
        net = blend.training().run(judged.take(fitted_on), seed=seed, scratch=scratch / f"half{number}")
        held = judged.take(held_out)
        ranked = order_candidates(net, held.features, held.items, k=10)
        for name, per_row in rank_metrics(ranked, held.targets, ks=(10,)).items():
            values.setdefault(name, []).append(per_row)
    return {name: float(np.concatenate(parts).mean()) for name, parts in values.items()}


@torch.inference_mode()
def order_candidates(net: BlendNet, features: Tensor, items: Tensor, *, k: int) -> Ranked:
    """Candidates (N, C) with features (N, C, F) to lists; PAD candidates come last and score -inf.

    Raises:
        ArtifactError: a score is not a number.
    """
    net.eval()
    scores = net({"features": features})["scores"].masked_fill(items == PAD, NEVER)
    if bool(torch.isnan(scores).any()):
        raise ArtifactError(
            "the model gave a score that is not a number, so nothing can be ranked",
            fix="its weights are not finite: go back to an earlier checkpoint, or train with a lower learning rate",
        )
    best = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    return Ranked(
        items=items.gather(1, best).numpy().astype(np.int32), scores=scores.gather(1, best).numpy(), source="blend"
    )
