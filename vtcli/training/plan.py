"""What a training is, settled before any weights are loaded, and the folder that it lives in."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any, Literal

from vtcli.data.augment import Augmentation
from vtcli.data.clip_loader import workers_of
from vtcli.data.splits import TrainValSplit
from vtcli.errors import UsageError
from vtcli.training.init import ModelInit
from vtcli.training.recipes import Recipe
from vtcli.video.decode import Backend
from vtcli.weights.checkpoint import HeadSpec

Parallel = Literal["ddp", "fsdp"]
SCHEMA = 1
AUGMENTS = ("aa", "train_crop_mode", "scale", "ratio", "hflip", "reprob")


@dataclass(frozen=True)
class TrainSettings:
    """What does not change how the weights come out, save for their last bits and, by `patience`,
    after how many epochs.

    `save_every` counts updates; None saves once per epoch. `patience` is the number of epochs
    without a better one after which training ends; None never. `cache_gb` is the memory of this
    machine for decoded frames.
    """

    device: str = "auto"
    workers: int | None = None
    decoder: Backend = "auto"
    save_every: int | None = None
    patience: int | None = None
    parallel: Parallel = "ddp"
    cache_gb: float = 0.0


@dataclass(frozen=True)
class TrainPlan:
    """One training by `processes` processes."""

    division: TrainValSplit
    start: ModelInit
    recipe_name: str
    recipe: Recipe
    seed: int = 0
    processes: int = 1
    settings: TrainSettings = TrainSettings()

    @property
    def heads(self) -> dict[str, int]:
        """Sizes of the classifiers, by name."""
        return {name: len(names) for name, names in self.division.train.classes.items()}

    @property
    def card_heads(self) -> tuple[HeadSpec, ...]:
        """The classifiers with their class names."""
        classes = self.division.train.classes
        return tuple(HeadSpec(name, len(names), tuple(names)) for name, names in classes.items())

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names of all heads, one after the other."""
        return tuple(label for head in self.card_heads for label in head.labels)

    @property
    def videos_per_step(self) -> int:
        """Samples that all processes together take at a time."""
        return self.recipe.batch_size // self.recipe.aug_repeats * self.processes

    @property
    def clips_per_update(self) -> int:
        """Clips whose gradients make one update, where all can be read and the epoch is not out."""
        return self.recipe.batch_size * self.recipe.grad_accum_steps * self.processes

    @property
    def updates_per_epoch(self) -> int:
        """Updates in which every training sample comes once; the last may be smaller."""
        per_update = self.videos_per_step * self.recipe.grad_accum_steps
        return -(-len(self.division.train.samples) // per_update)

    @property
    def updates(self) -> int:
        """Of all epochs."""
        return self.updates_per_epoch * self.recipe.epochs

    @property
    def lr_scale(self) -> float:
        """What learning rates of the recipe are multiplied by."""
        return self.recipe.lr_scale(self.clips_per_update)

    @property
    def augmentation(self) -> Augmentation:
        """What happens to the pixels."""
        return Augmentation(**{name: getattr(self.recipe, name) for name in AUGMENTS})

    def about(self) -> dict[str, Any]:
        """All that must be the same when a training goes on; JSON-able."""
        train, validation = self.division.train, self.division.validation
        return {
            "recipe": asdict(self.recipe),
            "model": str(self.start.model),
            "init": self.start.init,
            "config": asdict(self.start.config),
            "pipeline": self.start.pipeline.to_dict(),
            "dataset": train.name,
            "classes": {name: list(names) for name, names in train.classes.items()},
            "train_samples": _digest(train.samples),
            "val_samples": _digest(validation.samples),
            "seed": self.seed,
            "clips_per_update": self.clips_per_update,
        }

    def workers(self, processes_here: int) -> int:
        """Threads that decode ahead in one process."""
        return workers_of(self.settings.workers, processes_here)


def _digest(samples: Any) -> str:
    said = [(s.id, s.labels, s.start, s.end, s.first_frame, s.last_frame) for s in samples]
    return hashlib.sha256(repr(said).encode()).hexdigest()[:20]


def resolve_hflip(recipe: Recipe, flip_sensitive: bool, asked: float | None) -> Recipe:
    """Mirroring off where labels say a side; raises `UsageError` where it was asked for."""
    from dataclasses import replace

    if flip_sensitive and asked:
        raise UsageError(
            f"--hflip {asked} would turn left into right, and the labels name a side; leave it out"
        )
    return replace(recipe, hflip=0.0) if flip_sensitive else recipe
