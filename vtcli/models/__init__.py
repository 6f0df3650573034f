"""The architectures: one folder each, found by its name; other packages can add architectures.

A folder holds `model.py` (the network), `configs.py` (a frozen dataclass and the published sizes),
`checkpoints.py` (upstream key names <-> ours) and `recipe.py` (training recipes), and its
`__init__.py` combines them in one `ARCHITECTURE`. An installed package adds an architecture through
the entry point group `vtcli.architectures`: the entry point has the architecture's name and refers
to its `Architecture`. It is loaded only when the architecture is used.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from vtcli.errors import UnknownModelError, UsageError
from vtcli.models.recipe import Recipe
from vtcli.runtime.fields import wrong_field

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from torch import Tensor, nn

    from vtcli.models.layouts import Layout, Mapped

Shapes = Mapping[str, tuple[int, ...]]
ENTRY_POINTS = "vtcli.architectures"


@dataclass(frozen=True)
class Architecture:
    """Everything the rest of the program needs to know about one architecture.

    presets: published configurations by model name, e.g. `uniformerv2-b`.
    build: config -> module, with parameters on the current default device.
    infer_config: (shapes by our names, fields that shapes do not show) -> config.
    published_macs: config -> multiply-accumulates of one view as papers count them.
    layouts: upstream file layouts by name.
    read_library_config: the table of a `config.json` of another library -> the fields that it
        states, None if it is not of this architecture.
    unseen_fields: fields that tensors do not show.
    require_stated: (shapes, stated fields) -> None; raises `LayoutError` if the shapes fit more
        than one configuration.
    variable_fields: fields that may differ between files of one model; a file's shapes decide.
    head_tensors: our names of the tensors whose first dimension is the class index.
    init_from_image_model: (tensors of an image model, config) -> the tensors of ours that they
        provide; None if there is no such image model.
    resize_over_time: (our tensors, their config, a config with another `num_frames`) -> the tensors
        for that one; None if no tensor depends on the number of frames.
    recipes: training recipes by variant: "default", and "something" for labels that distinguish
        left from right. Without any, training uses the defaults of `Recipe`.

    The network itself states what training needs of its layers; see `vtcli.training.layers` for
    the methods `group_matcher` and `transformer_blocks`.
    """

    name: str
    title: str
    presets: Mapping[str, Any]
    build: Callable[[Any], nn.Module]
    infer_config: Callable[[Shapes, Mapping[str, Any]], Any]
    layouts: Mapping[str, Layout]
    head_tensors: tuple[str, ...] = ("head.weight", "head.bias")
    variable_fields: tuple[str, ...] = ()
    unseen_fields: tuple[str, ...] = ()
    read_library_config: Callable[[Mapping[str, Any]], dict[str, Any] | None] | None = None
    require_stated: Callable[[Shapes, Mapping[str, Any]], None] | None = None
    published_macs: Callable[[Any], int] | None = None
    init_from_image_model: Callable[[Mapping[str, Tensor], Any], Mapped] | None = None
    resize_over_time: Callable[[Mapping[str, Tensor], Any, Any], dict[str, Tensor]] | None = None
    recipes: Mapping[str, Recipe] = field(default_factory=dict)

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
    """Names of all architectures: those of this package, registered ones, and entry points."""
    return list(dict.fromkeys([*_own_names(), *_registered, *_entry_points()]))


def get_architecture(name: str) -> Architecture:
    """The architecture of this name.

    Raises `UnknownModelError` for an unknown name, and `UsageError` where the entry point of
    another package cannot be loaded.
    """
    if name in _registered:
        return _registered[name]
    if name in _own_names():
        own: Architecture = importlib.import_module(f"{__name__}.{name}").ARCHITECTURE
        return own
    if entry_point := _entry_points().get(name):
        return _load(entry_point)
    known = ", ".join(list_architectures())
    raise UnknownModelError(f"unknown architecture '{name}'; known are {known}")


def _own_names() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__) if module.ispkg]


def _entry_points() -> dict[str, EntryPoint]:
    """Architectures of other installed packages, not loaded."""
    import importlib.metadata

    return {found.name: found for found in importlib.metadata.entry_points(group=ENTRY_POINTS)}


def _load(entry_point: EntryPoint) -> Architecture:
    """Raises `UsageError` naming the distribution where the entry point is broken."""
    try:
        architecture = entry_point.load()
        if not isinstance(architecture, Architecture):
            raise TypeError(f"{entry_point.value} is not an Architecture")
        if architecture.name != entry_point.name:
            raise ValueError(f"{entry_point.value} has the name '{architecture.name}'")
    except Exception as error:
        package = entry_point.dist.name if entry_point.dist else entry_point.value
        raise UsageError(
            f"the architecture '{entry_point.name}' of the package {package} cannot be loaded "
            f"({type(error).__name__}: {error}); update {package} or uninstall it"
        ) from error
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

    Raises `UsageError` for a field the architecture does not have, and for a value of another type.
    """
    if wrong := wrong_field(type(config), overrides):
        raise UsageError(
            f"{type(config).__name__}: {wrong} is {overrides[wrong]!r:.60}, which is not "
            f"{type(config).__annotations__[wrong]}"
        )
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
