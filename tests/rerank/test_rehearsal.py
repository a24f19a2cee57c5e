"""Items that training never met: listed where requests were rehearsed with items made new, and not otherwise."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
import torch
from planted_requests import Request, as_tensors
from torch import Tensor

import sememe.rerank.blend
from sememe.core.schema import PAD, Batch, BoolArray, FloatArray, Int32Array, Interactions
from sememe.core.seeding import generator
from sememe.models.counting import ItemKnn
from sememe.rerank.blend import MODEL_FEATURES, Blend, FittedBlend, judge_candidates
from sememe.rerank.blend_net import BlendTraining, JudgedCandidates
from sememe.rerank.cross_fit import cross_fit
from sememe.rerank.signals import CoOccurrence, Evidence

ITEMS, KNOWN, USERS = 40, 30, 600
"""Items from KNOWN on have no event."""
ASKED, FRESH = range(400), range(400, USERS)
"""Users whose answers are known items, and users whose answers are new ones."""
CPU = torch.device("cpu")
NEW = MODEL_FEATURES.index("new")
SAID = len(MODEL_FEATURES)
"""The first feature of the signals."""


def answers() -> Int32Array:
    """(USERS,)"""
    rng = np.random.default_rng(1)
    return np.concatenate([rng.integers(0, KNOWN, len(ASKED)), rng.integers(KNOWN, ITEMS, len(FRESH))]).astype(np.int32)


def log() -> Interactions:
    """Ten users, each with all known items in an order of their own."""
    rng = np.random.default_rng(2)
    items = np.concatenate([rng.permutation(KNOWN) for _ in range(10)]).astype(np.int32)
    offsets = np.arange(0, len(items) + 1, KNOWN, dtype=np.int64)
    return Interactions(offsets, items, pl.Series(range(10)), pl.Series(range(ITEMS)))


EVIDENCE = Evidence(train=log(), vectors=None, vector_widths=())


def requests(users: range, *, size: int = 64) -> Iterator[Request]:
    for start in range(users.start, users.stop, size):
        chosen = np.arange(start, min(start + size, users.stop), dtype=np.int32)
        history = (np.stack([chosen, chosen + 7], 1) % KNOWN).astype(np.int32)
        batch = {"history": history, "lengths": np.full(len(chosen), 2, np.int32), "user": chosen}
        yield Request(batch=batch, seen=history, targets=answers()[chosen, None])


class Model:
    """Random scores, lower for items that are new."""

    def __init__(self) -> None:
        random = torch.Generator().manual_seed(3)
        self.scores = torch.randn(USERS, ITEMS, generator=random)
        self.new = torch.arange(ITEMS) >= KNOWN
        self.made_new: list[Tensor] = []

    def score_items(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self.scores[batch["user"].long()] - 2.0 * self.new

    def code_log_prob(self, batch: Mapping[str, Tensor], items: Tensor) -> Tensor:
        return self.score_items(batch).log_softmax(1).gather(1, items)

    @contextmanager
    def as_new(self, items: Tensor) -> Iterator[None]:
        self.made_new.append(items)
        before, self.new = self.new, self.new | items
        yield
        self.new = before


@dataclass(frozen=True)
class CountsAndContent:
    """What was counted points at the answer wherever the log knows it; content, at the answer and one other item."""

    def check(self, *, parts: int) -> None:
        del parts

    def fit(self, evidence: Evidence) -> "Said":
        rng = np.random.default_rng(5)
        share = rng.random((USERS, ITEMS)).astype(np.float32)
        told = rng.standard_normal((USERS, ITEMS)).astype(np.float32)
        every = np.arange(USERS)
        share[every, answers()] += 5
        told[every, answers()] += 5
        told[every, rng.integers(0, KNOWN, USERS)] += 5
        share *= evidence.known_items()
        return Said(share / share.sum(1, keepdims=True), told)

    def load(self, state: Mapping[str, npt.NDArray[np.generic]], evidence: Evidence) -> "Said":
        raise AssertionError("nothing is loaded here")


@dataclass(frozen=True, eq=False)
class Said:
    share: FloatArray
    told: FloatArray
    names: tuple[str, ...] = field(default=("share", "log_share", "told"))

    def features(self, batch: Batch) -> list[FloatArray]:
        share = self.share[batch["user"]]
        return [share, np.log(share + np.float32(1e-4)), self.told[batch["user"]]]

    def state(self) -> dict[str, FloatArray]:
        return {}


PLAN = Blend(signals=(CountsAndContent(),), candidates=ITEMS, hidden=8, epochs=12, lr=0.01, batch_size=32)


def fitted(plan: Blend, scratch: Path, *, model: Model | None = None) -> FittedBlend:
    return plan.fit(model or Model(), requests(ASKED), evidence=EVIDENCE, device=CPU, seed=0, scratch=scratch)


def first(blend: FittedBlend, users: range) -> npt.NDArray[np.int32]:
    """(n,) what each list begins with."""
    (request,) = requests(users, size=len(users))
    return blend.recommend(Model(), request.batch, as_tensors(request.batch), k=1, seen=None).items[:, 0]


@pytest.fixture
def halves(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, JudgedCandidates]]:
    """What each training of `Blend.fit` gets, by the name of its folder."""
    trained: list[tuple[str, JudgedCandidates]] = []
    run = BlendTraining.run

    def recording(self: BlendTraining, judged: JudgedCandidates, *, seed: int, scratch: Path) -> torch.nn.Module:
        trained.append((scratch.name, judged))
        return run(self, judged, seed=seed, scratch=scratch)

    monkeypatch.setattr(BlendTraining, "run", recording)
    return trained


def drawn() -> BoolArray:
    """(ITEMS,) which items are made new with seed 0."""
    mask = np.zeros(ITEMS, np.bool_)
    mask[generator(0, "blend-new").permutation(KNOWN)[: round(0.2 * KNOWN)]] = True
    return mask


def test_a_new_item_is_listed_first_only_after_a_rehearsal(tmp_path: Path) -> None:
    without = fitted(replace(PLAN, rehearse_every=0), tmp_path / "without")
    with_it = fitted(replace(PLAN, rehearse_every=4), tmp_path / "with")
    assert not (first(without, FRESH) >= KNOWN).any(), "what was met with nothing was never the answer"
    assert (first(with_it, FRESH) == answers()[FRESH.start :]).mean() > 0.9
    # And it costs nothing where no answer is new.
    for blend in (without, with_it):
        assert (first(blend, ASKED) == answers()[: len(ASKED)]).mean() > 0.95


def test_rehearsed_requests_know_nothing_of_the_items_drawn(
    tmp_path: Path, halves: list[tuple[str, JudgedCandidates]]
) -> None:
    plan, model = replace(PLAN, signals=(CoOccurrence(ItemKnn()),), epochs=1), Model()
    blend = fitted(plan, tmp_path, model=model)
    assert [mask.tolist() for mask in model.made_new] == [drawn().tolist()] and drawn().sum() == 6
    judged = dict(halves)["all"]
    rehearsed = judged.take(torch.arange(len(ASKED), len(judged.items)))
    assert rehearsed.requests.tolist() == list(range(0, len(ASKED), 4))
    assert judged.requests[: len(ASKED)].tolist() == list(range(len(ASKED)))
    assert rehearsed.targets.tolist() == judged.targets[::4][: len(rehearsed.targets)].tolist()
    never = np.arange(ITEMS) >= KNOWN
    for part, new in ((judged.take(torch.arange(len(ASKED))), never), (rehearsed, never | drawn())):
        is_new = torch.from_numpy(new)[part.items]
        assert torch.equal(part.features[..., NEW].bool(), is_new)
        share, log_share = part.features[..., SAID], part.features[..., SAID + 1]
        assert not share[is_new].any() and share[~is_new].any()
        torch.testing.assert_close(log_share[is_new], torch.full_like(log_share[is_new], np.log(1e-4)))
    # What is new by nature is there because it was held out, and is left out of the fit.
    assert not (judged.items >= KNOWN).any() and (judged.items == PAD).sum() == len(judged.items) * (ITEMS - KNOWN)
    # The items drawn did meet others before they were made new.
    assert judged.features[: len(ASKED), :, SAID][torch.from_numpy(drawn())[judged.items[: len(ASKED)]]].any()
    # What answers afterwards has forgotten nothing.
    assert blend.known.tolist() == (~never).tolist()
    assert torch.equal(model.new, torch.from_numpy(never))


@pytest.mark.parametrize(("every", "expected"), [(0, 0), (10, 40), (4, 100), (2, 200), (1, 400)])
def test_the_share_of_requests_that_are_rehearsed(
    every: int, expected: int, tmp_path: Path, halves: list[tuple[str, JudgedCandidates]]
) -> None:
    model = Model()
    fitted(replace(PLAN, rehearse_every=every, epochs=1), tmp_path, model=model)
    assert len(dict(halves)["all"].items) == len(ASKED) + expected
    assert len(model.made_new) == (expected > 0)


def test_at_most_so_many_items_are_made_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sememe.rerank.blend, "MOST_NEW", 4)
    model = Model()
    fitted(replace(PLAN, epochs=1), tmp_path, model=model)
    assert [int(mask.sum()) for mask in model.made_new] == [4]


def test_a_rehearsed_request_is_fitted_on_in_the_half_of_its_request(
    tmp_path: Path, halves: list[tuple[str, JudgedCandidates]]
) -> None:
    fitted(replace(PLAN, epochs=1), tmp_path)
    rows = {name: judged.requests.tolist() for name, judged in halves}
    assert list(rows) == ["half0", "half1", "all"]
    own = {name: requests[: len(ASKED) // 2] for name, requests in rows.items()}
    again = {name: requests[len(ASKED) // 2 :] for name, requests in rows.items()}
    assert sorted(own["half0"] + own["half1"]) == list(range(len(ASKED)))
    for name in ("half0", "half1"):
        assert again[name] == [request for request in range(0, len(ASKED), 4) if request in set(own[name])]
        assert len(again[name]) > 30


def test_a_rehearsal_is_not_judged(tmp_path: Path) -> None:
    """Rehearsed rows whose answers no candidate holds are left out of the fit, and change no number."""
    model = Model()
    blend = fitted(replace(PLAN, epochs=1, rehearse_every=0), tmp_path / "fit")
    judged = judge_candidates(blend, model, requests(ASKED), device=CPU)
    hopeless = replace(judged, targets=np.full_like(judged.targets, PAD))
    alone = cross_fit(PLAN.training(), judged, judged, ordered=PLAN.candidates, seed=0, scratch=tmp_path / "alone")
    more = judged.joined(hopeless)
    both = cross_fit(PLAN.training(), judged, more, ordered=PLAN.candidates, seed=0, scratch=tmp_path / "both")
    assert both.keys() == alone.keys()
    for name, value in alone.items():
        # They take part in mean and deviation, which are the same for twice the same features, up to rounding.
        assert both[name] == pytest.approx(value, abs=0.03)


def test_every_so_many_requests_are_judged_wherever_batches_end(tmp_path: Path) -> None:
    """Also the widths of answers are those of all requests, so that rows fit below each other."""
    blend = fitted(replace(PLAN, epochs=1, rehearse_every=0), tmp_path)
    some = list(requests(range(11), size=4))
    some[2] = replace(some[2], targets=np.concatenate([some[2].targets, np.full((3, 2), PAD, np.int32)], 1))
    whole = judge_candidates(blend, Model(), some, device=CPU)
    for every in (1, 2, 3, 5, 7, 9):
        part = judge_candidates(blend, Model(), some, device=CPU, every=every)
        assert part.requests.tolist() == list(range(0, 11, every))
        assert torch.equal(part.items, whole.items[::every])
        torch.testing.assert_close(part.features, whole.features[::every])
        assert part.targets.shape[1] == 3 and part.targets.tolist() == whole.targets[::every].tolist()
        assert len(whole.joined(part).targets) == 11 + len(part.targets)
