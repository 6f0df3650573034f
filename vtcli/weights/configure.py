"""The configuration of a file's tensors: what they show, and what is stated besides them.

Nothing is guessed: a field that neither the tensors nor a statement show is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vtcli.errors import LayoutError, UsageError
from vtcli.models import Architecture
from vtcli.models.build import build_on_meta
from vtcli.models.layouts import Mapped
from vtcli.runtime.fields import field_types, wrong_field
from vtcli.weights.class_order import CheckpointOrigin
from vtcli.weights.formats.transformers_repo import CONFIG, Stated
from vtcli.weights.model_config import config_for


def configure(
    architecture: Architecture,
    mapped: Mapped,
    origin: CheckpointOrigin,
    given: Mapping[str, Any],
    src: str | Path,
) -> Any:
    """The configuration of a file's tensors: the entry's, which must agree with their shapes.

    Without an entry it is what the tensors show and what is stated besides them; `LayoutError` if
    that is not enough, or if they contradict each other.
    """
    shapes, entry = _shapes(mapped.tensors), origin.entry
    given = {name: value for name, value in given.items() if value}
    if wrong := next((n for n in given if n not in field_types(architecture.config_class)), ""):
        raise UsageError(f"{architecture.title} has no {_option(wrong)}; leave it out")
    if wrong := wrong_field(architecture.config_class, given):
        raise UsageError(
            f"{architecture.title} shows it in its tensors: leave {_option(wrong)} out"
        )
    if entry is None:
        return _stated_config(architecture, mapped, origin.stated, given, src)
    config = config_for(architecture, entry)
    for name, value in given.items():
        if getattr(config, name) != value:
            raise UsageError(
                f"{entry.id or 'the model of -m'} has {name} {getattr(config, name)}, not {value}; "
                f"leave {_option(name)} or -m out"
            )
    if origin.stated is not None:
        for name in architecture.unseen_fields:
            if origin.stated.config.get(name, getattr(config, name)) != getattr(config, name):
                raise LayoutError(
                    f"{src} does not fit {entry.id}: {CONFIG} says {name} "
                    f"{origin.stated.config[name]}, not {getattr(config, name)}; leave -m out"
                )
    # Both are inferred from shapes alone, so that every difference is one of the tensors.
    expected_shapes = _shapes(build_on_meta(architecture, config).state_dict())
    try:
        actual = architecture.infer_config(shapes, {})
        expected = architecture.infer_config(expected_shapes, {})
    except LayoutError:
        return config  # check_state_dict names the missing tensor
    from_file = {f: getattr(actual, f) for f in architecture.variable_fields}
    expected, config = replace(expected, **from_file), replace(config, **from_file)
    different = [f for f in asdict(actual) if getattr(actual, f) != getattr(expected, f)]
    if different:
        name = next((f for f in different if f not in architecture.unseen_fields), different[0])
        way = "name another model with -m"
        if different == ["num_classes"]:
            way = "give its class names with --labels FILE, one per line"
        raise LayoutError(
            f"{src} does not fit {entry.id or 'the model and its labels'}: its {name} is "
            f"{getattr(actual, name)}, not {getattr(expected, name)}; {way}"
        )
    return config


def _stated_config(
    architecture: Architecture,
    mapped: Mapped,
    stated: Stated | None,
    given: Mapping[str, Any],
    src: str | Path,
) -> Any:
    shapes = _shapes(mapped.tensors)
    known = {**(stated.config if stated else {}), **given}
    unseen = {k: v for k, v in known.items() if k in architecture.unseen_fields}
    hints = {**mapped.hints, **(unseen or known)}
    if stated is not None and not any(name in shapes for name in architecture.head_tensors):
        hints["num_classes"] = 0
    if stated is not None and architecture.name == "videoswin" and "num_frames" not in hints:
        raise LayoutError(
            f"{src} does not say how many frames its clips have; say it once: vt convert {src} "
            "--num-frames 16 -o model.safetensors"
        )
    try:
        if architecture.require_stated is not None:
            architecture.require_stated(shapes, hints)
        config = architecture.infer_config(shapes, hints)
    except LayoutError as error:
        raise LayoutError(f"{src}: {error}") from error
    for name, value in known.items():
        if getattr(config, name) != value:
            where = f"{CONFIG} says" if stated and name in stated.config else "you say"
            raise LayoutError(
                f"{src}: {where} {name} {value}, but the tensors have {getattr(config, name)}"
            )
    return config


def _option(field: str) -> str:
    """The option of `vt convert` that gives a field."""
    return "--tubelet" if field == "tubelet_size" else "--" + field.replace("_", "-")


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
