"""The loop that tokenizers share: when it does what, where codebooks start, and how dead codes come back."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sememe.core.errors import ConfigError
from sememe.nn.quantize import ResidualCodebooks
from sememe.sid.codebook_training import (
    CodebookTraining,
    Scale,
    in_blocks,
    revive_dead_codes,
    shuffled,
    start_codebooks,
    train_codebooks,
)


@dataclass
class Diary:
    """A learner of one number that writes down what it is asked for."""

    number: nn.Parameter = field(default_factory=lambda: nn.Parameter(torch.tensor(4.0)))
    entries: list[str] = field(default_factory=list)

    def batches(self, epoch: int) -> Iterator[int]:
        self.entries.append(f"epoch {epoch}")
        yield from range(2)

    def warm_loss(self, batch: int) -> Tensor:
        self.entries.append(f"warm {batch}")
        return self.number.square()

    def start(self) -> None:
        self.entries.append("start")

    def loss(self, batch: int) -> Tensor:
        self.entries.append(f"step {batch}")
        return self.number.square()

    def end_epoch(self, *, revive: bool) -> None:
        self.entries.append(f"end {revive}")


def test_the_order_of_events() -> None:
    diary = Diary()
    train_codebooks(diary, [diary.number], CodebookTraining(epochs=2, warmup_epochs=1), steps_per_epoch=2)
    steps = ["step 0", "step 1"]
    assert diary.entries == ["epoch 0", "warm 0", "warm 1", "start"] + [
        *("epoch 1", *steps, "end True"),
        *("epoch 2", *steps, "end False"),
    ]
    assert diary.number.item() < 4


def test_the_learning_rate_falls_to_zero_as_a_cosine_does() -> None:
    """AdamW moves a number whose gradient keeps its sign by about the learning rate."""
    plan = CodebookTraining(epochs=2, warmup_epochs=0, learning_rate=0.1, weight_decay=0.0)
    diary = Diary()
    train_codebooks(diary, [diary.number], plan, steps_per_epoch=2)
    expected = 0.1 * sum(0.5 * (1 + np.cos(np.pi * step / 4)) for step in range(4))
    assert 4 - diary.number.item() == pytest.approx(expected, rel=0.02)


def test_a_loss_that_is_no_number_stops() -> None:
    diary = Diary(number=nn.Parameter(torch.tensor(float("nan"))))
    with pytest.raises(ConfigError, match="the loss of the tokenizer became nan"):
        train_codebooks(diary, [diary.number], CodebookTraining(epochs=1), steps_per_epoch=2)
    assert diary.entries == ["epoch 0", "warm 0"]


@pytest.mark.parametrize("name", ["epochs", "batch_size", "learning_rate"])
def test_impossible_plans_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"Mine got {name}=0"):
        CodebookTraining(**{name: 0}).check(owner="Mine")
    CodebookTraining(warmup_epochs=0).check(owner="Mine")


def test_codebooks_start_on_residuals_level_by_level() -> None:
    coarse, fine = np.array([-8.0, 0.0, 8.0]), np.array([-1.0, 1.0])
    latents = (coarse[:, None] + fine).reshape(-1, 1).astype(np.float32)
    codebooks = ResidualCodebooks((3, 2), 1)
    rest = start_codebooks(codebooks, latents, seed=0)
    assert sorted(codebooks.books()[0].detach().ravel().tolist()) == [-8, 0, 8]
    assert sorted(codebooks.books()[1].detach().ravel().tolist()) == [-1, 1]
    assert not rest.any()
    # Fewer distinct vectors than codes: the surplus repeats real centres, and nothing chooses it.
    few = ResidualCodebooks((4,), 1)
    start_codebooks(few, latents[:2], seed=0)
    assert set(few.books()[0].detach().ravel().tolist()) == {-9.0, -7.0}
    assert few(torch.from_numpy(latents[:2])).codes.max() < 2


@pytest.mark.parametrize("learnt_by", ["loss", "ema"])
def test_dead_codes_go_where_their_level_is_worst(learnt_by: str) -> None:
    codebooks = ResidualCodebooks((3, 2), 1, learnt_by=learnt_by)  # type: ignore[arg-type]
    codebooks.place(0, torch.arange(3), torch.tensor([[0.0], [1.0], [1000.0]]))
    latents = torch.tensor([[0.0], [1.0], [7.0]])
    codebooks.note(codebooks(latents))
    before = codebooks.vectors.detach().clone()
    used = codebooks.used.clone()
    revive_dead_codes(codebooks, latents)
    # The third code of the first level and the second of the second: the latent 7 was represented worst on both.
    assert not used[0, 2] and not used[1, 1]
    assert codebooks.vectors[0, 2].item() == 7.0
    assert codebooks.vectors[1, 1].item() == pytest.approx(7.0 - before[0, 1].item())
    assert torch.equal(codebooks.vectors[0, :2], before[0, :2])
    assert torch.equal(codebooks(latents).codes[:, 0], torch.tensor([0, 1, 2]))
    # With every code in use nothing moves.
    codebooks.used[:] = True
    before = codebooks.vectors.detach().clone()
    revive_dead_codes(codebooks, latents)
    assert torch.equal(codebooks.vectors, before)


def test_scales_standardise_and_come_back() -> None:
    rows = np.random.default_rng(0).normal(3, 5, (50, 3)).astype(np.float32)
    rows[:, 1] = 7
    scale = Scale.of(rows)
    standard = scale.apply(rows)
    np.testing.assert_allclose(standard.mean(dim=0), 0, atol=1e-5)
    np.testing.assert_allclose(standard.std(dim=0, correction=0), [1, 0, 1], atol=1e-5)
    np.testing.assert_allclose(scale.undo(standard), rows, rtol=1e-5)


def test_batches_meet_every_row_once_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = list(shuffled(10, size=4, rng=np.random.default_rng(0)))
    assert [len(part) for part in parts] == [4, 4, 2]
    assert sorted(torch.cat(parts).tolist()) == list(range(10)) != torch.cat(parts).tolist()
    layer, rows = nn.Linear(3, 2), torch.randn(10, 3)
    whole = in_blocks(layer, rows)
    monkeypatch.setattr("sememe.sid.codebook_training.ENCODE_ROWS", 3)
    np.testing.assert_allclose(in_blocks(layer, rows), whole, atol=1e-6)
    assert not whole.requires_grad
