"""Compare the logits of a converted model with those of the library that its file is from.

The file's own tensors are loaded strictly into the library's network; both see one random clip.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from vtcli.errors import LayoutError, UsageError
from vtcli.models import Architecture
from vtcli.models.build import build_on_meta, clip_shape, prepare_for_inference
from vtcli.models.layouts import Layout
from vtcli.runtime.extras import missing_package
from vtcli.weights.class_order import reorder_classes
from vtcli.weights.converted_card import Converted

# Another order of additions gives about 1e-5; another number of heads gives more than 0.1.
MAX_DIFFERENCE = 1e-3
SEED = 0
# The libraries of a file format; for the others, the code that would be needed.
LIBRARIES = {("vivit", "hf"): "transformers", ("videoswin", "torchvision"): "torchvision"}
_NEEDED = {
    "scenic": "scenic (JAX)",
    "mmaction2": "mmaction2",
    "official": "the authors' own code",
}


def upstream_library(architecture: Architecture, layout: Layout) -> str:
    """The installed library to compare with; raises `UsageError` where there is none."""
    library = LIBRARIES.get((architecture.name, layout.name), "")
    if not library:
        needed = _NEEDED.get(layout.name, layout.name)
        raise UsageError(
            f"--verify-logits cannot compare {architecture.title} in the {layout.name} layout: it "
            f"would need {needed}, which vt does not run; leave it out, --verify checks the tensors"
        )
    try:
        __import__(library)
    except ImportError as error:
        sentence = missing_package("comparisons of logits", library, "verify")
        raise UsageError(sentence) from error
    return library


def logits_difference(
    done: Converted, upstream: Mapping[str, Tensor], labels: Sequence[str]
) -> tuple[float, str]:
    """The largest absolute difference of logits on a random clip, and the library's name.

    upstream: the tensors that the layout uses, by the names of its rules; labels: our class names.

    The clip [1,3,T,H,W] is normally distributed, with a fixed seed. Raises `LayoutError` above
    1e-3 and for tensors that the library does not take, `UsageError` without a classifier.
    """
    library = upstream_library(done.architecture, done.layout)
    if not done.config.num_classes:
        raise UsageError(
            "--verify-logits needs a classifier, which this file has not; leave it out"
        )
    channels, frames, height, width = clip_shape(done.config)
    generator = torch.Generator().manual_seed(SEED)
    clip_BCTHW = torch.randn(1, channels, frames, height, width, generator=generator)
    gray = getattr(done.config, "num_channels", channels) == 1
    if gray:
        clip_BCTHW = clip_BCTHW[:, :1].repeat(1, channels, 1, 1, 1)
    with torch.no_grad():
        ours = _our_network(done)(clip_BCTHW)[0]
        try:
            if library == "transformers":
                network = _transformers_network(done, upstream, labels)
                clip = clip_BCTHW[:, :1] if gray else clip_BCTHW
                expected = network(clip.transpose(1, 2)).logits[0]
            else:
                expected = _torchvision_network(done, upstream)(clip_BCTHW)[0]
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise LayoutError(f"{library} does not load these weights: {reason}") from error
    head = done.architecture.head_tensors[0]
    expected = reorder_classes({head: expected}, done.architecture, done.permutation)[head]
    difference = (ours - expected).abs().max().item()
    name = f"{library} {version(library)}"
    if not difference <= MAX_DIFFERENCE:
        raise LayoutError(
            f"the logits of the converted model differ from those of {name} by up to "
            f"{difference:.1e}, more than {MAX_DIFFERENCE:.0e}; check --num-heads, --num-frames, "
            "--image-size and -m"
        )
    if library == "transformers" and not _library_config(done):
        name += " with the same frames, size and heads, which no config.json states"
    return difference, name


def _library_config(done: Converted) -> Mapping[str, Any]:
    """The upstream's config.json; empty without one."""
    return done.origin.stated.library_config if done.origin.stated is not None else {}


def _our_network(done: Converted) -> nn.Module:
    network = build_on_meta(done.architecture, done.config)
    tensors = {name: tensor.float() for name, tensor in done.tensors.items()}
    network.load_state_dict(tensors, strict=True, assign=True)
    return prepare_for_inference(network, None, torch.device("cpu"), torch.float32)


def _transformers_network(
    done: Converted, upstream: Mapping[str, Tensor], labels: Sequence[str]
) -> Any:
    from transformers import VivitForVideoClassification
    from transformers.utils import logging

    from vtcli.weights.checkpoint import WEIGHTS_FILE, write_checkpoint

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with TemporaryDirectory(prefix="vt-verify-") as name:
        folder = Path(name)
        write_checkpoint(folder / WEIGHTS_FILE, upstream, {})
        assert done.layout.sidecar is not None
        config_name, text = done.layout.sidecar(done.config, labels, False)
        table = {**json.loads(text), **_library_config(done)}
        table["architectures"] = ["VivitForVideoClassification"]
        (folder / config_name).write_text(json.dumps(table), encoding="utf-8")
        library: Any = VivitForVideoClassification
        network, loading = library.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, local_files_only=True
        )
    if wrong := {kind: sorted(map(str, names))[:3] for kind, names in loading.items() if names}:
        raise ValueError(f"its loading report has {wrong}")
    return network.eval()


def _torchvision_network(done: Converted, upstream: Mapping[str, Tensor]) -> nn.Module:
    from torchvision.models.video.swin_transformer import (  # type: ignore[import-untyped]
        SwinTransformer3d,
    )

    config = done.config
    network: nn.Module = SwinTransformer3d(
        patch_size=list(config.patch_size),
        embed_dim=config.width,
        depths=list(config.depths),
        num_heads=list(config.num_heads),
        window_size=list(config.window_size),
        mlp_ratio=config.mlp_ratio,
        num_classes=config.num_classes,
        norm_layer=None,
    )
    own = network.state_dict()
    # Tables of indices follow from the window size; the library computes them.
    computed = {name: own[name] for name in own if name.endswith("relative_position_index")}
    tensors = {name: tensor.float() for name, tensor in upstream.items()}
    network.load_state_dict({**computed, **tensors}, strict=True)
    return network.eval()
