"""Catalog (and training interactions) to item vectors."""
