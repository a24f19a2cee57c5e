"""Rollouts: groups of samples of a policy with what a reward says of them, as batches for the one training loop.

A rollout is one more data source.  Whose samples they are is a setting.  On-policy, they are those of the weights in
training, drawn anew for every step: each ratio is 1 in value, and the batch of a step is a function of the step, the
seed and the weights, all of which a checkpoint keeps.  Off-policy, they are those of a frozen copy, the model at the
start of the round: ratios move away from 1 as the round goes on, and clipping sets in.

Three ways to draw.  `BeamGroups` takes the best items by beam search (MiniOneRec, arXiv 2510.24431; OneRec v1,
2502.18965): distinct and strong, and no sample of the policy, so that the gradient is not one of an expectation.
`DistinctGroups` draws without replacement.  `IndependentGroups` draws with replacement at temperature 1, for which the
policy gradient and the KL estimate are unbiased where the model writes nothing but items.  Of a model that may write
other codes, the trie draws from what is left of its probabilities, which is not the policy whose ratio is taken;
without the trie, what names no item is left out of the advantages.

Shape legend: N rows, G samples of a row, S items of a sample, L code levels, K codes of a level, W widest child range.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sememe.align.pairs import BestAndWorst
from sememe.align.policy import PROMPT, SAMPLES, log_probs_now
from sememe.align.protocol import Groups, Policy, Reward, Sampler
from sememe.align.scores import GroupScores
from sememe.core.errors import ConfigError, DataError
from sememe.core.schema import PAD, Batch, Int32Array
from sememe.core.seeding import derive_seed
from sememe.decode.beam import search
from sememe.decode.frontier import NEVER, Beams, children_of
from sememe.decode.protocol import TensorBatch
from sememe.decode.sample import Sampled
from sememe.decode.trie import Trie
from sememe.train.device import to_tensors
from sememe.train.plan import BatchSource


@dataclass(frozen=True)
class BeamGroups:
    """The `size` best items of a beam search under the trie."""

    size: int = 16
    width: int = 0
    """Beams; `size` where that is more."""

    def draw(self, policy: Policy, batch: TensorBatch, *, trie: Trie, seen: Tensor | None, seed: int) -> Groups:
        """As `Sampler.draw`; the same for every seed."""
        del seed
        check_size(self.size)
        found = search(policy, batch, width=max(self.width, self.size), k=self.size, trie=trie, seen=seen)
        return groups_of_items(found.items.clone(), found.scores.clone(), trie=trie)


@dataclass(frozen=True)
class DistinctGroups:
    """`size` different items, drawn without replacement under the trie."""

    size: int = 16
    temperature: float = 1.0
    """Above 1 explores more."""

    def draw(self, policy: Policy, batch: TensorBatch, *, trie: Trie, seen: Tensor | None, seed: int) -> Groups:
        """As `Sampler.draw`; the most probable first."""
        check_size(self.size)
        how = Sampled(temperature=self.temperature, width=self.size, seed=seed)
        drawn = how.draw(policy, batch, k=self.size, trie=trie, seen=seen)
        return most_probable_first(groups_of_items(drawn.found.items.clone(), drawn.log_probs.clone(), trie=trie))


@dataclass(frozen=True)
class IndependentGroups:
    """`size` samples drawn independently of each other: the same one may come twice."""

    size: int = 16
    temperature: float = 1.0
    """1 is the policy itself."""
    under_trie: bool = True
    """Whether only codes that lead to an item are drawn; without it, what a model writes freely is seen."""

    @torch.no_grad()
    def draw(self, policy: Policy, batch: TensorBatch, *, trie: Trie, seen: Tensor | None, seed: int) -> Groups:
        """As `Sampler.draw`; samples of `seen` items count as not drawn."""
        check_size(self.size)
        if not self.temperature > 0:
            raise ConfigError(f"temperature is {self.temperature}", fix="set it above 0: 1 is the policy itself")
        noise = torch.Generator(device=trie.device).manual_seed(seed % 2**63)
        walk = _Walk.at_root(len(next(iter(batch.values()))), self.size, device=trie.device)
        state = policy.encode(batch)
        for depth in range(trie.num_levels):
            log_probs = policy.step(state, *walk.told(depth)).expand(-1, self.size, -1)
            walk.take(self._choose(log_probs, walk, trie=trie, depth=depth, noise=noise), log_probs, trie=trie)
        return most_probable_first(walk.groups(trie=trie, seen=seen))

    def _choose(self, log_probs: Tensor, walk: "_Walk", *, trie: Trie, depth: int, noise: torch.Generator) -> Tensor:
        """(N, G) codes, by the Gumbel trick: the largest of log-probability plus noise is a draw."""
        drawn = torch.empty(log_probs.shape, dtype=torch.float64, device=trie.device)
        gumbel = -drawn.exponential_(generator=noise).log()
        scores = log_probs.double() / self.temperature + gumbel
        if self.under_trie:
            below = children_of(Beams(walk.nodes, walk.log_probs), depth=depth, trie=trie)
            place = scores.gather(2, below.codes).masked_fill_(below.missing, NEVER).argmax(2, keepdim=True)
            return below.codes.gather(2, place).squeeze(2)
        return scores.argmax(2)


@dataclass(eq=False)
class _Walk:
    """Samples under way, (N, G) each."""

    nodes: Tensor
    log_probs: Tensor
    legal: Tensor
    codes: list[Tensor]

    @classmethod
    def at_root(cls, rows: int, group: int, *, device: torch.device) -> "_Walk":
        start = torch.zeros(rows, group, dtype=torch.long, device=device)
        return cls(nodes=start, log_probs=start.float(), legal=torch.ones_like(start, dtype=torch.bool), codes=[])

    def told(self, depth: int) -> tuple[Tensor | None, Tensor | None]:
        """What `step` is told: the codes chosen last, and the beam that each continues."""
        if depth == 0:
            return None, None
        group = self.nodes.shape[1]
        # After the first step there is one beam, from which all samples set out.
        own = torch.arange(group, device=self.nodes.device) if depth > 1 else torch.zeros_like(self.nodes[0])
        return self.codes[-1], own.expand_as(self.nodes)

    def take(self, codes: Tensor, log_probs: Tensor, *, trie: Trie) -> None:
        """Append `codes` (N, G), chosen from `log_probs` (N, G, K)."""
        depth = len(self.codes)
        below = children_of(Beams(self.nodes, torch.zeros_like(self.log_probs)), depth=depth, trie=trie)
        match = (below.codes == codes.unsqueeze(2)) & ~below.missing
        self.legal = self.legal & match.any(2)
        child = trie.child_starts[depth][self.nodes].long() + match.int().argmax(2)
        self.nodes = torch.where(self.legal, child, torch.zeros_like(child))
        self.log_probs = self.log_probs + log_probs.gather(2, codes.unsqueeze(2)).squeeze(2).float()
        self.codes.append(codes)

    def groups(self, *, trie: Trie, seen: Tensor | None) -> Groups:
        """What was drawn; of items that share their codes, the first one."""
        position = trie.first_position(self.nodes, depth=trie.num_levels).long()
        items = torch.where(self.legal, trie.items[position].long(), PAD)
        drawn = self.log_probs > NEVER
        if seen is not None:
            drawn = drawn & ~((items.unsqueeze(2) == seen.unsqueeze(1)) & (items >= 0).unsqueeze(2)).any(2)
        return Groups(items.unsqueeze(2), torch.stack(self.codes, 2), drawn, self.log_probs)


def groups_of_items(items: Tensor, log_probs: Tensor, *, trie: Trie) -> Groups:
    """Groups of one item each: `items` (N, G), PAD where there is none, and their log-probabilities (N, G)."""
    return Groups(items.long().unsqueeze(2), codes_of_items(items, trie=trie), items != PAD, log_probs)


def codes_of_items(items: Tensor, *, trie: Trie) -> Tensor:
    """(..., L) int64 the codes of `items` (...); those of some item where there is PAD."""
    position = trie.positions[items.clamp(min=0).long()].long()
    codes = [column[trie.node_at(position, depth=level + 1)] for level, column in enumerate(trie.child_codes)]
    return torch.stack([code.long() for code in codes], -1)


def most_probable_first(groups: Groups) -> Groups:
    """The same samples in the order of their log-probabilities, those not drawn last."""
    assert groups.log_probs is not None, "the sampler knows them"
    order = groups.log_probs.masked_fill(~groups.drawn, NEVER).sort(dim=1, descending=True, stable=True).indices

    def ordered(values: Tensor) -> Tensor:
        return values.gather(1, order.unsqueeze(2).expand_as(values))

    return replace(
        groups,
        items=ordered(groups.items),
        codes=ordered(groups.codes),
        drawn=groups.drawn.gather(1, order),
        log_probs=groups.log_probs.gather(1, order),
    )


def check_size(size: int) -> None:
    """Refuse groups in which nothing could be compared."""
    if size < 2:
        raise ConfigError(f"a group has {size} samples, and it takes two to compare", fix="set size to 2 or more")


@dataclass(frozen=True, eq=False)
class RolloutSource:
    """Batches for the loop: samples of `policy` for prompts, as the alignment objectives read them.

    Batch keys: "prompt_" and the name of each array of a prompt; "samples" int64 (N, G, S * L); "rewards", "advantages"
    float32 and "counted" bool (N, G); "rollout_log_probs" (off-policy) and "reference_log_probs" (where there is a
    reference) float32 (N, G, S * L), or (N, G) where a sample is one action; and what the imitated batch of the step
    holds.
    """

    prompts: BatchSource
    policy: nn.Module
    """On-policy the network in training, else a frozen copy of it."""
    sampler: Sampler
    reward: Reward
    trie: Trie
    scores: GroupScores | BestAndWorst
    seed: int
    on_policy: bool
    leave_out_seen: bool = False
    reference: nn.Module | None = None
    imitated: BatchSource | None = None
    every: int = 1
    """Samples come with every so many-th step; the steps between only imitate."""

    @property
    def steps_per_epoch(self) -> int:
        """Those in which every prompt is used once."""
        return self.prompts.steps_per_epoch * self.every

    def __call__(self, step: int) -> Batch:
        """The batch of `step`."""
        batch = {} if self.imitated is None else dict(self.imitated(step))
        return batch if step % self.every else {**batch, **self.samples(step // self.every)}

    def samples(self, number: int) -> dict[str, npt.NDArray[np.generic]]:
        """The `number`-th batch of samples."""
        prompt = self.prompts(number)
        tensors = to_tensors({name: values for name, values in prompt.items() if is_input(name)}, self.trie.device)
        self.policy.eval()
        seen = tensors["history"] if self.leave_out_seen else None
        with torch.no_grad():
            groups = self.sampler.draw(
                self.policy,  # type: ignore[arg-type]  # a network has what a Policy has; torch types cannot say so
                tensors,
                trie=self.trie,
                seen=seen,
                seed=derive_seed(self.seed, "rollout", number),
            )
        rewards = judged(self.reward, prompt, groups)
        scored = self.scores.score(groups, rewards, seed=derive_seed(self.seed, "scores", number))
        found = {SAMPLES: scored.codes.cpu().numpy(), **scored.arrays, **self._others(tensors, scored.codes)}
        return {**{PROMPT + name: tensors[name].cpu().numpy() for name in tensors}, **found}

    def _others(self, tensors: TensorBatch, codes: Tensor) -> dict[str, npt.NDArray[np.generic]]:
        """Log-probabilities under the policy that sampled, where it is another, and under the reference."""
        asked: dict[str, Any] = {} if self.on_policy else {"rollout_log_probs": self.policy}
        if self.reference is not None:
            asked["reference_log_probs"] = self.reference
        return {name: finite(log_probs_now(model, tensors, codes)) for name, model in asked.items()}


def judged(reward: Reward, prompt: Batch, groups: Groups) -> npt.NDArray[np.float32]:
    """(N, G) what the reward says; 0 where nothing legal was drawn.

    Raises:
        ConfigError: the reward reads something that the prompts do not hold.
        DataError: a reward is not finite.
    """
    check_names(reward, prompt)
    lists: Int32Array = groups.items.cpu().numpy().astype(np.int32)
    scores = np.where(groups.legal.cpu().numpy(), reward.score(prompt, lists), np.float32(0.0))
    if not np.isfinite(scores).all():
        raise DataError("a reward is infinite or not a number", fix="look at the columns that the reward reads")
    return scores.astype(np.float32)


def check_names(reward: Reward, prompt: Mapping[str, Any]) -> None:
    """Raise ConfigError where `reward` reads what `prompt` lacks."""
    missing = sorted(set(reward.names) - set(prompt))
    if missing:
        raise ConfigError(
            f"the reward reads {missing[0]!r}, which the prompts do not hold",
            fix=f"add {missing[0].removeprefix('target_')!r} to the columns of the prompts",
        )


def is_input(name: str) -> bool:
    """Whether an array of a prompt is for the model, rather than for the reward alone."""
    return not name.startswith(("target", "history_")) or name == "history_session"


def finite(log_probs: Tensor) -> npt.NDArray[np.float32]:
    """As an array, with the smallest number where a probability is 0: such a sample is not counted."""
    return log_probs.float().clamp(min=torch.finfo(torch.float32).min).cpu().numpy()
