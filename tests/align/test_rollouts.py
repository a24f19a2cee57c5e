"""Samplers against the distribution they draw from, and rollouts against the objectives that read them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from align_world import CODES, LOG, TRIE, encdec, itemwise, prompts
from torch import Tensor, nn

from sememe.align.policy import Learner, Steering, log_probs_now, sample_log_probs
from sememe.align.prompts import Prompts
from sememe.align.protocol import Sampler
from sememe.align.rewards import Mix, RankReward, RuleReward
from sememe.align.rollouts import BeamGroups, DistinctGroups, IndependentGroups, RolloutSource, judged
from sememe.align.scores import GroupScores
from sememe.core.errors import ConfigError, DataError
from sememe.decode.exact import ExactCodes
from sememe.objectives.advantages import group_advantages
from sememe.objectives.grpo import GRPO
from sememe.train.device import to_tensors

MODELS = {"itemwise": itemwise, "encdec": encdec}
every_model = pytest.mark.parametrize("build", MODELS.values(), ids=MODELS.keys())
CPU = torch.device("cpu")


@every_model
def test_log_probabilities_of_samples_are_those_of_the_search(build: type) -> None:
    model, batch = build(), prompts()
    exact = ExactCodes().score_items(model, batch, trie=TRIE)
    items = torch.tensor([[0, 5, 9], [26, 3, 3], [1, 2, 4], [7, 8, 20], [11, 12, 13]])
    found = sample_log_probs(model, batch, torch.from_numpy(CODES.matrix).long()[items])
    assert found.shape == (5, 3, 3) and found.requires_grad
    torch.testing.assert_close(found.sum(2), exact.gather(1, items), atol=1e-5, rtol=1e-5)


def test_codes_that_name_no_item_have_no_chance_where_a_model_writes_items_only() -> None:
    samples = torch.tensor([[[3, 0, 0], [0, 0, 0]]])
    batch = {name: values[:1] for name, values in prompts().items()}
    found = sample_log_probs(itemwise(), batch, samples)
    assert bool((found[0, 0] == -torch.inf).all()) and bool(found[0, 1].isfinite().all())
    assert bool(sample_log_probs(encdec(), batch, samples).isfinite().all())


def test_the_trunk_reads_each_row_once_for_all_its_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = itemwise(), []
    trunk = model.trunk.forward
    monkeypatch.setattr(model.trunk, "forward", lambda states: (rows.append(len(states)), trunk(states))[1])
    sample_log_probs(model, prompts(), torch.zeros(5, 16, 3, dtype=torch.long))
    assert rows == [5]


def test_dropout_is_for_what_is_imitated_and_not_for_samples() -> None:
    model = itemwise(dropout=0.5)
    learner = Learner(model).train()
    batch = {f"prompt_{name}": values for name, values in prompts().items()}
    batch["samples"] = torch.from_numpy(CODES.matrix[:10]).long().view(5, 2, 3)
    first = learner(batch)["sample_log_probs"]
    torch.testing.assert_close(first, log_probs_now(model, prompts(), batch["samples"]), atol=0, rtol=0)
    assert model.training and learner.training


@every_model
@pytest.mark.parametrize("sampler", [BeamGroups(size=6), DistinctGroups(size=6)], ids=["beam", "distinct"])
def test_distinct_samples_are_items_in_the_order_of_their_probability(build: type, sampler: Sampler) -> None:
    model, batch = build(), prompts()
    groups = sampler.draw(model, batch, trie=TRIE, seen=None, seed=3)
    exact = ExactCodes().score_items(model, batch, trie=TRIE)
    assert bool(groups.legal.all()) and groups.items.shape == (5, 6, 1)
    assert all(len(set(row)) == 6 for row in groups.items[:, :, 0].tolist())
    scores = exact.gather(1, groups.items[:, :, 0])
    assert bool((scores.diff(dim=1) <= 1e-5).all())
    assert groups.log_probs is not None
    torch.testing.assert_close(groups.log_probs, scores, atol=1e-5, rtol=1e-5)
    np.testing.assert_array_equal(CODES.matrix[groups.items[:, :, 0].numpy()], groups.codes.numpy())
    if isinstance(sampler, BeamGroups):
        torch.testing.assert_close(scores, exact.topk(6, dim=1).values)


def test_seen_items_are_not_among_the_samples() -> None:
    model, batch = itemwise(), prompts()
    for sampler in (BeamGroups(size=20), DistinctGroups(size=20), IndependentGroups(size=50)):
        groups = sampler.draw(model, batch, trie=TRIE, seen=batch["history"], seed=0)
        items = groups.items[:, :, 0].masked_fill(~groups.drawn, -2)
        assert bool(groups.drawn.any(1).all())
        assert not bool((items.unsqueeze(2) == batch["history"].unsqueeze(1)).any())


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_independent_samples_follow_the_policy(temperature: float) -> None:
    """Shares of 40,000 draws against the exact probabilities: a deviation of 4.5 standard errors is a mistake."""
    model = itemwise()
    batch = {name: values[:1] for name, values in prompts().items()}
    draws = 40_000
    groups = IndependentGroups(size=draws, temperature=temperature).draw(model, batch, trie=TRIE, seen=None, seed=5)
    chances = _by_level(model, batch, temperature=temperature)
    shares = torch.bincount(groups.items.flatten(), minlength=LOG.num_items) / draws
    errors = (chances * (1 - chances) / draws).sqrt()
    assert bool(groups.legal.all()) and chances.sum().item() == pytest.approx(1.0, abs=1e-5)
    assert bool(((shares - chances).abs() <= 4.5 * errors + 1e-9).all())


def _by_level(model: nn.Module, batch: dict[str, Tensor], *, temperature: float) -> Tensor:
    """(I,) probability of each item where every level is drawn at a temperature, by enumeration."""
    samples = torch.from_numpy(CODES.matrix).long().unsqueeze(0)
    levels = (sample_log_probs(model, batch, samples)[0] / temperature).detach()
    found = torch.zeros(len(samples[0]))
    for level in range(samples.shape[2]):
        prefixes = [tuple(row[:level]) for row in samples[0].tolist()]
        for prefix in set(prefixes):
            below = torch.tensor([other == prefix for other in prefixes])
            codes = samples[0, below, level]
            weight = {code: levels[below][codes == code][0, level] for code in codes.unique().tolist()}
            total = torch.stack(list(weight.values())).logsumexp(0)
            found[below] += torch.stack([weight[code] - total for code in codes.tolist()])
    return found.exp()


def test_without_the_trie_a_free_model_writes_what_names_no_item() -> None:
    batch = prompts()
    free = IndependentGroups(size=64, under_trie=False)
    groups = free.draw(encdec(), batch, trie=TRIE, seen=None, seed=0)
    named = {tuple(row): item for item, row in enumerate(CODES.matrix.tolist())}
    wanted = [[named.get(tuple(codes), -1) for codes in row] for row in groups.codes.tolist()]
    assert groups.items[:, :, 0].tolist() == wanted
    assert 0.2 < groups.legal.float().mean() < 0.9 and bool(groups.drawn.all())
    assert bool(free.draw(itemwise(), batch, trie=TRIE, seen=None, seed=0).legal.all())
    assert bool(replace(free, under_trie=True).draw(encdec(), batch, trie=TRIE, seen=None, seed=0).legal.all())


def source_of(model: nn.Module, *, on_policy: bool = True, sampler: Sampler | None = None) -> RolloutSource:
    return RolloutSource(
        prompts=Prompts(batch_size=8).source(LOG, seed=0, max_history=6),
        policy=model,
        sampler=sampler or DistinctGroups(size=12),
        reward=Mix((RuleReward(), RankReward())),
        trie=TRIE,
        scores=GroupScores(),
        seed=0,
        on_policy=on_policy,
        reference=model,
    )


def test_a_batch_of_samples_is_a_function_of_the_step_and_holds_what_objectives_read() -> None:
    model = itemwise()
    source = source_of(model, on_policy=False)
    batch, again = source(3), source_of(model, on_policy=False)(3)
    assert all(np.array_equal(batch[name], again[name]) for name in batch) and set(batch) == set(again)
    assert not np.array_equal(batch["samples"], source(4)["samples"])
    assert np.abs(batch["advantages"].sum(1)).max() < 1e-4
    reward, counted = torch.from_numpy(batch["rewards"]), torch.from_numpy(batch["counted"])
    np.testing.assert_array_equal(batch["advantages"], group_advantages(reward, counted=counted).numpy())
    assert reward.max() == 1.0, "some groups hold the target"


@pytest.mark.parametrize("on_policy", [True, False])
def test_the_first_ratio_is_one_and_a_group_without_a_hit_moves_nothing(on_policy: bool) -> None:
    model = itemwise(dropout=0.3)
    batch = to_tensors(source_of(model, on_policy=on_policy)(0), CPU)
    assert ("rollout_log_probs" in batch) is not on_policy
    learner = Learner(model).train()
    outputs = learner(batch)
    if not on_policy:
        torch.testing.assert_close(outputs["sample_log_probs"].detach(), batch["rollout_log_probs"], atol=0, rtol=0)
    steering = Steering(GRPO(kl_weight=0.1))
    without = {name: values[(batch["rewards"] == 0).all(1)] for name, values in batch.items()}
    assert 0 < len(without["samples"]) < 8
    steering(learner(without), without).backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())
    steering(outputs, batch).backward()
    assert any(parameter.grad is not None and bool(parameter.grad.any()) for parameter in model.parameters())


def test_a_reward_is_asked_for_what_the_prompts_hold_and_must_be_a_number() -> None:
    model = itemwise()
    source = source_of(model)
    prompt = source.prompts(0)
    groups = source.sampler.draw(model, to_tensors(prompt, CPU), trie=TRIE, seen=None, seed=0)
    with pytest.raises(ConfigError, match="'target', which the prompts do not hold"):
        judged(RuleReward(), {name: values for name, values in prompt.items() if name != "target"}, groups)

    class Wrong:
        names = ()

        def score(self, batch: object, lists: np.ndarray) -> np.ndarray:
            return np.full(lists.shape[:2], np.nan, np.float32)

    with pytest.raises(DataError, match="infinite or not a number"):
        judged(Wrong(), prompt, groups)


@pytest.mark.parametrize("sampler", [BeamGroups(size=1), DistinctGroups(size=1), IndependentGroups(size=1)])
def test_a_group_of_one_is_refused(sampler: Sampler) -> None:
    with pytest.raises(ConfigError, match="it takes two to compare"):
        sampler.draw(itemwise(), prompts(), trie=TRIE, seen=None, seed=0)


def test_on_policy_rollouts_teach_a_deterministic_target() -> None:
    """Three prompts whose target is always the same item: its probability passes .99."""
    model = itemwise()
    target = 4

    class Always:
        names = ()

        def score(self, batch: object, lists: np.ndarray) -> np.ndarray:
            return (lists[:, :, 0] == target).astype(np.float32)

    source = replace(source_of(model, sampler=IndependentGroups(size=32)), reward=Always(), reference=None)
    learner = Learner(model)
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.02)
    batch = {name: torch.from_numpy(values) for name, values in source.prompts(0).items() if name != "target"}
    samples = torch.from_numpy(CODES.matrix[[target]]).long().expand(8, 1, 3)
    before = log_probs_now(model, batch, samples).sum(2).exp().mean()
    for step in range(60):
        arrays = to_tensors(source(step), CPU)
        optimizer.zero_grad()
        Steering(GRPO())(learner.train()(arrays), arrays).backward()
        optimizer.step()
    assert before < 0.2 and log_probs_now(model, batch, samples).sum(2).exp().mean() > 0.99
