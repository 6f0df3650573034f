"""What a training is, settled before any weights are loaded, and the folder that it lives in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from vtcli.data.division import Division
from vtcli.data.loader import workers_of
from vtcli.data.training import Augmentation
from vtcli.engine.recipes import Recipe
from vtcli.engine.starting import Start
from vtcli.errors import DataError, UsageError
from vtcli.video.decode import Backend
from vtcli.weights.atomic import clear_unfinished, unwritable, whole_file
from vtcli.weights.store import CardHead

Parallel = Literal["ddp", "fsdp"]
SCHEMA = 1
AUGMENTS = ("aa", "train_crop_mode", "scale", "ratio", "hflip", "reprob")


@dataclass(frozen=True)
class Settings:
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
class Plan:
    """One training by `processes` processes."""

    division: Division
    start: Start
    recipe_name: str
    recipe: Recipe
    seed: int = 0
    processes: int = 1
    settings: Settings = Settings()

    @property
    def heads(self) -> dict[str, int]:
        """Sizes of the classifiers, by name."""
        return {name: len(names) for name, names in self.division.train.classes.items()}

    @property
    def card_heads(self) -> tuple[CardHead, ...]:
        """The classifiers with their class names."""
        classes = self.division.train.classes
        return tuple(CardHead(name, len(names), tuple(names)) for name, names in classes.items())

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
    def lr_factor(self) -> float:
        """What learning rates of the recipe are multiplied by."""
        return self.recipe.lr_factor(self.clips_per_update)

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


def settle_flips(recipe: Recipe, directional: bool, asked: float | None) -> Recipe:
    """Mirroring off where labels say a side; raises `UsageError` where it was asked for."""
    from dataclasses import replace

    if directional and asked:
        raise UsageError(
            f"--hflip {asked} would turn left into right, and the labels name a side; leave it out"
        )
    return replace(recipe, hflip=0.0) if directional else recipe


@contextmanager
def claimed(folder: Path, about: Mapping[str, Any], resume: bool) -> Iterator[bool]:
    """Make the run directory, or go on in it, and keep other runs out; gives whether it holds one.

    Raises `DataError` where another run is writing there, where it holds a run of another recipe,
    model or dataset, or any run unless `resume`.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DataError(
            f"{folder} is being written by another run; wait for it, or name another with -o"
        ) from error
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        clear_unfinished(folder)
        yield _claim(folder, about, resume)
    finally:
        lock.release()


def _claim(folder: Path, about: Mapping[str, Any], resume: bool) -> bool:
    path = folder / "training.json"
    # Nothing was trained where the options were refused after the folder was claimed.
    trained = any(file.suffix in (".safetensors", ".dcp") for file in folder.iterdir())
    if not (path.exists() and trained):
        text = json.dumps({"schema": SCHEMA, **about}, indent=1)
        with whole_file(path, len(text)) as part:
            part.write_text(text, encoding="utf-8")
        return False
    if not resume:
        raise DataError(
            f"{folder} holds a training already; go on with --resume auto, or name another folder "
            "with -o"
        )
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read; name another folder with -o") from error
    if differs := _difference(old, json.loads(json.dumps(about))):
        raise DataError(
            f"{folder} holds a training with another {differs}; name another folder with -o, or "
            "give the same options"
        )
    return True


def _difference(old: Any, new: Mapping[str, Any], inside: str = "") -> str:
    """The first thing that differs, in words; "" where nothing does."""
    for name, value in new.items():
        before = old.get(name) if isinstance(old, dict) else None
        if before == value:
            continue
        if isinstance(value, dict) and isinstance(before, dict):
            if found := _difference(before, value, f"{name}: "):
                return found
            continue
        short = isinstance(value, str | int | float | None)
        return f"{inside}{name} ({before}, not {value})" if short else f"{inside}{name}"
    return ""
