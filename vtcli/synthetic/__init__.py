"""Synthetic videos: the Motion-8 and Motion-8b datasets, and the demonstration on the first."""
