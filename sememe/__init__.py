"""Generative recommendation: data, codes, generators, alignment, constrained decoding and serving in one package."""

__version__ = "0.1.0"
