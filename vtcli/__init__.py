"""vt: video action recognition from the command line, and the same in Python.

>>> import vtcli
>>> vtcli.predict("clip.mp4", model="uniformerv2-b").to_dict()

Everything is imported on first use, so that `import vtcli` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "create_model": "vtcli.engine.loading",
    "load_model": "vtcli.engine.loading",
    "list_models": "vtcli.engine.loading",
    "predict": "vtcli.engine.predictor",
    "convert": "vtcli.engine.converter",
    "VtError": "vtcli.errors",
}
__all__ = [
    "VtError",
    "__version__",
    "convert",
    "create_model",
    "list_models",
    "load_model",
    "predict",
]

if TYPE_CHECKING:
    from vtcli.engine.converter import convert
    from vtcli.engine.loading import create_model, list_models, load_model
    from vtcli.engine.predictor import predict
    from vtcli.errors import VtError


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'vtcli' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
