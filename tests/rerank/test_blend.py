"""The last word, on planted requests: it finds the feature that is right, and says honestly what it is worth."""

import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from planted_requests import ITEMS, NO_EVIDENCE, Planted, RandomModel, Request, answers, as_tensors, requests
from safetensors.numpy import load_file, save_file
from torch import Tensor

import sememe.rerank.blend
import sememe.rerank.blend_net
from sememe.core.errors import ArtifactError, ConfigError
from sememe.core.schema import PAD, Ranked
from sememe.metrics.ranking import rank_metrics
from sememe.models.counting import ItemKnn
from sememe.rerank.blend import Blend, FittedBlend, judge_candidates
from sememe.rerank.blend_net import BlendNet, listwise_softmax
from sememe.rerank.cross_fit import order_candidates
from sememe.rerank.signals import CoOccurrence
from sememe.train.interrupt import TrainingInterrupted

PLAN = Blend(signals=(Planted(),), candidates=ITEMS, hidden=8, epochs=4, lr=0.05, batch_size=32)
KNOWN, FRESH = range(300), range(300, 600)


def fitted(plan: Blend, scratch: Path, *, users: range = KNOWN, seed: int = 0) -> FittedBlend:
    return plan.fit(
        RandomModel(), requests(users), evidence=NO_EVIDENCE, device=torch.device("cpu"), seed=seed, scratch=scratch
    )


def ask(blend: FittedBlend, request: Request, *, k: int = 10, leave_out: bool = False) -> Ranked:
    seen = request.seen if leave_out else None
    return blend.recommend(RandomModel(), request.batch, as_tensors(request.batch), k=k, seen=seen)


def started(blend: FittedBlend) -> BlendNet:
    """The network before any step."""
    known = judge_candidates(blend, RandomModel(), requests(KNOWN), device=torch.device("cpu"))
    return blend.config.training().start(known, seed=0).eval()


def judged(blend: FittedBlend, users: range = FRESH) -> dict[str, float]:
    (request,) = requests(users, size=len(users))
    found = rank_metrics(ask(blend, request), request.targets, ks=(1, 10))
    return {name: float(values.mean()) for name, values in found.items()}


@pytest.fixture(scope="module")
def blend(tmp_path_factory: pytest.TempPathFactory) -> FittedBlend:
    return fitted(PLAN, tmp_path_factory.mktemp("blend"))


def test_the_one_feature_that_is_right_is_found(blend: FittedBlend) -> None:
    assert judged(blend)["hit@1"] > 0.95
    assert blend.estimate["ndcg@10"] > 0.95


def test_the_linear_part_alone_finds_it_too(tmp_path: Path) -> None:
    linear = fitted(replace(PLAN, hidden=0), tmp_path)
    assert linear.net.net is None
    assert judged(linear)["hit@1"] > 0.95


def test_the_estimate_is_near_the_truth_on_fresh_requests(tmp_path: Path) -> None:
    """A signal that is right for 60 % of the users, and candidates that miss the answer at times."""
    unsure = fitted(replace(PLAN, signals=(Planted(right=0.6),), candidates=20), tmp_path)
    truth = judged(unsure)
    mixture = judged(replace(unsure, net=started(unsure)))
    names = ("recall@10", "hit@10", "ndcg@10", "mrr@10")
    assert set(unsure.estimate) == {*names, *(f"mixture_{name}" for name in names)}
    for name in names:
        assert unsure.estimate[name] == pytest.approx(truth[name], abs=0.08)
        assert unsure.estimate[f"mixture_{name}"] == pytest.approx(mixture[name], abs=0.08)
    assert 0.4 < truth["hit@10"] < 0.9 and mixture["ndcg@10"] < truth["ndcg@10"] - 0.2


def test_the_estimate_does_not_believe_what_was_learned_by_heart(tmp_path: Path) -> None:
    """No feature is of any use: a network that memorises its requests is still judged on others."""
    plan = replace(PLAN, signals=(Planted(right=0.0),), hidden=64, epochs=30, lr=0.05)
    useless = fitted(plan, tmp_path / "fit", users=range(50))
    known = judge_candidates(useless, RandomModel(), requests(range(50)), device=torch.device("cpu"))
    by_heart = plan.training().run(known, seed=0, scratch=tmp_path / "alone")
    assert judged(replace(useless, net=by_heart), users=range(50))["mrr@10"] > 0.5
    # A random order of 30 items: the mean of 1/rank over the first 10 places.
    chance = sum(1 / rank for rank in range(1, 11)) / ITEMS
    assert useless.estimate["mrr@10"] == pytest.approx(chance, abs=0.12)


def test_candidates_and_features_are_those_of_a_loop(blend: FittedBlend) -> None:
    (request,) = requests(range(5), size=5)
    model, signal = RandomModel(), Planted().fit(NO_EVIDENCE)
    for leave_out in (False, True):
        seen = request.seen if leave_out else None
        items, features = blend.candidates(model, request.batch, as_tensors(request.batch), seen=seen, count=8)
        for user in range(5):
            history = [item for item in request.batch["history"][user].tolist() if item != PAD]
            log_prob = model.scores[user].log_softmax(0).numpy()
            share, told = signal.share[user], signal.told[user]
            mixture = 0.7 * np.exp(log_prob) + 0.3 * share
            offered = [item for item in range(ITEMS) if not (leave_out and item in history)]
            assert items[user].tolist() == sorted(offered, key=lambda item: -mixture[item])[:8]
            for place, item in enumerate(items[user].tolist()):
                # No item is new here.
                said = [log_prob[item], model.codes[user, item], np.log(mixture[item]), item in history, 0]
                said += [share[item], told[item]]
                expected = np.array(said, np.float32)
                np.testing.assert_allclose(features[user, place, :7], expected, rtol=1e-4, atol=1e-6)
                np.testing.assert_allclose(
                    features[user, place, 7:], expected * np.log(len(history)), rtol=1e-4, atol=1e-6
                )


def test_lists_are_the_candidates_in_the_order_of_the_network(blend: FittedBlend) -> None:
    (request,) = requests(range(20), size=20)
    items, features = blend.candidates(
        RandomModel(), request.batch, as_tensors(request.batch), seen=request.seen, count=ITEMS
    )
    scaled = (features - blend.net.mean) / blend.net.deviation
    scores = (scaled @ blend.net.linear.weight.T + blend.net.net(scaled)).squeeze(2).detach()
    found = ask(blend, request, k=6, leave_out=True)
    assert found.source == "blend" and found.items.dtype == np.int32 and found.scores.dtype == np.float32
    for row in range(20):
        expected = {int(item): float(score) for item, score in zip(items[row], scores[row], strict=True) if item != PAD}
        assert found.items[row].tolist() == sorted(expected, key=lambda item: -expected[item])[:6]
        np.testing.assert_allclose(found.scores[row], sorted(expected.values(), reverse=True)[:6], rtol=1e-4, atol=1e-5)


def test_seen_items_are_left_out(blend: FittedBlend) -> None:
    (request,) = requests(range(20), size=20)
    found = ask(blend, request, k=ITEMS, leave_out=True)
    for row, seen in enumerate(request.seen):
        history = set(seen.tolist()) - {PAD}
        items = [item for item in found.items[row].tolist() if item != PAD]
        assert set(items) == set(range(ITEMS)) - history
        assert (found.scores[row, len(items) :] == -np.inf).all() and np.isfinite(found.scores[row, : len(items)]).all()


def test_a_score_that_is_not_a_number_stops(blend: FittedBlend) -> None:
    (request,) = requests(range(20), size=20)
    model = RandomModel()
    model.scores[3, 5] = torch.nan
    with pytest.raises(ArtifactError, match="not a number"):
        blend.recommend(model, request.batch, as_tensors(request.batch), k=3, seen=None)


def test_more_wanted_than_candidates_widens_the_candidates(tmp_path: Path) -> None:
    narrow = fitted(replace(PLAN, candidates=5, epochs=1), tmp_path)
    (request,) = requests(range(20), size=20)
    assert ask(narrow, request, k=3).items.shape == (20, 3)
    longer = ask(narrow, request, k=12).items
    assert longer.shape == (20, 12) and all(len(set(row.tolist())) == 12 for row in longer)
    whole = ask(narrow, request, k=ITEMS + 9)
    assert all(sorted(row[row != PAD].tolist()) == list(range(ITEMS)) for row in whole.items)


def test_a_saved_blend_gives_the_same_lists_bit_for_bit(blend: FittedBlend, tmp_path: Path) -> None:
    save_file({name: np.ascontiguousarray(array) for name, array in blend.state().items()}, tmp_path / "blend")
    loaded = PLAN.load(load_file(tmp_path / "blend"), evidence=NO_EVIDENCE)
    (request,) = requests(range(20), size=20)
    before, after = (ask(one, request, k=12, leave_out=True) for one in (blend, loaded))
    np.testing.assert_array_equal(before.items, after.items)
    np.testing.assert_array_equal(before.scores, after.scores)
    assert dict(loaded.estimate) == {} and not loaded.net.training


def test_equal_seeds_give_equal_networks(tmp_path: Path) -> None:
    plan = replace(PLAN, epochs=1)
    first, second, other = (
        fitted(plan, tmp_path / name, users=range(64), seed=seed).net.state_dict()
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["linear.weight"], other["linear.weight"])


@pytest.mark.parametrize("step", [3, 10, 20])
def test_a_fit_that_was_stopped_goes_on_where_it_was(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """160 requests and 40 rehearsed ones in batches of 16: 7 steps each for the two halves, 13 for all.  The stop comes
    in the first, the second, the last training."""
    plan, users = replace(PLAN, epochs=1, batch_size=16), range(160)
    unbroken = fitted(plan, tmp_path / "whole", users=users).state()
    calls = 0

    def stopping(outputs: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return listwise_softmax(outputs, batch)

    monkeypatch.setattr(sememe.rerank.blend_net, "listwise_softmax", stopping)
    with pytest.raises(TrainingInterrupted):
        fitted(plan, tmp_path / "broken", users=users)
    resumed = fitted(plan, tmp_path / "broken", users=users).state()
    assert calls == 27, "no step was done twice"
    assert resumed.keys() == unbroken.keys()
    assert all(np.array_equal(resumed[name], unbroken[name]) for name in unbroken)


def assert_mixture(blend: FittedBlend, *, model: RandomModel | None = None) -> None:
    """Lists are in the order of the mixture, worked out anew."""
    (request,) = requests(FRESH, size=len(FRESH))
    model = model or RandomModel()
    found = blend.recommend(model, request.batch, as_tensors(request.batch), k=10, seen=None)
    share = blend.signals[0].features(request.batch)[0]
    weight = blend.config.signal_share
    mixture = (1 - weight) * model.scores[FRESH.start : FRESH.stop].softmax(1).numpy() + weight * share
    np.testing.assert_array_equal(found.items, np.argsort(-mixture, axis=1)[:, :10])


def test_a_network_that_is_not_better_leaves_the_mixture(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The model is right and the signals are of no use: what the network learns by heart from few requests is worse."""
    model = RandomModel()
    model.scores[torch.arange(len(answers())), torch.from_numpy(answers()).long()] += 3.0
    plan = replace(PLAN, signals=(Planted(right=0.0),), hidden=64, epochs=30, lr=0.05)
    some, cpu = list(requests(range(60))), torch.device("cpu")
    blend = plan.fit(model, some, evidence=NO_EVIDENCE, device=cpu, seed=0, scratch=tmp_path / "fit")
    # What is told is what is used.
    assert blend.estimate["ndcg@10"] == blend.estimate["mixture_ndcg@10"]
    assert "the mixture stays" in caplog.text
    assert (
        blend.describe()
        == f"{plan.candidates} candidates in the order of the mixture that chose them: no network beat it"
    )
    assert plan.load(blend.state(), evidence=NO_EVIDENCE).describe() == blend.describe() != plan.describe()
    assert_mixture(blend, model=model)
    known = judge_candidates(blend, model, some, device=cpu)
    net = plan.training().run(known, seed=0, scratch=tmp_path / "alone")
    with pytest.raises(AssertionError):
        assert_mixture(replace(blend, net=net), model=model)


def test_items_that_are_not_offered_are_in_no_list(blend: FittedBlend) -> None:
    (request,) = requests(range(20), size=20)
    asked = (RandomModel(), request.batch, as_tensors(request.batch))
    every = blend.recommend(*asked, k=ITEMS, seen=request.seen)
    offered = torch.ones(ITEMS, dtype=torch.bool)
    offered[[1, 4, 5]] = False
    assert np.isin(every.items, [1, 4, 5]).any()
    fewer = blend.recommend(*asked, k=ITEMS, seen=request.seen, offered=offered)
    for before, after in zip(every.items, fewer.items, strict=True):
        kept = [item for item in before if item not in (1, 4, 5)]
        # What is left keeps its order, and what is missing at the end is padding.
        assert after.tolist() == kept + [PAD] * (ITEMS - len(kept))


def test_before_its_first_step_the_network_is_the_mixture(blend: FittedBlend) -> None:
    assert_mixture(replace(blend, net=started(blend)))
    with pytest.raises(AssertionError):
        assert_mixture(blend)


def test_rows_in_chunks_give_the_same_candidates(blend: FittedBlend, monkeypatch: pytest.MonkeyPatch) -> None:
    (request,) = requests(range(20), size=20)
    tensors = as_tensors(request.batch)
    for seen in (None, request.seen):
        whole = blend.candidates(RandomModel(), request.batch, tensors, seen=seen, count=12)
        for scores in (1, 3 * 7 * ITEMS, 1000 * ITEMS):
            with monkeypatch.context() as patch:
                patch.setattr(sememe.rerank.blend, "CHUNK_SCORES", scores)
                asked = CountingModel()
                parts = blend.candidates(asked, request.batch, tensors, seen=seen, count=12)
            assert asked.calls == {1: 20, 3 * 7 * ITEMS: 7, 1000 * ITEMS: 1}[scores]
            assert torch.equal(parts[0], whole[0])
            torch.testing.assert_close(parts[1], whole[1], rtol=1e-6, atol=1e-7)


class CountingModel(RandomModel):
    """Counts how often it is asked."""

    calls = 0

    def score_items(self, batch: dict[str, Tensor]) -> Tensor:
        self.calls += 1
        return super().score_items(batch)


def test_no_request_gives_no_list(blend: FittedBlend) -> None:
    (request,) = requests(range(1), size=1)
    none = replace(request, batch={name: array[:0] for name, array in request.batch.items()})
    assert ask(blend, none, k=4).items.shape == (0, 4)


def test_a_longer_list_begins_with_the_shorter_one(tmp_path: Path) -> None:
    """Ten candidates are ordered by the network; what a longer list needs beyond them comes as the mixture has it."""
    narrow = fitted(replace(PLAN, candidates=10), tmp_path)
    (request,) = requests(range(20), size=20)
    lists = {k: ask(narrow, request, k=k, leave_out=True) for k in (4, 10, 17, ITEMS)}
    for short, long in ((4, 10), (10, 17), (17, ITEMS)):
        np.testing.assert_array_equal(lists[long].items[:, :short], lists[short].items)
        np.testing.assert_array_equal(lists[long].scores[:, :short], lists[short].scores)
    in_order, _ = narrow.candidates(
        RandomModel(), request.batch, as_tensors(request.batch), seen=request.seen, count=ITEMS
    )
    np.testing.assert_array_equal(lists[ITEMS].items[:, 10:], in_order[:, 10:])
    assert any(lists[10].items[row].tolist() != in_order[row, :10].tolist() for row in range(20))
    scores = lists[17].scores
    assert (np.diff(scores, axis=1)[:, 9:] < 0).all(), "what follows scores below what was ordered"


def test_ties_beyond_the_end_of_a_list_are_counted() -> None:
    """Scores are the only feature: 3, 2, 2, 2, 1 and a PAD candidate."""
    net = BlendNet(1, hidden=0)
    torch.nn.init.ones_(net.linear.weight)
    features = torch.tensor([[3.0, 2.0, 2.0, 2.0, 1.0, 9.0], [3.0, 2.0, 1.0, 0.0, -1.0, 9.0]]).unsqueeze(2)
    items = torch.tensor([[4, 7, 1, 9, 3, PAD], [4, 7, 1, 9, 3, PAD]])
    found = {k: order_candidates(net, features, items, k=k, ordered=6) for k in (1, 2, 3, 4, 5, 6)}
    counts = {k: ranked.tied_beyond.tolist() for k, ranked in found.items() if ranked.tied_beyond is not None}
    assert counts == {1: [0, 0], 2: [2, 0], 3: [1, 0], 4: [0, 0], 5: [0, 0], 6: [0, 0]}
    assert found[3].items.tolist() == [[4, 7, 1], [4, 7, 1]]
    assert found[6].items[:, -1].tolist() == [PAD, PAD] and (found[6].scores[:, -1] == -np.inf).all()
    # Where the network orders but two, the third tie has its place after them.
    longer = order_candidates(net, features, items, k=6, ordered=2)
    assert longer.items.tolist() == items.tolist() and longer.tied_beyond.tolist() == [0, 0]
    assert longer.scores[0, :5].tolist() == [3.0, 2.0, 1.0, 0.0, -1.0] and longer.scores[0, 5] == -np.inf


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"signals": ()}, "Blend has no signal"),
        ({"candidates": 0}, "candidates of Blend is 0, below 1"),
        ({"max_requests": 0}, "max_requests of Blend is 0"),
        ({"epochs": 0}, "epochs of Blend is 0"),
        ({"batch_size": 0}, "batch_size of Blend is 0"),
        ({"hidden": -1}, "hidden=-1"),
        ({"signal_share": 1.5}, "signal_share=1.5"),
        ({"rehearse_every": -1}, "rehearse_every=-1"),
        ({"lr": 0.0}, "lr of Blend is 0.0"),
        ({"signals": (CoOccurrence(ItemKnn(recency=0.0)),)}, "recency of ItemKnn"),
    ],
)
def test_settings_that_cannot_be_are_named(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        fitted(replace(PLAN, **changes), tmp_path)  # type: ignore[arg-type]


def test_without_an_answer_among_the_candidates_the_mixture_stays(tmp_path: Path) -> None:
    plan = replace(PLAN, candidates=1, signal_share=0.0)
    best = RandomModel().scores.argmax(1).numpy()
    missed = [user for user in range(300) if best[user] != answers()[user]][:5]
    alone = [next(requests(range(user, user + 1))) for user in missed]
    blend = plan.fit(RandomModel(), alone, evidence=NO_EVIDENCE, device=torch.device("cpu"), seed=0, scratch=tmp_path)
    assert dict(blend.estimate) == {}
    assert_mixture(replace(blend, config=replace(plan, candidates=ITEMS)))


@pytest.mark.parametrize("hits", [1, 2])
def test_few_requests_with_answers_are_enough(hits: int, tmp_path: Path) -> None:
    """All answers may lie in one half of the requests: then nothing can be said of the other, but a fit there is."""
    plan = replace(PLAN, candidates=1, signal_share=0.0, epochs=1)
    best = RandomModel().scores.argmax(1).numpy()
    right = [user for user in range(300) if best[user] == answers()[user]][:hits]
    wrong = [user for user in range(300) if best[user] != answers()[user]][:3]
    some = [next(requests(range(user, user + 1))) for user in (*right, *wrong)]
    blend = plan.fit(RandomModel(), some, evidence=NO_EVIDENCE, device=torch.device("cpu"), seed=0, scratch=tmp_path)
    assert all(np.isfinite(array).all() for array in blend.state().values())
    assert hits == 2 or dict(blend.estimate) == {}
    if not blend.estimate:
        assert_mixture(replace(blend, config=replace(plan, candidates=ITEMS)))
