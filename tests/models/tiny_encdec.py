"""A tiny encoder-decoder and batches for it, for the tests of this folder."""

import numpy as np
import torch

from sememe.core.schema import PAD, Codes, ModelInputs
from sememe.models.encdec import EncDec, EncDecModel

SIZES = (8, 16, 8, 4)
ITEMS = 40
SMALL = EncDec(layers=2, d_model=16, heads=2, head_dim=8, ff=32, user_buckets=7)


def some_codes() -> Codes:
    matrix = np.random.default_rng(0).integers(0, SIZES, (ITEMS, len(SIZES))).astype(np.int32)
    return Codes(matrix, SIZES, num_semantic_levels=3, collisions="token")


def build(part: EncDec = SMALL, *, seed: int = 1) -> EncDecModel:
    model = part.build(ModelInputs(num_users=10, num_items=ITEMS, codes=some_codes()), seed=seed)
    with torch.no_grad():
        # Fresh biases are small: larger ones make position and level mistakes visible.
        model.encoder_bias.weight.normal_()
        model.decoder_bias.weight.normal_()
    return model


def batch_of(*lengths: int, width: int | None = None, seed: int = 3) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    history = np.full((len(lengths), max(lengths) if width is None else width), PAD, np.int32)
    for row, length in enumerate(lengths):
        history[row, :length] = rng.integers(0, ITEMS, length)
    return {
        "history": torch.from_numpy(history),
        "lengths": torch.tensor(lengths, dtype=torch.int32),
        "user": torch.from_numpy(rng.integers(0, 10, len(lengths)).astype(np.int32)),
        "target_codes": torch.from_numpy(some_codes().matrix[rng.integers(0, ITEMS, len(lengths))]),
    }


def rows(batch: dict[str, torch.Tensor], index: list[int]) -> dict[str, torch.Tensor]:
    return {name: values[index] for name, values in batch.items()}


@torch.no_grad()
def logits(model: EncDecModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return model.eval()(batch)["code_logits"]
