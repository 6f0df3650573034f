"""From a file to the clip tensor a checkpoint was tested with: decoding, sampling, transforms."""

TIME_EPS = 1e-6
"""Times that differ by less, in seconds, are equal: multiples of a window's length are rounded."""

TIMEOUT_SECONDS = 300.0
"""Per call to a decode process; a decoder that does not respond for longer is taken to hang."""
