import random
import subprocess
import sys

import numpy as np
import torch

from sememe.core.seeding import derive_seed, generator, seed_everything


def test_a_stream_has_one_seed_on_every_machine() -> None:
    assert derive_seed(0, "step", 1) == 7979367420135244360


def test_streams_do_not_share_their_numbers() -> None:
    seeds = {derive_seed(seed, name, step) for seed in range(3) for name in ("a", "b") for step in range(50)}
    assert len(seeds) == 300


def test_seeding_makes_all_generators_repeat() -> None:
    def draw() -> tuple[float, float, float]:
        seed_everything(3, "draw")
        return random.random(), float(np.random.random()), float(torch.rand(()))

    assert draw() == draw()
    assert generator(3, "x").random() == generator(3, "x").random()


def test_the_core_does_not_load_torch() -> None:
    script = "import sys, sememe.core.seeding as s; s.seed_everything(1); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
