"""Labeled videos: annotations of every known format, the catalog, checks, made-up sets."""
