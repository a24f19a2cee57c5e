"""The nouns and rules that every part shares; no torch here."""
