"""A recipe: one frozen, typed tree that says everything a run needs.

Each field holds a ready part (a frozen dataclass); the protocols below say which verb the pipeline calls on it.  Any
class with that verb fits, so a recipe of your own can bring parts of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from sememe.core.errors import ConfigError, did_you_mean
from sememe.core.schema import Batch, Catalog, FloatArray, Int32Array, Interactions, ModelInputs, Ranked
from sememe.data.filters import Dedupe, Filtered, KCore, MinLength
from sememe.data.splits import GlobalTime, LastSession, LeaveOneOut, Split
from sememe.data.withhold import withhold_items
from sememe.pipeline.align_plan import AlignPlan
from sememe.sid.context import CodeContext
from sememe.sid.encode import PlainRule, VectorRule
from sememe.sid.fitted import FittedTokenizer
from sememe.sid.limits import CodeLimits
from sememe.train.plan import TrainPlan


class Filter(Protocol):
    """Leaves events, users or items out, and counts what it left out."""

    def apply(self, interactions: Interactions, catalog: Catalog) -> Filtered: ...


class Embedder(Protocol):
    """Makes one float32 vector per item, (I, dim), from the catalogue and the training events."""

    def embed(self, catalog: Catalog, train: Interactions, *, seed: int) -> FloatArray: ...


class Tokenizer(Protocol):
    """Learns semantic IDs from item vectors."""

    def fit(self, vectors: FloatArray, *, seed: int) -> FittedTokenizer: ...


@runtime_checkable
class ContextTokenizer(Protocol):
    """Learns semantic IDs from item vectors, the widths of their parts and the training part of the log."""

    def fit_in(self, vectors: FloatArray, *, context: CodeContext, seed: int) -> FittedTokenizer: ...


class NeuralPart(Protocol):
    """The description of a network; `build` makes the torch module.

    Where the module or its objective reads "target_codes", the description has `reads_target_codes = True` as a class
    attribute, and training batches carry them.  Where the module reads inputs of events, the description names them as
    `reads_events`, and the recipe's batches hold them as `events`.
    """

    def build(self, inputs: ModelInputs, *, seed: int) -> Any: ...


class CountingPart(Protocol):
    """A model without gradient steps: `fit` counts the training events, `load` takes what the fitted model's
    `state()` gave."""

    def fit(self, train: Interactions) -> Any: ...
    def load(self, state: Mapping[str, npt.NDArray[np.generic]]) -> Any: ...


class BatchSource(Protocol):
    """Random access to training batches: a pure function of the step."""

    @property
    def steps_per_epoch(self) -> int: ...
    def __call__(self, step: int) -> Batch: ...


class BatchPlan(Protocol):
    """Says how training events become batches."""

    @property
    def max_history(self) -> int: ...
    def source(self, train: Interactions, *, seed: int) -> BatchSource: ...


class Decoder(Protocol):
    """Turns a model and a request into ranked items."""

    def recommend(self, model: Any, batch: Any, *, k: int, trie: Any, seen: Any) -> Ranked: ...


@runtime_checkable
class Described(Protocol):
    """A decoder or reranker that says in one line how lists come about; it stands beside their numbers."""

    def describe(self) -> str: ...


def in_a_line(part: object) -> str:
    """What a decoder or reranker says of itself, its class where it says nothing; its settings stand in run.json."""
    return part.describe() if isinstance(part, Described) else type(part).__name__


class FittedReranker(Protocol):
    """Chooses and orders items with the help of a trained model."""

    @property
    def estimate(self) -> Mapping[str, float]:
        """What it is worth on validation requests that it was not fitted on; empty where it was loaded."""

    def recommend(
        self, model: Any, batch: Batch, tensors: Any, *, k: int, seen: Int32Array | None, offered: Any = None
    ) -> Ranked:
        """Lists of k items; those of `seen` (N, S), and those for which `offered` (I,) bool is false, are left out."""

    def state(self) -> Mapping[str, npt.NDArray[np.generic]]: ...


class Reranker(Protocol):
    """The description of a last step that is fitted on validation requests, once the model is trained."""

    @property
    def max_requests(self) -> int:
        """At most so many validation requests are used."""

    def check(self, *, parts: int) -> None:
        """Raise ConfigError for settings that cannot be, where the item vectors are joined from so many parts."""

    def check_model(self, model: Any) -> None:
        """Raise ConfigError for a model that lacks what it is to be asked for."""

    def fit(
        self, model: Any, requests: Any, *, evidence: Any, device: Any, seed: int, scratch: Path
    ) -> FittedReranker: ...
    def load(self, state: Mapping[str, npt.NDArray[np.generic]], *, evidence: Any) -> FittedReranker: ...


@dataclass(frozen=True)
class View:
    """Another way to get items out of the same trained model, judged as a row "RECIPE:NAME" of its own."""

    name: str
    decode: Decoder


@dataclass(frozen=True)
class SplitRule:
    """Which split is used.  "auto": leave-one-out for a known benchmark set, so that numbers compare with published
    ones; a global time split for a person's own data, since only that is free of leaks from the future; leave-one-out
    where the data has no time."""

    rule: Literal["auto", "leave_one_out", "global_time", "last_session"] = "auto"
    leave_one_out: LeaveOneOut = LeaveOneOut()
    global_time: GlobalTime = GlobalTime()
    last_session: LastSession = LastSession()
    withhold_items: float = 0.0
    """Share of the items that never occur in training, so that the test asks for them as new ones; see
    `sememe.data.withhold`."""

    def split(self, interactions: Interactions, *, benchmark: bool) -> Split:
        """Apply the rule; `benchmark` says whether the data is a known benchmark set."""
        name = self.rule
        if name == "auto":
            name = "leave_one_out" if benchmark or interactions.timestamps is None else "global_time"
        chosen: LeaveOneOut | GlobalTime | LastSession = getattr(self, name)
        return withhold_items(chosen.split(interactions), share=self.withhold_items)


@dataclass(frozen=True)
class FilterRule:
    """What is left out before the split, in this order; 0 and "off" leave nothing out."""

    dedupe: Literal["off", "exact", "consecutive", "item"] = "off"
    """Repeats of one user: "exact" user, item and time; "consecutive" the same item in a row; "item" any repeat."""
    core_users: int = 0
    """Least events of a user, counted again until nothing changes together with `core_items` (k-core)."""
    core_items: int = 0
    min_length: int = 0
    """Least events of a user."""
    own: tuple[Filter, ...] = ()
    """Filters of your own, applied last."""

    def steps(self) -> tuple[Filter, ...]:
        """The filters that are switched on."""
        steps: list[Filter] = []
        if self.dedupe != "off":
            steps.append(Dedupe(rule=self.dedupe))
        if self.core_users or self.core_items:
            steps.append(KCore(users=max(1, self.core_users), items=max(1, self.core_items)))
        if self.min_length:
            steps.append(MinLength(events=self.min_length))
        return (*steps, *self.own)


@dataclass(frozen=True)
class DataPlan:
    """From files to a split."""

    filters: FilterRule = FilterRule()
    split: SplitRule = SplitRule()
    keep_cold_items: bool = False
    """Whether catalogue items without any event can be recommended."""


MASKED = "masked_"
"""Before the name of a validation number: with seen items left out, as lists are made unless asked otherwise."""


@dataclass(frozen=True)
class EvaluationPlan:
    """How a model is judged.  Full catalogue, item level, ties averaged, with and without seen items: always."""

    ks: tuple[int, ...] = (5, 10)
    batch_size: int = 256
    validation_users: int = 2000
    """At most so many validation rows, drawn once by the seed, steer early stopping; the tables use all rows."""
    resamples: int = 1000
    """Bootstrap resamples over rows for the 95 % intervals."""
    popularity_slices: tuple[int, ...] = (5, 10, 30)
    """Where slices of the rows by training events of the target begin, after "cold" (none) and the one from 1."""
    history_slices: tuple[int, ...] = (5, 10, 20)
    """Where slices of the rows by known events of the user begin, after the one from 1."""

    def check(self, *, monitor: str | None) -> None:
        """Refuse values that cannot work; `monitor` is the validation number that a training watches, if any.

        Raises:
            ConfigError: names the setting.
        """
        for name in ("batch_size", "validation_users", "resamples"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"evaluation.{name} is {getattr(self, name)}, below 1", fix=f"set {name} to 1 or more"
                )
        if not self.ks or min(self.ks) < 1:
            raise ConfigError(f"evaluation.ks is {list(self.ks)}", fix="give list lengths >= 1: evaluation.ks=[5,10]")
        for name in ("popularity_slices", "history_slices"):
            begins = (1, *getattr(self, name))
            if list(begins) != sorted(set(begins)):
                raise ConfigError(
                    f"evaluation.{name} is {list(begins[1:])}", fix="give ascending counts above 1: [5,10,30]"
                )
        plain = [f"{metric}@{k}" for metric in ("recall", "hit", "ndcg", "mrr") for k in self.ks]
        known = [*plain, *(MASKED + name for name in plain)]
        if monitor is not None and monitor not in known:
            raise ConfigError(f"train.monitor is {monitor!r}, which is not computed", fix=did_you_mean(monitor, known))


@dataclass(frozen=True)
class Recipe:
    """Everything a run needs.  Fields that a kind of model has no use for are None."""

    name: str
    model: NeuralPart | CountingPart
    decode: Decoder
    data: DataPlan = DataPlan()
    embed: Embedder | None = None
    tokenizer: Tokenizer | ContextTokenizer | None = None
    collisions: PlainRule | VectorRule | None = None
    """What happens to items that share all semantic codes."""
    limits: CodeLimits = CodeLimits()
    """What the codes must keep to before anything is trained; no stage depends on it."""
    batches: BatchPlan | None = None
    objective: Any = None
    """Callable (outputs, batch) -> scalar loss."""
    train: TrainPlan | None = None
    rerank: Reranker | None = None
    """Fitted on validation requests after training; `recommend` and the server then use it in place of `decode`."""
    align: AlignPlan | None = None
    """Pulls the trained model towards a reward; what comes out is deployed where the gate lets it pass."""
    views: tuple[View, ...] = ()
    evaluation: EvaluationPlan = EvaluationPlan()
    baselines: tuple["Recipe", ...] = ()
    """Judged in the same run, on the same split and by the same `evaluation`; their own are not used."""
    seeds: tuple[int, ...] = (0,)
    """Each seed is trained and judged; the first one is what `recommend` and the server use."""
