"""Vectors to semantic IDs."""
