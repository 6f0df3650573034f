"""The architectures: one folder each, found by name; another package can register more.

A folder has `model.py` (the network), `configs.py` (a frozen dataclass and the published
configurations) and `checkpoints.py` (upstream tensor names <-> ours); its `__init__.py` combines
them in one `ARCHITECTURE`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vtcli.errors import UnknownModelError, UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vtcli.models.layouts import Layout, Mapped

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Architecture:
    """Everything the rest of the program needs to know about one architecture.

    presets: published configurations by model name, e.g. `uniformerv2-b`.
    build: config -> module, with parameters on the current default device.
    infer_config: (shapes by our names, fields that shapes do not show) -> config.
    published_macs: config -> multiply-accumulates of one view as papers count them.
    layouts: upstream file layouts by name.
    variable_fields: fields that may differ between files of one model; a file's shapes decide.
    head_tensors: our names of the tensors whose first dimension is the class index.
    init_from_image_model: (tensors of an image model, config) -> the tensors of ours that they
        provide; None if there is no such image model.
    """

    name: str
    title: str
    presets: Mapping[str, Any]
    build: Callable[[Any], nn.Module]
    infer_config: Callable[[Shapes, Mapping[str, Any]], Any]
    layouts: Mapping[str, Layout]
    head_tensors: tuple[str, ...] = ("head.weight", "head.bias")
    variable_fields: tuple[str, ...] = ()
    published_macs: Callable[[Any], int] | None = None
    init_from_image_model: Callable[[Mapping[str, Tensor], Any], Mapped] | None = None

    @property
    def config_class(self) -> type[Any]:
        """The frozen dataclass of this architecture's configurations."""
        return type(next(iter(self.presets.values())))

    def read_config(self, table: Mapping[str, Any]) -> Any:
        """A configuration from its JSON form, in which tuples are lists."""
        return with_overrides(self.config_class(), table)


_registered: dict[str, Architecture] = {}


def register_architecture(architecture: Architecture) -> None:
    """Register an architecture from outside this package for the rest of the process."""
    _registered[architecture.name] = architecture


def list_architectures() -> list[str]:
    """Names of all architectures, those in this package first."""
    own = [m.name for m in pkgutil.iter_modules(__path__) if m.ispkg]
    return own + [name for name in _registered if name not in own]


def get_architecture(name: str) -> Architecture:
    """The architecture of this name.

    Raises `UnknownModelError` for an unknown name.
    """
    if name in _registered:
        return _registered[name]
    if name not in list_architectures():
        known = ", ".join(list_architectures())
        raise UnknownModelError(f"unknown architecture '{name}'; known are {known}")
    architecture: Architecture = importlib.import_module(f"{__name__}.{name}").ARCHITECTURE
    return architecture


def find_preset(model: str) -> tuple[Architecture, Any]:
    """The architecture and published configuration of a model name such as `uniformerv2-b`.

    Raises `UnknownModelError` if no architecture has it.
    """
    for name in list_architectures():
        architecture = get_architecture(name)
        if model in architecture.presets:
            return architecture, architecture.presets[model]
    raise UnknownModelError(f"no architecture has a model '{model}'")


def with_overrides(config: Any, overrides: Mapping[str, Any]) -> Any:
    """`config` with some fields replaced; lists become tuples.

    Raises `UsageError` for a field the architecture does not have.
    """
    try:
        return replace(config, **{name: _frozen(value) for name, value in overrides.items()})
    except TypeError as error:
        known = ", ".join(config.__dataclass_fields__)
        raise UsageError(f"{type(config).__name__}: {error}; its fields are {known}") from error


def count_layers(names: Container[str], pattern: str) -> int:
    """The number of consecutive layers, from 0, with the tensor that `pattern` names with `{}`."""
    count = 0
    while pattern.format(count) in names:
        count += 1
    return count


def _frozen(value: Any) -> Any:
    """Lists, as in JSON and TOML, as the tuples of a frozen configuration."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value
