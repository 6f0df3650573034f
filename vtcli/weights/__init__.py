"""From a source to our safetensors: registry, on_download, safe readers, our own files."""
