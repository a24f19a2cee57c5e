"""A model, source and validation small enough for a test, and a function for a process that a test can kill."""

import contextlib
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sememe.core.schema import Batch
from sememe.core.seeding import generator
from sememe.train.loop import fit
from sememe.train.optim import AdamW, Ema, WarmupCosine
from sememe.train.plan import TrainPlan

ITEMS = 20


class TinyModel(nn.Module):
    """Embedding, dropout, linear: enough for dropout and two kinds of parameters to matter."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(ITEMS, 8)
        self.mix = nn.Linear(8, 8)
        self.dropout = nn.Dropout(0.3)
        self.forward_calls = 0

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        self.forward_calls += 1
        return self.dropout(self.mix(self.items(batch["item"]))) @ self.items.weight.T


class TinySource:
    """Learn that item i is followed by i + 1."""

    steps_per_epoch = 10

    def __init__(self, pause: float = 0.0) -> None:
        self.pause = pause
        self.asked: list[int] = []

    def __call__(self, step: int) -> Batch:
        time.sleep(self.pause)
        self.asked.append(step)
        items = generator(7, "tiny", step).integers(0, ITEMS, 16).astype(np.int32)
        return {"item": items, "next": (items + 1) % ITEMS}


def objective(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(outputs, batch["next"])


def validate(model: nn.Module) -> dict[str, float]:
    items = torch.arange(ITEMS)
    assert not model.training
    return {"score": -float(objective(model({"item": items}), {"next": (items + 1) % ITEMS}))}


def tiny_model() -> TinyModel:
    torch.manual_seed(3)
    return TinyModel()


def tiny_plan(**changes: object) -> TrainPlan:
    settings = {
        "epochs": 4,
        "optimizer": AdamW(lr=0.02),
        "schedule": WarmupCosine(warmup_steps=5),
        "monitor": "score",
        "validate_every": 8,
        "log_every": 5,
        "average": Ema(decay=0.9),
        "checkpoint_every_seconds": 1e9,
        "threads": 1,
    }
    return TrainPlan(**{**settings, **changes})


def train_in_process(out: Path, pause: float) -> None:
    """Train with a checkpoint at every step; what is printed goes to `out`.txt, as from a shell."""
    plan = tiny_plan(checkpoint_every_seconds=0.0)
    with out.with_suffix(".txt").open("a") as printed, contextlib.redirect_stdout(printed):
        try:
            fit(tiny_model(), TinySource(pause), objective, plan, out=out, seed=5, validate=validate)
        except KeyboardInterrupt as stopped:
            printed.write(f"{stopped}\n")
            sys.exit(130)
