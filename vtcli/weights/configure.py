"""The configuration of a file's tensors: what they show, and what is stated besides them.

Nothing is guessed: a field that neither the tensors nor a statement show is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vtcli.errors import LayoutError
from vtcli.models import Architecture
from vtcli.models.build import build_on_meta, check_state_dict
from vtcli.models.layouts import Mapped
from vtcli.weights.class_order import CheckpointOrigin
from vtcli.weights.formats.transformers_repo import CONFIG, Stated
from vtcli.weights.model_config import config_for


def check_tensors(
    architecture: Architecture, config: Any, tensors: Mapping[str, Tensor], src: Path
) -> None:
    """`check_state_dict`, where a network without a classifier is complete without its tensors."""
    network = build_on_meta(architecture, config)
    if not config.num_classes:
        own = network.state_dict()
        tensors = {**{n: own[n] for n in architecture.head_tensors if n in own}, **tensors}
    check_state_dict(network, tensors, src)


def configure(
    architecture: Architecture,
    mapped: Mapped,
    origin: CheckpointOrigin,
    given: Mapping[str, Any],
    src: Path,
) -> Any:
    """The configuration of a file's tensors: the entry's, which must agree with their shapes.

    Without an entry it is what the tensors show and what is stated besides them; `LayoutError` if
    that is not enough, or if they contradict each other.
    """
    shapes, entry = _shapes(mapped.tensors), origin.entry
    if entry is None:
        return _stated_config(architecture, mapped, origin.stated, given, src)
    config = config_for(architecture, entry)
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
        name = different[0]
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
    src: Path,
) -> Any:
    shapes = _shapes(mapped.tensors)
    known = {**(stated.config if stated else {}), **{k: v for k, v in given.items() if v}}
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


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
