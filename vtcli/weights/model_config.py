"""TODO-HEAD"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vtcli.errors import UnknownModelError
from vtcli.weights.registry import Checkpoint, load_registry

if TYPE_CHECKING:
    pass


def model_config(name: str) -> tuple[Any, Any]:
    """The architecture and configuration of a model name or a checkpoint id.

    Raises `UnknownModelError` naming the nearest names.
    """
    from vtcli.models import find_preset, get_architecture

    try:
        return find_preset(name)
    except UnknownModelError:
        row = load_registry().find(name)
        architecture = get_architecture(row.arch)
        return architecture, config_for(architecture, row)


def config_for(architecture: Any, row: Checkpoint) -> Any:
    """The published size of a row's model, with what the row says of this checkpoint."""
    from vtcli.models import with_overrides

    facts = {"num_classes": row.num_classes, "num_frames": row.frames, **row.config}
    return with_overrides(architecture.presets[row.model], facts)
