"""vt: video action recognition from the command line, and the same in Python.

>>> import vtcli
>>> vtcli.predict("clip.mp4", model="uniformerv2-nano")[0].label
'clockwise'

Everything is imported on first use, so that `import vtcli` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vtcli._version import __version__

_HOMES = {
    "create_model": "vtcli.weights.load",
    "load_model": "vtcli.weights.load",
    "list_models": "vtcli.weights.resolve",
    "predict": "vtcli.inference.predict",
    "Predictor": "vtcli.inference.predictor",
    "preprocess": "vtcli.inference.arrays",
    "convert": "vtcli.weights.convert",
    "VtError": "vtcli.errors",
}
__all__ = [
    "Predictor",
    "VtError",
    "__version__",
    "convert",
    "create_model",
    "list_models",
    "load_model",
    "predict",
    "preprocess",
]

if TYPE_CHECKING:
    from vtcli.errors import VtError
    from vtcli.inference.arrays import preprocess
    from vtcli.inference.predict import predict
    from vtcli.inference.predictor import Predictor
    from vtcli.weights.convert import convert
    from vtcli.weights.load import create_model, load_model
    from vtcli.weights.resolve import list_models


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'vtcli' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
