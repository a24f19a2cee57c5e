"""A policy and a reward to batches: samples drawn from a generator, and how good each of them is."""
