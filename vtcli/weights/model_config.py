"""The configuration and pipeline of a model name or checkpoint id, before any weights are read.

An entry of the registry is the published configuration of its model with the values that the entry
changes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vtcli.errors import UnknownModelError
from vtcli.models import Architecture, find_preset, get_architecture, with_overrides
from vtcli.models.build import clip_shape
from vtcli.video.pipeline import Pipeline
from vtcli.weights.registry import Checkpoint, load_registry


def model_config(name: str) -> tuple[Architecture, Any]:
    """The architecture and configuration of a checkpoint id, an alias or a published model.

    Raises `UnknownModelError` naming the nearest names.
    """
    registry = load_registry()
    entry = registry.get(name)
    if entry is not None:
        architecture = get_architecture(entry.arch)
        return architecture, config_for(architecture, entry)
    try:
        return find_preset(name)
    except UnknownModelError:
        registry.find(name)  # raises with the nearest names
        raise


def config_for(architecture: Architecture, entry: Checkpoint) -> Any:
    """The published configuration of an entry's model, with the values the entry changes."""
    changes = {"num_classes": entry.num_classes, "num_frames": entry.frames, **entry.config}
    return with_overrides(architecture.presets[entry.model], changes)


def pipeline_for(entry: Checkpoint, config: Any) -> Pipeline:
    """An entry's pipeline at the frame count and frame size of a configuration."""
    _, frames, size, _ = clip_shape(config)
    short_side = round(entry.pipeline.short_side * size / entry.resolution)
    return replace(entry.pipeline, frames=frames, crop_size=size, short_side=short_side)
