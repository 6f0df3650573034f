"""Where training starts: a video checkpoint with a new classifier, an image model inflated as the
architecture's paper does it, or random values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtcli.errors import FetchError, LayoutError, UnknownModelError, UsageError
from vtcli.models import Architecture, get_architecture, with_overrides
from vtcli.models.build import format_names
from vtcli.runtime.progress import ProgressCallback
from vtcli.training.recipes import Recipe
from vtcli.video.pipeline import Pipeline
from vtcli.weights.checkpoint import HeadSpec, ModelCard
from vtcli.weights.model_config import config_for
from vtcli.weights.registry import Checkpoint
from vtcli.weights.resolve import lookup, resolve

if TYPE_CHECKING:
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
    """A network to be trained: what it is, what its clips are, and where its weights come from.

    `init` is `checkpoint` (those of `model`), `scratch`, or an image model: a file, hf://org/repo
    or one of timm's names.
    """

    model: str | Path
    init: str
    architecture: Architecture
    config: Any
    pipeline: Pipeline
    known: ModelCard | Checkpoint

    def card(self, heads: tuple[HeadSpec, ...], dataset: str) -> ModelCard:
        """What the trained file says of itself."""
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
    """The network that is to be trained, with classifiers of these sizes; loads no weights.

    Raises what `lookup` raises, and `UsageError` for a setting the architecture does not have or
    frames it cannot take.
    """
    known = lookup(model, on_download)
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
            f"{architecture.title} has one classifier, and the dataset is labeled with "
            f"{' and '.join(heads)}; take a ViViT or X-ViT"
        )
    named = {"num_frames": num_frames, "dropout": recipe.drop, "drop_path": recipe.drop_path}
    changes.update({name: value for name, value in named.items() if value is not None})
    pipeline = replace(known.pipeline, frames=num_frames or known.pipeline.frames)
    return ModelInit(model, init, architecture, with_overrides(config, changes), pipeline, known)


def build_model(
    start: ModelInit, labels: tuple[str, ...], on_download: ProgressCallback | None = None
) -> nn.Module:
    """The network with its initial weights, fp32 on the CPU, in training mode.

    Draws from PyTorch's generator. A checkpoint keeps its classifier only where `labels` are its
    own, in this order. Raises what `resolve` raises, and `LayoutError` where tensors do not fit.
    """
    import torch

    with torch.device("meta"):
        model = start.architecture.build(start.config)
    model.to_empty(device="cpu")
    model.init_weights()  # type: ignore[operator]
    if start.init != SCRATCH:
        if start.init == CHECKPOINT:
            tensors = _from_checkpoint(start, labels, on_download)
        else:
            tensors = _from_image(start, on_download)
        _fill(model, tensors, start)
    return model.train()


def _from_checkpoint(
    start: ModelInit, labels: tuple[str, ...], on_download: ProgressCallback | None
) -> dict[str, Tensor]:
    from vtcli.weights.checkpoint import open_tensors

    found = resolve(start.model, on_download)
    tensors = open_tensors(found.path)
    if found.card.labels != labels:
        for name in start.architecture.head_tensors:
            tensors.pop(name, None)
    return tensors


def _from_image(start: ModelInit, on_download: ProgressCallback | None) -> dict[str, Tensor]:
    """An image model's tensors under our names (`Architecture.init_from_image_model`)."""
    from vtcli.weights.formats.readers import read_checkpoint

    if start.architecture.init_from_image_model is None:
        raise UsageError(f"{start.architecture.title} does not start from an image model")
    path = _image_file(start.init, on_download)
    mapped = start.architecture.init_from_image_model(read_checkpoint(path).tensors, start.config)
    if mapped.unexpected:
        raise LayoutError(
            f"{start.init} has {format_names(mapped.unexpected)} that {start.architecture.title} has "
            "no place for; take the image model that its paper starts from"
        )
    return mapped.tensors


def _image_file(name: str, on_download: ProgressCallback | None) -> Path:
    """The file of an image model; timm's names lie at hf://timm/NAME."""
    from vtcli.weights.download import fetch_hub_file

    path = Path(name).expanduser()
    if path.is_file() or path.suffix in (".safetensors", ".pth", ".pt", ".bin", ".npz"):
        return path
    repo, _, revision = name.removeprefix("hf://").partition("@")
    if not name.startswith("hf://"):
        if "/" in name:
            raise UnknownModelError(
                f"--init {name} is no file; write hf://{name} for a repository of the Hub"
            )
        repo = f"timm/{repo}"
    try:
        return fetch_hub_file(repo, revision or None, IMAGE_FILES, progress=on_download)
    except FetchError as error:
        raise FetchError(
            f"{error}; --init takes checkpoint, scratch, a file, hf://org/repo or a name of timm's"
        ) from error


def _fill(model: nn.Module, tensors: Mapping[str, Tensor], start: ModelInit) -> None:
    """Put tensors in; raises `LayoutError` for one that has no place or another shape, and, from a
    checkpoint, where anything but the classifier is missing.
    """
    source = start.init if start.init != CHECKPOINT else start.model
    own = model.state_dict()
    if extra := tensors.keys() - own.keys():
        raise LayoutError(f"{source} has {format_names(list(extra))} that this model does not have")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise LayoutError(
                f"{source}: '{name}' has the shape {list(tensor.shape)}, the model's is "
                f"{list(own[name].shape)}; leave its size and frames as they are"
            )
    missing = own.keys() - tensors.keys() - set(start.architecture.head_tensors)
    if missing and start.init == CHECKPOINT:
        raise LayoutError(f"{source} lacks {format_names(list(missing))} of this model")
    model.load_state_dict(tensors, strict=False)
