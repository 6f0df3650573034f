"""How each architecture is trained, as data (training sections of the four specifications).

A recipe's fields bear the names of timm's training options, and each can be overridden by an option
of that name. Where an upstream's rule has no counterpart in timm the nearest setting stands here,
and a comment says what it stands for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal, get_args, get_type_hints

from vtcli.errors import UsageError

CropMode = Literal["rrc", "sides"]
AmpType = Literal["off", "bf16", "fp16"]
Scaling = Literal["linear", "sqrt"]


@dataclass(frozen=True)
class Recipe:
    """All that decides how a network is trained, beside its data and where it starts.

    `batch_size` counts clips per process and step; an update sees `batch_size` x
    `grad_accum_steps` x processes of them. `lr`, `warmup_lr` and `min_lr` are stated for
    `lr_base_size` clips per update. A field that is None leaves the model's own value.
    `no_weight_decay` and `backbone_lr_except` hold pieces of tensor names.
    """

    epochs: Annotated[int, "Epochs."] = 30
    batch_size: Annotated[int, "Clips per process and step."] = 8
    grad_accum_steps: Annotated[int, "Steps whose gradients are added up for one update."] = 1
    opt: Annotated[str, "Optimizer, by timm's name."] = "adamw"
    momentum: Annotated[float, "Momentum, of optimizers that have one."] = 0.9
    lr: Annotated[float, "Learning rate for --lr-base-size clips per update."] = 1e-3
    lr_base_size: Annotated[int, "Clips per update that --lr is stated for."] = 64
    lr_base_scale: Annotated[Scaling, "How --lr follows the clips: linear or sqrt."] = "linear"
    warmup_epochs: Annotated[float, "Epochs in which the learning rate rises."] = 2.5
    warmup_lr: Annotated[float, "Learning rate it rises from."] = 0.0
    min_lr: Annotated[float, "Learning rate at the end of the cosine."] = 0.0
    weight_decay: Annotated[float, "Weight decay."] = 0.05
    filter_bias_and_bn: Annotated[bool, "Spare biases and norms the weight decay."] = True
    no_weight_decay: Annotated[tuple[str, ...], "Spare tensors with this in their name."] = ()
    layer_decay: Annotated[float, "Factor of the learning rate per layer below the head."] = 1.0
    backbone_lr: Annotated[float, "Factor of the learning rate of all but the head."] = 1.0
    backbone_lr_except: Annotated[tuple[str, ...], "Tensors that --backbone-lr leaves out."] = ()
    clip_grad: Annotated[float, "Largest norm of the gradients; 0: any."] = 0.0
    smoothing: Annotated[float, "Label smoothing."] = 0.0
    mixup: Annotated[float, "Mixup's alpha; 0: off."] = 0.0
    cutmix: Annotated[float, "CutMix's alpha; 0: off."] = 0.0
    aa: Annotated[str, "RandAugment or AutoAugment in timm's words, one draw per clip."] = ""
    train_crop_mode: Annotated[
        CropMode, "rrc: boxes by area; sides: boxes by their side over the short side."
    ] = "rrc"
    scale: Annotated[tuple[float, float], "Range of the crop's area, or of its side."] = (0.08, 1.0)
    ratio: Annotated[tuple[float, float], "Range of the crop's width over height."] = (3 / 4, 4 / 3)
    hflip: Annotated[float, "Share of clips that are mirrored; never where labels say a side."] = (
        0.5
    )
    reprob: Annotated[float, "Share of clips in which a box is erased."] = 0.0
    aug_repeats: Annotated[int, "Clips drawn from each video of a batch."] = 1
    drop: Annotated[float | None, "Dropout before the classifier."] = None
    drop_path: Annotated[float | None, "Stochastic depth."] = None
    model_ema: Annotated[bool, "Keep a moving average of the weights and validate it."] = False
    model_ema_decay: Annotated[float, "Decay of the moving average."] = 0.9998
    amp_dtype: Annotated[AmpType, "Autocast to bf16 or fp16; off: fp32."] = "off"
    grad_checkpointing: Annotated[bool, "Compute blocks twice instead of keeping them."] = False
    freeze_bn: Annotated[bool, "Keep BatchNorm's statistics as they are."] = False
    train: Annotated[str, "What is trained: full, head, or last-N-blocks."] = "full"

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if (value := getattr(self, name)) is not None and not value >= least:
                raise UsageError(f"--{name.replace('_', '-')} {value} is below {least}; raise it")
        for name in _SHARES:
            if (value := getattr(self, name)) is not None and not 0 <= value <= 1:
                raise UsageError(f"--{name.replace('_', '-')} {value} is no share from 0 to 1")
        for name, known in _CHOICES.items():
            if (value := getattr(self, name)) not in known:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{option} is one of {', '.join(known)}, not {value}")
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise UsageError(
                    f"--{name} {low} {high} is no range; the smaller number comes first"
                )
        if self.batch_size % self.aug_repeats:
            raise UsageError(
                f"--batch-size {self.batch_size} is no multiple of --aug-repeats "
                f"{self.aug_repeats}; change one of them"
            )
        trained_blocks(self.train)

    def lr_scale(self, clips: int) -> float:
        """What learning rates are multiplied by when an update sees so many clips."""
        ratio = clips / self.lr_base_size
        return ratio if self.lr_base_scale == "linear" else ratio**0.5


_LEAST = {
    "epochs": 1,
    "batch_size": 1,
    "grad_accum_steps": 1,
    "aug_repeats": 1,
    "lr_base_size": 1,
    "momentum": 0,
    "lr": 0,
    "warmup_lr": 0,
    "min_lr": 0,
    "warmup_epochs": 0,
    "weight_decay": 0,
    "clip_grad": 0,
    "mixup": 0,
    "cutmix": 0,
}
_SHARES = (
    "smoothing",
    "hflip",
    "reprob",
    "layer_decay",
    "backbone_lr",
    "model_ema_decay",
    "drop",
    "drop_path",
)
_CHOICES = {
    "train_crop_mode": get_args(CropMode),
    "amp_dtype": get_args(AmpType),
    "lr_base_scale": get_args(Scaling),
}


def trained_blocks(train: str) -> int | None:
    """How many of the last blocks `--train` lets change: 0 for `head`, None for all.

    Raises `UsageError` for other words.
    """
    if train in ("full", "head"):
        return None if train == "full" else 0
    words = train.split("-")
    last = len(words) == 3 and words[::2] == ["last", "blocks"] and words[1].isdecimal()
    if last and int(words[1]) > 0:
        return int(words[1])
    raise UsageError(f"--train is full, head or last-N-blocks, not '{train}'")


# timm scales the rate of adaptive optimizers by the root of the batch, that of SGD linearly; no
# upstream scales it at all.
_VIDEOSWIN = Recipe(
    lr=1e-3,
    lr_base_scale="sqrt",
    warmup_epochs=2.5,
    warmup_lr=1e-4,
    weight_decay=0.05,
    filter_bias_and_bn=False,
    no_weight_decay=("bias_table", "norm"),
    backbone_lr=0.1,
)
_VIVIT = Recipe(
    opt="momentum",
    lr=0.1,
    weight_decay=0.0,
    clip_grad=1.0,
    # Short side 256, height and width stretched by 0.9 to 1.33 each, a crop of 224.
    train_crop_mode="sides",
    scale=(0.66, 0.97),
    ratio=(0.8, 1.25),
)
_XVIT = Recipe(
    opt="sgd",
    lr=0.03,
    warmup_epochs=5,
    warmup_lr=0.01,
    weight_decay=1e-5,
    filter_bias_and_bn=False,
    no_weight_decay=("head.bias",),
    smoothing=0.3,
    mixup=0.4,
    aa="v0",
    # Sides of 1, 0.875, 0.75 or 0.66 of the short side, neighbors in this list together.
    train_crop_mode="sides",
    scale=(0.66, 1.0),
    ratio=(0.86, 1.16),
)
_UNIFORMERV2 = Recipe(
    epochs=55,
    lr=1e-5,
    lr_base_size=256,
    lr_base_scale="sqrt",
    warmup_epochs=5,
    warmup_lr=1e-6,
    min_lr=1e-6,
    weight_decay=0.05,
    clip_grad=20.0,
    aa="rand-m7-n4-mstd0.5-inc1",
)

RECIPES: Mapping[str, Recipe] = {
    "videoswin": _VIDEOSWIN,
    "videoswin-something": replace(
        _VIDEOSWIN,
        epochs=60,
        lr=3e-4,
        warmup_lr=3e-5,
        hflip=0.0,
        aa="rand-m7-n4",
        reprob=0.25,
        smoothing=0.1,
        drop_path=0.4,
    ),
    "vivit": _VIVIT,
    "vivit-something": replace(
        _VIVIT,
        epochs=35,
        lr=0.4,
        hflip=0.0,
        smoothing=0.3,
        mixup=0.3,
        aa="rand-m20-n2-mmax20",
        drop_path=0.3,
    ),
    "xvit": _XVIT,
    "xvit-something": replace(
        _XVIT,
        epochs=35,
        warmup_lr=0.003,
        weight_decay=1e-4,
        smoothing=0.0,
        mixup=0.0,
        hflip=0.0,
        reprob=0.5,
        # Short side 256 to 320, a crop of 224.
        scale=(0.7, 0.875),
        ratio=(1.0, 1.0),
    ),
    # Small networks from random values, such as those of this package.
    "nano": Recipe(
        epochs=24,
        batch_size=32,
        lr=1.5e-3,
        lr_base_size=32,
        lr_base_scale="sqrt",
        warmup_epochs=1,
        weight_decay=0.05,
        no_weight_decay=("bias_table",),
        clip_grad=1.0,
        scale=(0.5, 1.0),
    ),
    "uniformerv2": _UNIFORMERV2,
    "uniformerv2-something": replace(
        _UNIFORMERV2, epochs=22, lr=4e-5, lr_base_size=128, hflip=0.0, aug_repeats=2
    ),
}


def find_recipe(arch: str, flip_sensitive: bool, name: str | None = None) -> tuple[str, Recipe]:
    """A recipe by its name, else the architecture's own: with `flip_sensitive` labels, that of
    Something-Something.

    An architecture without a recipe gets the fields' defaults. Raises `UsageError` for an unknown
    name.
    """
    if name is not None and name not in RECIPES:
        raise UsageError(f"there is no recipe '{name}'; there are {', '.join(RECIPES)}")
    usual = f"{arch}-something" if flip_sensitive else arch
    chosen = name or (usual if usual in RECIPES else arch)
    return chosen, RECIPES.get(chosen, Recipe())


def options() -> Mapping[str, tuple[Any, str]]:
    """The type and the help of each field's option."""
    hints = get_type_hints(Recipe, include_extras=True)
    return {f.name: get_args(hints[f.name])[:2] for f in fields(Recipe)}


def override(recipe: Recipe, given: Mapping[str, Any]) -> Recipe:
    """The recipe with the options that are not None; raises `UsageError` for an impossible one.

    Of other epochs the same share is warm-up, unless that is given too.
    """
    values: dict[str, Any] = {n: v for n, v in given.items() if v is not None}
    if "epochs" in values:
        values.setdefault("warmup_epochs", recipe.warmup_epochs * values["epochs"] / recipe.epochs)
    frozen: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
    return replace(recipe, **frozen)
