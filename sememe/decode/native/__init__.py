"""A C++ kernel that answers small batches of an item-wise generator's search on one core."""
