"""From a file to the clip tensor a checkpoint was tested with: decoding, sampling, transforms."""
