"""Labeled videos: annotation formats, label maps, splits, the dataset catalog, dataset checks, and
clip loaders for evaluation and training.
"""
