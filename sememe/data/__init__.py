"""Files to Interactions and Catalog, to splits, to batches."""
