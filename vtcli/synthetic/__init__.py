"""Synthetic videos: the Motion-8 dataset and the demonstration on it."""
