"""A training recipe: the hyperparameters that an architecture is trained with, as data.

Each architecture states its recipes in its own recipe.py (`Architecture.recipes`). Fields have the
names of timm's training options; where upstream's rule has no counterpart in timm, the closest
setting is used and a comment says what it stands for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from vtcli.errors import UsageError

CropMode = Literal["rrc", "sides"]
AmpType = Literal["off", "bf16", "fp16"]
Scaling = Literal["linear", "sqrt"]
ClassWeights = Literal["none", "sqrt", "inverse"]
Sampling = Literal["natural", "balanced"]
Loss = Literal["auto", "ce", "bce"]
HeadInit = Literal["zero", "probe"]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a network is trained, except its data and its initial weights.

    `batch_size` counts clips per process and forward pass; an optimizer step sees `batch_size` x
    `grad_accum_steps` x processes of them. `lr`, `head_lr`, `warmup_lr` and `min_lr` are stated for
    `lr_base_size` clips per optimizer step. A field that is None keeps the model's own value;
    without `head_lr` the classifier is trained at `lr`.
    `no_weight_decay` and `backbone_lr_except` hold parts of tensor names.

    Raises `UsageError`, naming the option, for a value out of range.
    """

    epochs: Annotated[int, "Number of epochs."] = 30
    batch_size: Annotated[int, "Clips per process and forward pass."] = 8
    grad_accum_steps: Annotated[
        int, "Forward passes whose gradients are accumulated for one optimizer step."
    ] = 1
    opt: Annotated[str, "Optimizer, by its name in timm."] = "adamw"
    momentum: Annotated[float, "Momentum of optimizers that have one."] = 0.9
    lr: Annotated[float, "Learning rate for --lr-base-size clips per optimizer step."] = 1e-3
    head_lr: Annotated[
        float | None, "Learning rate of the classifier, stated and scaled as --lr is."
    ] = None
    lr_base_size: Annotated[int, "Clips per optimizer step that --lr is stated for."] = 64
    lr_base_scale: Annotated[
        Scaling, "How the learning rate scales with the clips per optimizer step: linear or sqrt."
    ] = "linear"
    warmup_epochs: Annotated[float, "Epochs of linear warmup."] = 2.5
    warmup_lr: Annotated[float, "Learning rate at the start of warmup."] = 0.0
    min_lr: Annotated[float, "Learning rate at the end of the cosine schedule."] = 0.0
    weight_decay: Annotated[float, "Weight decay."] = 0.05
    filter_bias_and_bn: Annotated[
        bool, "Exclude biases and normalization layers from weight decay."
    ] = True
    no_weight_decay: Annotated[
        tuple[str, ...], "Exclude tensors with this text in their name from weight decay."
    ] = ()
    layer_decay: Annotated[
        float, "Layer-wise learning rate decay: factor per layer below the head; 1 turns it off."
    ] = 1.0
    backbone_lr: Annotated[float, "Factor of the learning rate of all layers except the head."] = (
        1.0
    )
    backbone_lr_except: Annotated[
        tuple[str, ...], "Do not apply --backbone-lr to tensors with this text in their name."
    ] = ()
    clip_grad: Annotated[float, "Clip the gradient norm to this value; 0 turns clipping off."] = 0.0
    smoothing: Annotated[float, "Label smoothing."] = 0.0
    loss: Annotated[
        Loss,
        "Loss: ce takes one class per video, bce decides on each class alone; auto is bce where "
        "videos have several labels.",
    ] = "auto"
    class_weights: Annotated[
        ClassWeights,
        "Weight of a class of n videos in the loss: none, sqrt (1/sqrt(n)) or inverse (1/n).",
    ] = "none"
    sampling: Annotated[
        Sampling,
        "Videos of an epoch: natural takes each once, balanced as many of every class.",
    ] = "natural"
    mixup: Annotated[float, "Mixup alpha; 0 turns it off."] = 0.0
    cutmix: Annotated[float, "CutMix alpha; 0 turns it off."] = 0.0
    aa: Annotated[
        str, "RandAugment or AutoAugment policy in timm's notation, sampled once per clip."
    ] = ""
    train_crop_mode: Annotated[
        CropMode,
        "Random crop: rrc samples the area of the box, sides its sides relative to the short side.",
    ] = "rrc"
    scale: Annotated[
        tuple[float, float], "Range of the crop's area, or of its side with sides, as a fraction."
    ] = (0.08, 1.0)
    ratio: Annotated[tuple[float, float], "Range of the crop's width over height."] = (
        3 / 4,
        4 / 3,
    )
    hflip: Annotated[
        float, "Horizontal-flip probability; 0 where labels distinguish left from right."
    ] = 0.5
    reprob: Annotated[float, "Random erasing probability."] = 0.0
    aug_repeats: Annotated[int, "Clips sampled from each video of a batch."] = 1
    drop: Annotated[float | None, "Dropout rate before the classifier."] = None
    drop_path: Annotated[float | None, "Stochastic depth rate."] = None
    model_ema: Annotated[
        bool, "Keep an exponential moving average of the weights, validate and save it."
    ] = False
    model_ema_decay: Annotated[float, "Decay of the moving average."] = 0.9998
    amp_dtype: Annotated[AmpType, "Mixed precision: bf16 or fp16; off trains in fp32."] = "off"
    grad_checkpointing: Annotated[bool, "Recompute activations to save memory."] = False
    freeze_bn: Annotated[bool, "Freeze the running statistics of BatchNorm."] = False
    head_init: Annotated[
        HeadInit,
        "Start of a new classifier: zero, or probe, a linear one fitted to features of the "
        "training videos before the first epoch.",
    ] = "zero"
    trainable: Annotated[str, "Layers to train: full, head, or last-N-blocks."] = "full"

    def __post_init__(self) -> None:
        for name, minimum in _MINIMUM.items():
            if (value := getattr(self, name)) is not None and not value >= minimum:
                raise UsageError(f"{_option(name)} {value} is below {minimum}; raise it")
        for name in _FRACTIONS:
            if (value := getattr(self, name)) is not None and not 0 <= value <= 1:
                raise UsageError(f"{_option(name)} {value} is not between 0 and 1; change it")
        for name, known in _CHOICES.items():
            if (value := getattr(self, name)) not in known:
                raise UsageError(f"{_option(name)} must be one of {', '.join(known)}, not {value}")
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise UsageError(
                    f"--{name} {low} {high} is not a range; give two positive numbers, the smaller "
                    "one first"
                )
        if self.batch_size % self.aug_repeats:
            raise UsageError(
                f"--batch-size {self.batch_size} is not a multiple of --aug-repeats "
                f"{self.aug_repeats}; change one of them"
            )
        trainable_blocks(self.trainable)

    @property
    def top_lr(self) -> float:
        """The highest learning rate of any layer: that of the factor 1."""
        return max(self.lr, self.head_lr or 0.0)

    def lr_scale(self, clips: int) -> float:
        """Factor of the learning rates for optimizer steps of this many clips."""
        ratio = clips / self.lr_base_size
        return ratio if self.lr_base_scale == "linear" else ratio**0.5


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


_MINIMUM = {
    "epochs": 1,
    "batch_size": 1,
    "grad_accum_steps": 1,
    "aug_repeats": 1,
    "lr_base_size": 1,
    "momentum": 0,
    "lr": 0,
    "head_lr": 0,
    "warmup_lr": 0,
    "min_lr": 0,
    "warmup_epochs": 0,
    "weight_decay": 0,
    "clip_grad": 0,
    "mixup": 0,
    "cutmix": 0,
}
_FRACTIONS = (
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
    "class_weights": get_args(ClassWeights),
    "sampling": get_args(Sampling),
    "loss": get_args(Loss),
    "head_init": get_args(HeadInit),
}


def trainable_blocks(trainable: str) -> int | None:
    """How many of the last blocks `--trainable` trains: 0 for `head`, None for `full`.

    Raises `UsageError` for any other text.
    """
    if trainable in ("full", "head"):
        return None if trainable == "full" else 0
    words = trainable.split("-")
    last = len(words) == 3 and words[::2] == ["last", "blocks"] and words[1].isdecimal()
    if last and int(words[1]) > 0:
        return int(words[1])
    raise UsageError(f"--trainable must be full, head or last-N-blocks, not '{trainable}'")
