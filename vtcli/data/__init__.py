"""Labelled videos: annotations of every known format, the catalogue, checks, made-up sets."""
