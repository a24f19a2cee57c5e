"""Settings of the whole suite: one thread per process, no network, examples that are the same in every run."""

import os

# Before anything imports torch or numpy: the suite runs in several processes, and each would take all cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("POLARS_MAX_THREADS", "2")
# Models come from packages; a test that asks a hub for one must fail at once and not wait for the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

from hypothesis import HealthCheck, settings

settings.register_profile(
    "suite", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")
