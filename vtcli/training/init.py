"""The initial weights of a training: a video checkpoint with a new classifier, an image model
inflated as the architecture's paper describes, or random values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtcli.errors import FetchError, LayoutError, UnknownModelError, UsageError
from vtcli.models import Architecture, get_architecture, with_overrides
from vtcli.models.build import allocate_weights, build_on_meta, format_names
from vtcli.models.recipe import Recipe
from vtcli.runtime.progress import ProgressCallback
from vtcli.video.pipeline import Pipeline
from vtcli.weights.checkpoint import HeadSpec, ModelCard
from vtcli.weights.model_config import config_for
from vtcli.weights.registry import Checkpoint
from vtcli.weights.resolve import lookup, resolve

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

CHECKPOINT, SCRATCH = "checkpoint", "scratch"
IMAGE_FILES = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)


@dataclass(frozen=True)
class ModelInit:
    """The network to train: its architecture and configuration, its input pipeline, and the source
    of its initial weights.

    `init` is `checkpoint` (the weights of `model`), `scratch`, or an image model: a file,
    hf://org/repo or a model name of timm.
    """

    model: str | Path
    init: str
    architecture: Architecture
    config: Any
    pipeline: Pipeline
    known: ModelCard | Checkpoint

    @property
    def known_labels(self) -> tuple[str, ...] | None:
        """The class names whose classifier the initial weights have; None for a new classifier."""
        return self.known.labels if self.init == CHECKPOINT else None

    @property
    def resizes_positions(self) -> bool:
        """Whether the checkpoint has positions for another number of frames, which are resized."""
        other = self.pipeline.frames != self.known.pipeline.frames
        return other and self.init == CHECKPOINT and bool(self.architecture.resize_over_time)

    def card(self, heads: tuple[HeadSpec, ...], dataset: str) -> ModelCard:
        """The model card of the trained weights."""
        return ModelCard(
            id="",
            arch=self.architecture.name,
            model=self.known.model,
            config=asdict(self.config),
            heads=heads,
            pipeline=self.pipeline,
            dataset=dataset,
            source={"model": str(self.known.id or self.model), "init": self.init},
            pretrain=self.known.id if self.init == CHECKPOINT else self.init,
            license=self.known.license,
        )


def plan_init(
    model: str | Path,
    init: str,
    heads: Mapping[str, int],
    recipe: Recipe,
    num_frames: int | None = None,
    on_download: ProgressCallback | None = None,
) -> ModelInit:
    """The network to train, with heads of these numbers of classes; loads no weights.

    Raises what `lookup` raises, and `UsageError` for a setting that the architecture does not have.
    """
    known = lookup(model, on_download, needs_classifier=False)
    architecture = get_architecture(known.arch)
    if isinstance(known, ModelCard):
        config = architecture.read_config(known.config)
    else:
        config = config_for(architecture, known)
    changes: dict[str, Any] = {"num_classes": sum(heads.values())}
    if "heads" in config.__dataclass_fields__:
        changes["heads"] = tuple(heads.items()) if len(heads) > 1 else ()
    elif len(heads) > 1:
        raise UsageError(
            f"{architecture.title} has one classifier, but the dataset is labeled with "
            f"{' and '.join(heads)}; choose a ViViT or X-ViT with -m"
        )
    changes.update(_given_fields(architecture, config, recipe, num_frames))
    pipeline = replace(known.pipeline, frames=num_frames or known.pipeline.frames)
    return ModelInit(model, init, architecture, with_overrides(config, changes), pipeline, known)


def _given_fields(
    architecture: Architecture, config: Any, recipe: Recipe, num_frames: int | None
) -> dict[str, Any]:
    """The configuration fields that are set; raises `UsageError` for one that `config` lacks."""
    options = {
        "--num-frames": ("num_frames", num_frames),
        "--drop": ("dropout", recipe.drop),
        "--drop-path": ("drop_path", recipe.drop_path),
    }
    existing = [o for o, (name, _) in options.items() if name in config.__dataclass_fields__]
    for option, (_, value) in options.items():
        if value is not None and option not in existing:
            raise UsageError(
                f"{architecture.title} has no {option} (set to {value}); of the options that "
                f"change the network it has {' and '.join(existing) or 'none'}; leave "
                f"{option} out, or choose another --recipe"
            )
    return {name: value for name, value in options.values() if value is not None}


def build_model(
    model_init: ModelInit, labels: tuple[str, ...], on_download: ProgressCallback | None = None
) -> nn.Module:
    """The network with its initial weights, fp32 on the CPU, in training mode.

    Random values come from PyTorch's global generator. A checkpoint keeps its classifier only where
    `labels` equal its own, in the same order; a new linear one is zero. Raises what `resolve`
    raises, and `LayoutError` where tensors do not fit.
    """
    model = build_on_meta(model_init.architecture, model_init.config)
    allocate_weights(model)
    model.init_weights()  # type: ignore[operator]
    if model_init.init != SCRATCH:
        if model_init.init == CHECKPOINT:
            tensors = _from_checkpoint(model_init, labels, on_download)
        else:
            tensors = _from_image(model_init, on_download)
        _fill(model, tensors, model_init)
        if model_init.init == CHECKPOINT and model_init.known_labels != labels:
            _zero_classifier(model, model_init.architecture.head_tensors)
    return model.train()


def _zero_classifier(model: nn.Module, head_tensors: Sequence[str]) -> None:
    """A new linear classifier starts with equal probabilities, as in Big Transfer (arXiv
    1912.11370) and ViViT: random weights make confident predictions of features with a large norm.
    """
    parameters = [model.get_parameter(name) for name in head_tensors]
    if [parameter.ndim for parameter in parameters] == [2, 1]:
        for parameter in parameters:
            parameter.detach().zero_()


def _from_checkpoint(
    model_init: ModelInit, labels: tuple[str, ...], on_download: ProgressCallback | None
) -> dict[str, Tensor]:
    from vtcli.weights.checkpoint import open_tensors

    found = resolve(model_init.model, on_download, needs_classifier=False)
    tensors = open_tensors(found.path)
    if found.card.labels != labels:
        for name in model_init.architecture.head_tensors:
            tensors.pop(name, None)
    resize = model_init.architecture.resize_over_time
    if model_init.resizes_positions and resize is not None:
        before = model_init.architecture.read_config(found.card.config)
        return resize(tensors, before, model_init.config)
    return tensors


def _from_image(model_init: ModelInit, on_download: ProgressCallback | None) -> dict[str, Tensor]:
    """The tensors of an image model under vt's names (`Architecture.init_from_image_model`)."""
    from vtcli.weights.formats.readers import read_checkpoint

    if model_init.architecture.init_from_image_model is None:
        raise UsageError(
            f"{model_init.architecture.title} cannot be initialized from an image model; use "
            "--init checkpoint or --init scratch"
        )
    path = _image_file(model_init.init, on_download)
    mapped = model_init.architecture.init_from_image_model(
        read_checkpoint(path).tensors, model_init.config
    )
    if mapped.unexpected:
        raise LayoutError(
            f"{model_init.init} has {format_names(mapped.unexpected)} that "
            f"{model_init.architecture.title} does not use; choose the image model that its paper "
            "starts from"
        )
    return mapped.tensors


def _image_file(name: str, on_download: ProgressCallback | None) -> Path:
    """The file of an image model; a name of timm is a repository hf://timm/NAME."""
    from vtcli.weights.download import fetch_hub_file

    path = Path(name).expanduser()
    if path.is_file() or path.suffix in (".safetensors", ".pth", ".pt", ".bin", ".npz"):
        return path
    repo, _, revision = name.removeprefix("hf://").partition("@")
    if not name.startswith("hf://"):
        if "/" in name:
            raise UnknownModelError(
                f"--init {name} is not a file; write hf://{name} for a repository of the Hub"
            )
        repo = f"timm/{repo}"
    try:
        return fetch_hub_file(repo, revision or None, IMAGE_FILES, progress=on_download)
    except FetchError as error:
        raise FetchError(
            f"{error}; --init takes checkpoint, scratch, a file, hf://org/repo or a timm model name"
        ) from error


def _fill(model: nn.Module, tensors: Mapping[str, Tensor], model_init: ModelInit) -> None:
    """Load tensors into the network.

    Raises `LayoutError` for one that the network does not have or has in another shape, and, from a
    checkpoint, where anything but the classifier is missing.
    """
    source = model_init.init if model_init.init != CHECKPOINT else model_init.model
    own = model.state_dict()
    if extra := tensors.keys() - own.keys():
        raise LayoutError(f"{source} has {format_names(list(extra))} that this model does not have")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise LayoutError(
                f"{source}: '{name}' has the shape {list(tensor.shape)}, the model's is "
                f"{list(own[name].shape)}; keep the resolution and --num-frames of the checkpoint"
            )
    missing = own.keys() - tensors.keys() - set(model_init.architecture.head_tensors)
    if missing and model_init.init == CHECKPOINT:
        raise LayoutError(f"{source} lacks {format_names(list(missing))} of this model")
    model.load_state_dict(tensors, strict=False)


def check_clip_size(model: nn.Module, pipeline: Pipeline, device: torch.device) -> None:
    """Raise `ShapeError` for clips that the network cannot take, before any video is read."""
    import torch

    p = pipeline
    clip_B3TSS = torch.zeros(1, 3, p.frames, p.crop_size, p.crop_size, device=device)
    model.eval()
    with torch.inference_mode():
        model(clip_B3TSS)
    model.train()
