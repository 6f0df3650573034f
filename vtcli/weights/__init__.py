"""From a source to our safetensors: registry, fetching, safe readers, our own files."""
