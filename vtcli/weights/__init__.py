"""Weights: registry, download, safe readers, conversion, and our own checkpoint files."""
