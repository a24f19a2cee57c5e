"""Model outputs and a Batch to a loss."""
