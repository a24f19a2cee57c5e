"""Batch to code logits, vectors or scores."""
