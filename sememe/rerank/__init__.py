"""Ranked to Ranked: what decides the final order."""
