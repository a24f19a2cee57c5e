"""The one place that seeds.  Every random stream is derived from the run's seed and a name, never shared."""

import hashlib
import random
import sys

import numpy as np


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream `names` of the run `seed`; equal arguments give equal seeds on every machine."""
    text = ":".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """A numpy generator for the stream `names` of the run `seed`."""
    return np.random.default_rng(derive_seed(seed, *names))


def seed_everything(seed: int, *names: str | int) -> None:
    """Seed the global generators of random, numpy and (where it is loaded) torch for the stream `names`."""
    value = derive_seed(seed, *names)
    random.seed(value)
    # Libraries still draw from the old global generator.
    np.random.seed(value % 2**32)  # noqa: NPY002
    # torch is only touched where someone uses it, so that the core stays importable without it.
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(value)
