"""Loads the network of a `Predictor`: a checkpoint, an exported graph, or one that is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from vtcli.inference.arrays import loaded_network
from vtcli.inference.compiled import compiled
from vtcli.inference.settings import PredictSettings
from vtcli.runtime.progress import ProgressCallback
from vtcli.weights.graph_model import find_graph, load_graph
from vtcli.weights.load import load_resolved
from vtcli.weights.resolve import resolve

if TYPE_CHECKING:
    from torch import nn

    from vtcli.models.protocol import VideoModel


def load_network(
    model: str | Path | nn.Module, settings: PredictSettings, on_download: ProgressCallback | None
) -> VideoModel:
    """The network as the settings ask for it; parameters and errors are those of `Predictor`."""
    from vtcli.runtime.device import resolve_device

    device, precision, label_set = settings.device, settings.precision, settings.label_set
    resolve_device(device)
    net = loaded_network(model)
    if net is None:
        found = resolve(cast("str | Path", model), on_download, graphs=True)
        if find_graph(found.path) is not None:
            net = load_graph(found.path, device, precision, label_set)
        else:
            # A compiler arranges weights itself. A network of the caller's stays as it is.
            loaded = load_resolved(found, device, precision, label_set, not settings.compile)
            net = cast("VideoModel", loaded)
    return compiled(net) if settings.compile else net
