"""Ranked items and the truth to numbers with intervals."""
