"""A model and a request to Ranked items."""
