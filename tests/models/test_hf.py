"""The same weights in Hugging Face's T5: the same logits and the same gradients."""

from dataclasses import replace

import pytest
import torch
from tiny_encdec import SIZES, SMALL, batch_of, build, logits

from sememe.models.encdec import EncDec, EncDecModel
from sememe.models.hf import hf_inputs, hf_weights, to_hf_t5

pytest.importorskip("transformers")

PARTS = [SMALL, replace(SMALL, user_buckets=0), replace(SMALL, layers=3, heads=3), replace(SMALL, position_buckets=8)]


def level_loss(code_logits: list[torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each level within its own block, written out."""
    losses = [
        -part.log_softmax(-1).gather(-1, targets[:, level, None].long()).mean()
        for level, part in enumerate(code_logits)
    ]
    return torch.stack(losses).mean()


def blocks_of(model: EncDecModel, hf_logits: torch.Tensor) -> list[torch.Tensor]:
    """The block of each level, (N, K of the level), of logits over the whole vocabulary."""
    return [
        hf_logits[:, level, first : first + size]
        for level, (first, size) in enumerate(zip(model.tokens.offsets, SIZES, strict=True))
    ]


@pytest.mark.parametrize("part", PARTS)
def test_logits_equal_those_of_hugging_face(part: EncDec) -> None:
    model, batch = build(part), batch_of(40, 1, 3, 12)
    theirs = to_hf_t5(model)
    ours = logits(model, batch)
    with torch.no_grad():
        blocks = blocks_of(model, theirs(**hf_inputs(model, batch)).logits)
    for level, block in enumerate(blocks):
        torch.testing.assert_close(ours[:, level, : SIZES[level]], block, atol=1e-4, rtol=0)


def test_a_tied_head_is_exported_as_its_scaled_embeddings() -> None:
    model, batch = build(replace(SMALL, tie_head=True)), batch_of(4, 2)
    ours = logits(model, batch)
    with torch.no_grad():
        blocks = blocks_of(model, to_hf_t5(model)(**hf_inputs(model, batch)).logits)
    for level, block in enumerate(blocks):
        torch.testing.assert_close(ours[:, level, : SIZES[level]], block, atol=1e-4, rtol=0)


@pytest.mark.parametrize("lengths", [(5, 1, 3), (4, 4, 4)])
def test_gradients_of_all_parameters_equal_those_of_hugging_face(lengths: tuple[int, ...]) -> None:
    """Padded rows and full rows take different ways through our encoder."""
    model, batch = build(), batch_of(*lengths)
    theirs = to_hf_t5(model)
    targets = batch["target_codes"]
    model.eval()
    out = model(batch)["code_logits"]
    level_loss([out[:, level, :size] for level, size in enumerate(SIZES)], targets).backward()
    level_loss(blocks_of(model, theirs(**hf_inputs(model, batch)).logits), targets).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.copy_(parameter.grad)
    ours = hf_weights(model)  # our gradients under their names
    compared = 0
    for name, parameter in theirs.named_parameters():
        assert parameter.grad is not None, name
        expected = parameter.grad
        torch.testing.assert_close(
            ours[name], expected, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
        assert expected.abs().sum() > 0, name
        compared += expected.numel()
    assert (
        compared == sum(p.numel() for p in model.parameters()) + (1 + 7) * 16
    )  # their head has rows that predict nothing


def test_an_exported_model_survives_saving_and_loading(tmp_path: object) -> None:
    from transformers import T5ForConditionalGeneration

    model, batch = build(), batch_of(4, 2)
    exported = to_hf_t5(model)
    exported.save_pretrained(str(tmp_path))
    loaded = T5ForConditionalGeneration.from_pretrained(str(tmp_path)).eval()
    with torch.no_grad():
        inputs = hf_inputs(model, batch)
        torch.testing.assert_close(loaded(**inputs).logits, exported(**inputs).logits)
