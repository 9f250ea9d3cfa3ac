"""Logits processors: ``logits`` change scores, ``warpers`` narrow what is drawn from, ``chain`` puts them in order."""
