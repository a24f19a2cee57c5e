"""A run behind HTTP: routes, batching, stores of events and items, and a page."""
