"""The last word: a small network that weighs what the model, co-occurrence and content say of each candidate.

Stacking (Wolpert, "Stacked Generalization", 1992) with a listwise softmax (Cao et al., "Learning to Rank: From Pairwise
to Listwise Approach", ICML 2007).  It is fitted on validation requests, which the model was not trained on: on training
requests the model knows the answers, and would be trusted too much.  About two thousand weights learn there; what they
are worth on requests that they have not seen is estimated by fitting on one half and judging on the other.  The network
starts as the mixture that chose the candidates, and where it is not estimated to beat that, the mixture stays.

Popularity is no feature: in data filtered to items with at least k events, a low count in the training part gives away
that the rest of them are held out.  Nor would a network that knows only items of old ever list a new one: whatever was
met with nothing was never the answer.  So some requests are asked twice, the second time with a share of the items made
new: no event of them is counted, and the model goes by their codes and content.  (Optimistic: codes and the content
that a model projects were made with the log, and stay.)  Items that are new by nature are left out of the fit: in such
data they are there because their events were held out.

Shape legend: N rows, C candidates, I items, F features, S seen items.
"""

import logging
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD, Batch, BoolArray, Int32Array, Ranked
from sememe.core.seeding import generator
from sememe.metrics.ranking import mask_items
from sememe.nn.select import rank_best
from sememe.rerank.blend_net import BlendNet, BlendTraining, JudgedCandidates
from sememe.rerank.cross_fit import NEVER, cross_fit, order_candidates
from sememe.rerank.signals import Evidence, FittedSignal, Signal

MODEL_FEATURES = ("item_log_prob", "code_log_prob", "log_mixture", "read", "new")
"""What the model says, what chose the candidate, whether the history holds it, and whether training never did."""
MIXTURE = MODEL_FEATURES.index("log_mixture")
NEW_SHARE = 0.2
"""Share of the items that are made new for the requests that are asked twice,"""
MOST_NEW = 8192
"""but at most so many: filling their vectors takes a product with the whole catalogue."""
CHUNK_SCORES = 40_000_000
"""Scores of all signals for the whole catalogue held at once, 160 MB."""

TensorBatch = Mapping[str, Tensor]

_log = logging.getLogger(__name__)


class Generator(Protocol):
    """A model that scores items and the codes of items, as `ItemWiseModel` does."""

    def score_items(self, batch: TensorBatch) -> Tensor: ...
    def code_log_prob(self, batch: TensorBatch, items: Tensor) -> Tensor: ...
    def as_new(self, items: Tensor) -> AbstractContextManager[None]:
        """Within, the model has nothing of their own for the items of (I,) bool, as for items that it never met."""


class Request(Protocol):
    """Requests whose answers are known."""

    @property
    def batch(self) -> Batch: ...
    @property
    def targets(self) -> Int32Array:
        """(N, M), PAD-filled."""


@dataclass(frozen=True)
class Blend:
    """Choose candidates by a fixed mixture of the item head and the first signal; order them by what was learned."""

    signals: tuple[Signal, ...] = ()
    candidates: int = 200
    max_requests: int = 30_000
    """At most so many validation requests are used, drawn by the seed."""
    signal_share: float = 0.3
    """Weight of the first signal's share in the mixture that chooses candidates; the item head has the rest."""
    rehearse_every: int = 4
    """One request in so many is asked once more with some items made new; 0 for a catalogue that never grows."""
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
        self.check(parts=len(evidence.vector_widths))
        untrained = self._untrained(evidence)
        requests = list(requests)
        judged = judge_candidates(untrained, model, requests, device=device)
        rehearsed = self._rehearse(model, requests, evidence=evidence, device=device, seed=seed)
        # What training never met is there because it was held out: nothing is to be learned from its being the answer.
        learned_from = judged.joined(rehearsed).without(~untrained.known)
        estimate = cross_fit(self.training(), judged, learned_from, ordered=self.candidates, seed=seed, scratch=scratch)
        net = self.training().run(learned_from, seed=seed, scratch=scratch / "all")
        if not estimate:
            _log.warning(
                "too few requests have their answer among the candidates to judge the network: the mixture stays"
            )
        elif estimate["ndcg@10"] <= estimate["mixture_ndcg@10"]:
            _log.warning("the network is not estimated to beat the mixture that it starts from: the mixture stays")
        learned = bool(estimate) and estimate["ndcg@10"] > estimate["mixture_ndcg@10"]
        if not learned:
            net = self.training().start(judged, seed=seed).eval()
            of_mixture = {name: value for name, value in estimate.items() if name.startswith("mixture_")}
            estimate |= {name.removeprefix("mixture_"): value for name, value in of_mixture.items()}
        return replace(untrained, net=net, learned=learned, estimate=estimate)

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
        return FittedBlend(
            config=self,
            signals=tuple(signals),
            known=evidence.known_items(),
            net=net.eval(),
            learned=bool(state["learned"]),
        )

    def check(self, *, parts: int) -> None:
        """Refuse settings that cannot be, where the item vectors of the recipe have so many `parts`.

        Raises:
            ConfigError: names the setting.
        """
        if not self.signals:
            raise ConfigError("Blend has no signal", fix="give it at least one, such as CoOccurrence(ItemKnn())")
        for name in ("candidates", "max_requests", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} of Blend is {getattr(self, name)}, below 1", fix=f"set {name} higher")
        if self.lr <= 0:
            raise ConfigError(f"lr of Blend is {self.lr}, not above 0", fix="set lr to 0.003, say")
        if min(self.hidden, self.rehearse_every) < 0 or not 0.0 <= self.signal_share <= 1.0:
            raise ConfigError(
                f"Blend has hidden={self.hidden}, rehearse_every={self.rehearse_every} and "
                f"signal_share={self.signal_share}",
                fix="give hidden and rehearse_every >= 0, and a share in 0..1",
            )
        for signal in self.signals:
            signal.check(parts=parts)

    def check_model(self, model: object) -> None:
        """Refuse a model that does not say what the features are made of.

        Raises:
            ConfigError: names what it lacks.
        """
        missing = [name for name in ("score_items", "code_log_prob", "as_new") if not hasattr(model, name)]
        if missing:
            raise ConfigError(
                f"Blend asks a model for {' and '.join(missing)}, and {type(model).__name__} has none",
                fix="use it with ItemWise, or leave rerank out",
            )

    def describe(self) -> str:
        """How lists come about, in a line."""
        first = type(self.signals[0]).__name__ if self.signals else "nothing"
        return (
            f"{self.candidates} candidates by item head and {first}, ordered by a network over both heads and "
            f"{len(self.signals)} signals"
        )

    def training(self) -> BlendTraining:
        """How the network is trained."""
        return BlendTraining(
            hidden=self.hidden, epochs=self.epochs, lr=self.lr, batch_size=self.batch_size, starts_from=MIXTURE
        )

    def _untrained(self, evidence: Evidence) -> "FittedBlend":
        signals = tuple(signal.fit(evidence) for signal in self.signals)
        net = BlendNet(_num_features(signals), hidden=self.hidden)
        return FittedBlend(config=self, signals=signals, known=evidence.known_items(), net=net)

    def _rehearse(
        self, model: Generator, requests: list[Request], *, evidence: Evidence, device: torch.device, seed: int
    ) -> JudgedCandidates | None:
        """Some of the requests, judged as if some items were new."""
        known = np.flatnonzero(evidence.known_items())
        count = min(round(NEW_SHARE * len(known)), MOST_NEW)
        if not self.rehearse_every or not count:
            return None
        new = np.sort(generator(seed, "blend-new").permutation(known)[:count]).astype(np.int32)
        mask = torch.zeros(evidence.train.num_items, dtype=torch.bool)
        mask[torch.from_numpy(new).long()] = True
        with model.as_new(mask.to(device)):
            judged = judge_candidates(
                self._untrained(evidence.without(new)), model, requests, device=device, every=self.rehearse_every
            )
        return judged


@dataclass(frozen=True, eq=False)
class FittedBlend:
    """Signals and the network that weighs them."""

    config: Blend
    signals: tuple[FittedSignal, ...]
    known: BoolArray
    """(I,) whether the training part holds the item."""
    net: BlendNet
    learned: bool = True
    """Whether the network orders the candidates; if not, it is as it started, and the mixture's order stays."""
    estimate: Mapping[str, float] = field(default_factory=dict)
    """Cross-fitted validation metrics, after `Blend.fit`, and those of the mixture alone ("mixture_..."); empty where
    there were too few requests to tell."""

    def describe(self) -> str:
        """How lists come about, in a line."""
        if self.learned:
            return self.config.describe()
        return f"{self.config.candidates} candidates in the order of the mixture that chose them: no network beat it"

    def recommend(
        self,
        model: Generator,
        batch: Batch,
        tensors: TensorBatch,
        *,
        k: int,
        seen: Int32Array | None,
        offered: Tensor | None = None,
    ) -> Ranked:
        """The k best of `candidates` candidates; items of `seen` (N, S), and those for which `offered` (I,) is false,
        are left out.

        A longer list than that goes on with further candidates in the order of the mixture, so that what a list begins
        with does not depend on how long it is.
        """
        count = max(k, self.config.candidates)
        items, features = self.candidates(model, batch, tensors, seen=seen, count=count, offered=offered)
        return order_candidates(self.net, features, items, k=k, ordered=self.config.candidates)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the features, a signal's after its number; without those that are multiplied by the history's length."""
        said = [f"{number}.{name}" for number, signal in enumerate(self.signals) for name in signal.names]
        return (*MODEL_FEATURES, *said)

    @torch.inference_mode()
    def candidates(
        self,
        model: Generator,
        batch: Batch,
        tensors: TensorBatch,
        *,
        seen: Int32Array | None,
        count: int,
        offered: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Items (N, C), PAD where a row has fewer, and features (N, C, F), both on the CPU."""
        rows = max(1, CHUNK_SCORES // (_num_features(self.signals) // 2 * len(self.known)))
        parts = []
        # No request at all is one empty chunk.
        for start in range(0, max(1, len(batch["lengths"])), rows):
            chunk = slice(start, start + rows)
            parts.append(
                self._candidates(
                    model,
                    {name: array[chunk] for name, array in batch.items()},
                    {name: tensor[chunk] for name, tensor in tensors.items()},
                    seen=None if seen is None else seen[chunk],
                    count=count,
                    offered=offered,
                )
            )
        return torch.cat([items for items, _ in parts]), torch.cat([features for _, features in parts])

    def _candidates(
        self,
        model: Generator,
        batch: Batch,
        tensors: TensorBatch,
        *,
        seen: Int32Array | None,
        count: int,
        offered: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        item_log_prob = model.score_items(tensors).log_softmax(1).cpu()
        said = [torch.from_numpy(np.ascontiguousarray(f)) for signal in self.signals for f in signal.features(batch)]
        share = self.config.signal_share
        mixture = (1.0 - share) * item_log_prob.exp() + share * said[0]
        if seen is not None:
            mixture = torch.from_numpy(mask_items(mixture.numpy(), seen))
        if offered is not None:
            mixture = mixture.masked_fill(~offered, NEVER)
        best = rank_best(mixture, k=min(count, mixture.shape[1]))
        columns = best.columns
        device = next(iter(tensors.values())).device
        code_log_prob = model.code_log_prob(tensors, columns.to(device)).cpu()
        history = torch.from_numpy(np.ascontiguousarray(batch["history"])).long()
        read = (columns.unsqueeze(2) == history.unsqueeze(1)).any(2).float()
        new = torch.from_numpy(~self.known)[columns].float()
        plain = [item_log_prob.gather(1, columns), code_log_prob, best.values.clamp(min=1e-9).log(), read, new]
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
        state["learned"] = np.array(self.learned)
        for number, signal in enumerate(self.signals):
            state |= {f"signal{number}.{name}": array for name, array in signal.state().items()}
        return state


def _num_features(signals: Iterable[FittedSignal]) -> int:
    """Those of the model, the signals' own, and each of them once more times the log of the history's length."""
    return 2 * (len(MODEL_FEATURES) + sum(len(signal.names) for signal in signals))


def judge_candidates(
    blend: FittedBlend, model: Generator, requests: Iterable[Request], *, device: torch.device, every: int = 1
) -> JudgedCandidates:
    """The candidates of every `every`-th of `requests`, chosen as for a recommendation, with features and answers."""
    items, features, targets, numbers = [], [], [], []
    before = width = 0
    for request in requests:
        size = len(request.batch["lengths"])
        # Also of requests that are left out here: rows of all requests are to fit below each other.
        width = max(width, request.targets.shape[1])
        rows = np.arange(-before % every, size, every)
        numbers.append(before + rows)
        before += size
        if not len(rows):
            continue
        batch = {name: array[rows] for name, array in request.batch.items()}
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in batch.items()}
        found, said = blend.candidates(model, batch, tensors, seen=None, count=blend.config.candidates)
        items.append(found)
        features.append(said)
        targets.append(request.targets[rows])
    padded = [np.pad(t, ((0, 0), (0, width - t.shape[1])), constant_values=PAD) for t in targets]
    return JudgedCandidates(
        items=torch.cat(items),
        features=torch.cat(features),
        targets=np.concatenate(padded),
        requests=torch.from_numpy(np.concatenate(numbers)),
    )
