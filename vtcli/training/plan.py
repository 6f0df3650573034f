"""What is trained, settled before any weights are loaded: data, network, recipe and settings."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from vtcli.data.augment import Augmentation
from vtcli.data.clip_loader import workers_of
from vtcli.data.frame_cache import FrameCache
from vtcli.data.splits import TrainValSplit
from vtcli.errors import UsageError
from vtcli.models.build import build_on_meta
from vtcli.models.recipe import Recipe
from vtcli.training.balance import class_weights, is_unbalanced
from vtcli.training.choose import HEAD_LR, SMALL, head_width
from vtcli.training.init import SCRATCH, ModelInit
from vtcli.training.optim import least_sum_of_rates, sum_of_head_rates
from vtcli.training.recipes import AUGMENTATION_FIELDS
from vtcli.video import TIMEOUT_SECONDS
from vtcli.video.decode import Backend
from vtcli.weights.checkpoint import HeadSpec

Parallel = Literal["ddp", "fsdp"]


@dataclass(frozen=True)
class TrainSettings:
    """What does not change the trained weights, except for rounding and, through `patience`, for
    the number of epochs.

    `save_every` counts optimizer steps; None saves once per epoch. `patience` is the number of
    epochs without improvement after which training stops; None never stops early. `ram_cache_gb`
    is the memory of this machine for decoded frames. `workers` are decoding processes, `timeout` is
    in seconds per video.
    """

    device: str = "auto"
    workers: int | None = None
    decoder: Backend = "auto"
    save_every: int | None = None
    patience: int | None = None
    parallel: Parallel = "ddp"
    ram_cache_gb: float = 0.0
    timeout: float = TIMEOUT_SECONDS


@dataclass(frozen=True)
class TrainPlan:
    """One training by `processes` processes.

    `fits_features`: the classifier is fitted to cached features (`training.head_fit`).
    """

    split: TrainValSplit
    model_init: ModelInit
    recipe_name: str
    recipe: Recipe
    seed: int = 0
    processes: int = 1
    settings: TrainSettings = TrainSettings()
    recipe_reason: str = ""
    fits_features: bool = False

    @property
    def heads(self) -> dict[str, int]:
        """Number of classes of each head, by name."""
        return {name: len(names) for name, names in self.split.train.classes.items()}

    @property
    def card_heads(self) -> tuple[HeadSpec, ...]:
        """The heads with their class names."""
        classes = self.split.train.classes
        return tuple(HeadSpec(name, len(names), tuple(names)) for name, names in classes.items())

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names of all heads, concatenated."""
        return tuple(label for head in self.card_heads for label in head.labels)

    @property
    def videos_per_micro_step(self) -> int:
        """Videos in one forward pass of all processes together."""
        return self.recipe.batch_size // self.recipe.aug_repeats * self.processes

    @property
    def clips_per_step(self) -> int:
        """Clips per optimizer step, where all can be read; the last step of an epoch may have
        fewer.
        """
        return self.recipe.batch_size * self.recipe.grad_accum_steps * self.processes

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in which every training video occurs once."""
        per_step = self.videos_per_micro_step * self.recipe.grad_accum_steps
        return -(-len(self.split.train.samples) // per_step)

    @property
    def steps(self) -> int:
        """Optimizer steps of all epochs."""
        return self.steps_per_epoch * self.recipe.epochs

    @property
    def lr_scale(self) -> float:
        """Factor of the recipe's learning rates for this plan's clips per optimizer step."""
        return self.recipe.lr_scale(self.clips_per_step)

    @property
    def class_weights(self) -> list[float] | None:
        """Factors [K] of the classes in the loss; None: 1."""
        return class_weights(self.split.train, self.recipe.class_weights)

    @property
    def multi_label(self) -> bool:
        """Whether each class is decided alone (binary cross-entropy)."""
        return self.model_init.pipeline.multi_label

    @property
    def fits_start(self) -> bool:
        """Whether a new classifier is fitted to features before the first epoch (`head_start`)."""
        new = self.model_init.init != SCRATCH and self.model_init.known_labels != self.labels
        return self.recipe.head_init == "probe" and new and not self.is_sharded

    @property
    def is_sharded(self) -> bool:
        """Whether every process has a shard of each parameter."""
        return self.settings.parallel == "fsdp" and self.processes > 1

    @property
    def best_epoch_by(self) -> str:
        """The column of history.csv by which the best epoch is chosen."""
        if self.multi_label:
            return "val_map"
        return "val_macro" if is_unbalanced(self.split.train) else "val_top1"

    @property
    def head_lr(self) -> float:
        """The learning rate of the classifier."""
        recipe = self.recipe
        return (recipe.lr if recipe.head_lr is None else recipe.head_lr) * self.lr_scale

    def sum_of_head_rates(self) -> float:
        """The sum of the classifier's learning rates over all optimizer steps."""
        return sum_of_head_rates(self.recipe, self.steps, self.steps_per_epoch, self.lr_scale)

    def least_sum_of_rates(self) -> float:
        """The sum of learning rates below which a new classifier cannot become confident."""
        classes = max(self.heads.values())
        network = build_on_meta(self.model_init.architecture, self.model_init.config)
        width = head_width(network, self.model_init.architecture.head_tensors)
        return least_sum_of_rates(self.recipe, classes, width)

    def warning(self) -> str:
        """A sentence where a new classifier cannot learn with these settings; else empty."""
        if self.fits_features or self.model_init.known_labels == self.labels:
            return ""  # there are no rates, or the checkpoint's classifier is kept
        total, least = self.sum_of_head_rates(), self.least_sum_of_rates()
        if total >= least:
            return ""
        other = "" if self.recipe_name == SMALL else f", or use --recipe {SMALL}"
        return (
            f"these settings cannot move the classifier: its learning rates sum to {total:.2g} "
            f"over {self.steps} optimizer steps, and {max(self.heads.values())} classes need at "
            f"least {least:.2g}; add --head-lr {self._enough_head_lr(total, least):.1g}{other}"
        )

    def _enough_head_lr(self, total: float, least: float) -> float:
        """A value of `--head-lr` that suffices, with a margin of four."""
        now = self.recipe.lr if self.recipe.head_lr is None else self.recipe.head_lr
        return 4 * now * least / total if total else HEAD_LR / self.lr_scale

    @property
    def augmentation(self) -> Augmentation:
        """The augmentation of training clips."""
        return Augmentation(**{name: getattr(self.recipe, name) for name in AUGMENTATION_FIELDS})

    def fingerprint(self) -> dict[str, Any]:
        """Everything that must be equal for a training to be resumed; JSON-able."""
        train, validation = self.split.train, self.split.validation
        return {
            "recipe": asdict(self.recipe),
            "model": str(self.model_init.model),
            "init": self.model_init.init,
            "config": asdict(self.model_init.config),
            "pipeline": self.model_init.pipeline.to_dict(),
            "dataset": train.name,
            "classes": {name: list(names) for name, names in train.classes.items()},
            "train_samples": _digest(train.samples),
            "val_samples": _digest(validation.samples),
            "seed": self.seed,
            "clips_per_step": self.clips_per_step,
            "fits_features": self.fits_features,
            "best_epoch_by": self.best_epoch_by,
        }

    def frame_cache(self, local_processes: int) -> FrameCache | None:
        """Memory for decoded frames: the part of one of the processes of this machine."""
        size = int(self.settings.ram_cache_gb * 1e9) // local_processes
        return FrameCache(size) if size else None

    def workers(self, local_processes: int) -> int:
        """Decoding threads of one of the processes of this machine."""
        return workers_of(self.settings.workers, local_processes)


def _digest(samples: Any) -> str:
    rows = [(s.id, s.labels, s.start, s.end, s.first_frame, s.last_frame) for s in samples]
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:20]


def resolve_hflip(recipe: Recipe, flip_sensitive: bool, given: float | None) -> Recipe:
    """Turn horizontal flips off where labels distinguish left from right.

    Raises `UsageError` where `--hflip` was given and the labels forbid it.
    """
    if flip_sensitive and given:
        raise UsageError(
            f"--hflip {given} would turn left into right, and the labels distinguish them; leave "
            "it out"
        )
    return replace(recipe, hflip=0.0) if flip_sensitive else recipe
