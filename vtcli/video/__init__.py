"""From a file to the clip tensor a checkpoint was tested with: decoding, sampling, transforms."""

TIME_EPS = 1e-6
"""Seconds: moments no further apart are one, since multiples of a window's length are rounded."""
