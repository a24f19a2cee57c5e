"""The encoder-decoder: contract checks on small random models, and the step protocol against teacher forcing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_encdec import ITEMS, SIZES, SMALL, batch_of, build, logits, rows, some_codes

from sememe.core.errors import ConfigError
from sememe.core.schema import PAD, ModelInputs
from sememe.models.encdec import EncDec
from sememe.models.tokens import user_bucket
from sememe.objectives.next_token import NextToken


def test_logits_have_a_finite_number_for_each_code_of_the_level_only() -> None:
    out = logits(build(), batch_of(3, 1, 2))
    assert out.shape == (3, 4, 16)
    for level, size in enumerate(SIZES):
        assert out[:, level, :size].isfinite().all()
        assert (out[:, level, size:] == -torch.inf).all()


@pytest.mark.parametrize("part", [SMALL, replace(SMALL, user_buckets=0), replace(SMALL, tie_head=True)])
def test_a_row_does_not_depend_on_its_batch_or_padding(part: EncDec) -> None:
    model, batch = build(part), batch_of(5, 1, 3, 0, 5)
    together = logits(model, batch)
    for row in range(5):
        alone = rows(batch, [row])
        alone["history"] = alone["history"][:, : max(int(alone["lengths"][0]), 1)]
        torch.testing.assert_close(logits(model, alone)[0], together[row], atol=1e-5, rtol=0)
    wider = batch | {"history": torch.nn.functional.pad(batch["history"], (0, 4), value=PAD)}
    torch.testing.assert_close(logits(model, wider), together, atol=1e-5, rtol=0)
    order = [3, 1, 4, 0, 2]
    torch.testing.assert_close(logits(model, rows(batch, order)), together[order], atol=1e-5, rtol=0)


def test_a_row_with_neither_history_nor_user_is_finite_and_always_the_same() -> None:
    model, batch = build(), batch_of(0, 2)
    batch["user"][0] = PAD
    first = logits(model, batch)[0]
    assert not first.isnan().any()
    alone = rows(batch, [0])
    torch.testing.assert_close(logits(model, alone | {"history": alone["history"][:, :0]})[0], first, atol=1e-5, rtol=0)


def test_order_of_the_history_and_the_user_matter() -> None:
    model, batch = build(), batch_of(3)
    base = logits(model, batch)
    assert not torch.allclose(logits(model, batch | {"history": batch["history"].flip(1)}), base, atol=1e-3)
    assert not torch.allclose(logits(model, batch | {"user": batch["user"] + 1}), base, atol=1e-3)
    assert not torch.allclose(logits(model, batch | {"user": batch["user"] * 0 + PAD}), base, atol=1e-3)


def test_a_level_sees_the_codes_before_it_and_none_after() -> None:
    model, batch = build(), batch_of(3)
    base = logits(model, batch)
    changed = batch["target_codes"].clone()
    changed[:, 1] = (changed[:, 1] + 1) % SIZES[1]
    other = logits(model, batch | {"target_codes": changed})
    torch.testing.assert_close(other[:, :2], base[:, :2])
    assert (other[:, 2, :8] - base[:, 2, :8]).abs().max() > 1e-4
    assert (other[:, 3, :4] - base[:, 3, :4]).abs().max() > 1e-4


@pytest.mark.parametrize("part", [SMALL, replace(SMALL, user_buckets=0, tie_head=True)])
@pytest.mark.parametrize("lengths", [(4, 1, 2), (3, 3, 3)])
def test_steps_of_a_search_equal_teacher_forcing(part: EncDec, lengths: tuple[int, ...]) -> None:
    """Beams that branch, swap and die: each log-probability equals that of its whole prefix, forwarded at once."""
    model, batch, rng = build(part), batch_of(*lengths), np.random.default_rng(5)
    model.eval()
    state = model.encode(batch)
    first = model.step(state)
    assert first.shape == (3, 1, SIZES[0])
    assert first.dtype == torch.float32
    prefixes = torch.zeros(3, 1, 0, dtype=torch.long)
    for level, beams in enumerate((6, 4, 7), start=1):
        parents = torch.from_numpy(rng.integers(0, prefixes.shape[1], (3, beams)))
        codes = torch.from_numpy(rng.integers(0, SIZES[level - 1], (3, beams)))
        kept = prefixes.gather(1, parents[..., None].expand(-1, -1, level - 1))
        prefixes = torch.cat([kept, codes[..., None]], -1)
        stepped = model.step(state, codes, parents)
        assert stepped.shape == (3, beams, SIZES[level])
        for beam in range(beams):
            target = torch.nn.functional.pad(prefixes[:, beam], (0, len(SIZES) - level))
            forced = logits(model, batch | {"target_codes": target})[:, level, : SIZES[level]].log_softmax(-1)
            torch.testing.assert_close(stepped[:, beam], forced, atol=1e-5, rtol=0)


def test_the_memory_of_a_search_is_not_copied_per_beam() -> None:
    model, batch = build().eval(), batch_of(4, 2)
    state = model.encode(batch)
    model.step(state)
    addresses = [part.data_ptr() for part in state.memory]
    model.step(state, torch.zeros(2, 9, dtype=torch.long), torch.zeros(2, 9, dtype=torch.long))
    assert [part.data_ptr() for part in state.memory] == addresses
    assert all(part.shape == (2, 2, 1 + 4 * 4, 8) for part in state.memory)
    assert all(past[0].shape[1] == 1 for past in state.past)


def test_equal_seeds_give_equal_weights_and_leave_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    part = SMALL.build(ModelInputs(10, ITEMS, some_codes()), seed=4)
    assert torch.equal(torch.random.get_rng_state(), before)
    again = SMALL.build(ModelInputs(10, ITEMS, some_codes()), seed=4)
    other = SMALL.build(ModelInputs(10, ITEMS, some_codes()), seed=5)
    assert all(torch.equal(a, b) for a, b in zip(part.parameters(), again.parameters(), strict=True))
    assert not torch.equal(part.tokens.embedding, other.tokens.embedding)


def test_dropout_follows_the_global_seed_and_is_off_in_evaluation() -> None:
    model, batch = build(replace(SMALL, dropout=0.3)).train(), batch_of(3, 2)

    def trained(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return model.train()(batch)["code_logits"]

    assert torch.equal(trained(1), trained(1))
    assert not torch.equal(trained(1), trained(2))
    assert torch.equal(logits(model, batch), logits(model, batch))


@pytest.mark.parametrize("tie", [False, True])
def test_every_parameter_gets_a_gradient(tie: bool) -> None:
    model, batch = build(replace(SMALL, tie_head=tie)), batch_of(3, 5, 2)
    NextToken()(model(batch), batch).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert len(model.heads) == (0 if tie else 4)


def test_saved_weights_hold_no_codes_and_load_into_an_equal_model() -> None:
    model, other, batch = build(seed=1), build(seed=2), batch_of(3, 1)
    assert not any("item_tokens" in name for name in model.state_dict())
    other.load_state_dict(model.state_dict())
    assert torch.equal(logits(model, batch), logits(other, batch))


def test_bfloat16_autocast_stays_close_and_decodes_in_float32() -> None:
    model, batch = build(), batch_of(3, 1)
    exact = logits(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough = logits(model, batch)
        state = model.encode(batch)
        log_probs = model.step(state)
        later = model.step(state, torch.zeros(2, 2, dtype=torch.long), torch.zeros(2, 2, dtype=torch.long))
    kept = exact.isfinite()
    assert (rough[kept] - exact[kept]).abs().max() < 0.2
    assert log_probs.dtype == later.dtype == torch.float32
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(2, 1))


def test_a_small_model_learns_a_planted_rule() -> None:
    """The next item repeats the last one: a copy through attention that a broken decoder could not learn."""
    torch.manual_seed(0)
    model = build(replace(SMALL, layers=1, dropout=0.0)).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-2)
    codes = torch.from_numpy(some_codes().matrix)
    for step in range(50):
        batch = batch_of(*[2] * 32, seed=100 + step)
        batch["target_codes"] = codes[batch["history"][:, -1]]
        loss = NextToken()(model(batch), batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    # Knowing the items but not the history gives log(40) / 4 = .92 per level.
    assert float(loss.detach()) < 0.6


def test_user_buckets_are_fixed_and_spread() -> None:
    buckets = user_bucket(torch.arange(20_000), buckets=2000)
    # By hand: 1 * 2654435761 * 2000 / 2^32 = 1236.07 and 2 * 2654435761 - 2^32 = 1013904226 -> 472.14.
    assert buckets[:3].tolist() == [0, 1236, 472]
    counts = torch.bincount(buckets, minlength=2000)
    assert counts.min() >= 5
    assert counts.max() <= 15
    assert int(user_bucket(torch.tensor([2**31 - 1]), buckets=2000)) in range(2000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 0}, "layers is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"user_buckets": -1}, "user_buckets is -1"),
        ({"max_distance": 16}, "max_distance 16"),
    ],
)
def test_impossible_settings_are_named(change: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(replace(SMALL, **change))


def test_a_model_without_codes_is_refused() -> None:
    with pytest.raises(ConfigError, match="tokenizer"):
        SMALL.build(ModelInputs(10, ITEMS), seed=0)


def test_searching_with_dropout_is_refused() -> None:
    with pytest.raises(AssertionError, match="eval"):
        build().train().encode(batch_of(2))
