"""What is trained on and what is validated on: two parts of a dataset that share classes and no
video.

Classes are those of the training part; names decide where both parts have them. Where a dataset
has no validation part, some videos of every class are held out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vtcli.data.catalog import known_entry
from vtcli.data.open import list_splits, open_dataset
from vtcli.data.samples import Dataset, Sample, labels_by_head, require_labels
from vtcli.errors import DataError

NAMES_SHOWN = 3
_SIDES = re.compile(r"\b(left|right|(counter|anti)?-?clockwise)(wards?)?\b", re.IGNORECASE)


@dataclass(frozen=True)
class TrainValSplit:
    """The training and the validation part; `summary` says in sentences how they came about.

    Both have the same class names in every head, and every class has training samples.
    """

    train: Dataset
    validation: Dataset
    summary: tuple[str, ...]

    @property
    def flip_sensitive(self) -> bool:
        """Whether mirroring a video may change its class, by the catalog or by the names."""
        entry = known_entry(self.train.name)
        named = (name for names in self.train.classes.values() for name in names)
        return bool(entry and entry.flip_sensitive) or any(
            _SIDES.search(name.replace("_", " ")) for name in named
        )


def split_train_val(
    dataset: str | Path,
    root: Path | None = None,
    split: str | None = None,
    val_split: str | None = None,
    val_fraction: float = 0.2,
    format: str | None = None,
    seed: int = 0,
) -> TrainValSplit:
    """The two parts of a dataset that `open_dataset` reads.

    By default those called train and validation (else test); of a dataset without parts, and where
    `split` alone is named, `val_fraction` of each class's videos are held out.
    Raises what `open_dataset` raises, and `DataError` for one class only, classes without videos,
    samples without a label and labels outside the classes.
    """
    names = list_splits(dataset, root, format)
    first = split or next((name for name in ("train", "train1") if name in names), None)
    second = val_split or (None if split else _validation_of(first, names))
    train = _checked(open_dataset(dataset, root, first, format))
    _refuse_empty_folders(train)
    if second is None:
        return _hold_out(train, val_fraction, seed)
    validation = _with_classes(open_dataset(dataset, root, second, format), train.classes)
    shared = {s.path for s in train.samples} & {s.path for s in validation.samples}
    if first == second:
        raise DataError(f"training and validation are both '{first}'; name another --val-split")
    notes = [train.summary, validation.summary]
    if shared:
        notes.append(f"warning: {len(shared)} videos are in both parts, such as {min(shared)}")
    return TrainValSplit(train, validation, tuple(notes))


def _validation_of(train: str | None, names: Sequence[str]) -> str | None:
    wanted = ("1",) if train == "train1" else ("validation", "test")
    return next((name for name in wanted if name in names), None) if train else None


def _checked(dataset: Dataset) -> Dataset:
    """The dataset with a name for every class; see `split_train_val` for what is refused."""
    require_labels(dataset, "train on")
    classes = {
        head: names or _numbers(labels_of(dataset, place))
        for place, (head, names) in enumerate(dataset.classes.items())
    }
    for place, (head, names) in enumerate(classes.items()):
        _check_head(dataset, place, head, names)
    return replace(dataset, classes=classes)


def labels_of(dataset: Dataset, place: int) -> set[int]:
    """The labels that a head's samples have."""
    if len(dataset.heads) == 1:
        return {label for sample in dataset.samples for label in sample.labels}
    return {sample.labels[place] for sample in dataset.samples}


def _numbers(used: set[int]) -> tuple[str, ...]:
    """Names for classes that only have numbers."""
    return tuple(f"class {number}" for number in range(max(used) + 1))


def _check_head(dataset: Dataset, place: int, head: str, names: Sequence[str]) -> None:
    if len(names) < 2:
        raise DataError(
            f"{dataset.name} has only one class ({', '.join(names)}); there is nothing to tell "
            "apart, add another"
        )
    used = labels_of(dataset, place)
    if outside := sorted(label for label in used if not 0 <= label < len(names)):
        raise DataError(
            f"{dataset.name} has the label {outside[0]}, and {head} has {len(names)} classes "
            f"(0 to {len(names) - 1}); correct the annotation"
        )
    if missing := [name for index, name in enumerate(names) if index not in used]:
        listed = ", ".join(f"'{name}'" for name in missing[:NAMES_SHOWN])
        raise DataError(
            f"{len(missing)} of the {len(names)} classes of {dataset.name} have no training "
            f"videos ({listed}{', ...' if len(missing) > NAMES_SHOWN else ''}); add some, or leave "
            "the classes out of the annotation"
        )


def _refuse_empty_folders(dataset: Dataset) -> None:
    """A class folder without videos is no class to a reader; its maker thinks that it is one."""
    names = next(iter(dataset.classes.values()))
    homes = [_class_folder(sample, names) for sample in dataset.samples]
    if not all(homes):
        return
    for parent in sorted({home.parent for home in homes if home}):
        for folder in sorted(p for p in parent.iterdir() if p.is_dir()):
            if not folder.name.startswith(".") and folder not in homes:
                raise DataError(
                    f"the class folder {folder} holds no videos; add some, or remove the folder"
                )


def _class_folder(sample: Sample, names: Sequence[str]) -> Path | None:
    """The folder above a video that bears its class's name."""
    wanted = {names[label] for label in sample.labels}
    return next((folder for folder in sample.path.parents if folder.name in wanted), None)


def _with_classes(dataset: Dataset, classes: Mapping[str, tuple[str, ...]]) -> Dataset:
    """A validation part numbered by the training part's classes; raises `DataError` where a label
    is none of them.
    """
    if tuple(dataset.classes) != tuple(classes):
        raise DataError(
            f"the validation part of {dataset.name} is labeled with "
            f"{' and '.join(dataset.classes)}, the training part with {' and '.join(classes)}"
        )
    places = {
        head: [names.index(n) if n in names else -1 for n in dataset.classes[head]]
        for head, names in classes.items()
    }
    heads = list(classes)

    def numbered(sample: Sample) -> Sample:
        labels = []
        for place, label in enumerate(sample.labels):
            head = heads[place if len(heads) > 1 else 0]
            found = places[head] if dataset.classes[head] else range(len(classes[head]))
            index = found[label] if 0 <= label < len(found) else -1
            if index < 0:
                said = dataset.classes[head]
                name = f"'{said[label]}'" if 0 <= label < len(said) else str(label)
                raise DataError(
                    f"{sample.id} of the validation part is labeled {name}, which no training "
                    "video is; correct the annotation"
                )
            labels.append(index)
        return replace(sample, labels=tuple(labels))

    labeled = [numbered(sample) for sample in dataset.samples if sample.labels]
    if not labeled:
        raise DataError(
            f"{dataset.name} {dataset.split} has no labeled samples to validate on; "
            "name another --val-split"
        )
    return replace(dataset, samples=tuple(labeled), classes=classes)


def _hold_out(dataset: Dataset, fraction: float, seed: int) -> TrainValSplit:
    """Some videos of every class, at random but always the same; all segments of a video go
    together, and every class of every head keeps a training video.
    """
    heads = len(dataset.classes)
    classes: dict[Path, set[tuple[int, int]]] = {}  # of each video, by head
    for sample in dataset.samples:
        for head, labels in enumerate(labels_by_head(sample, heads)):
            classes.setdefault(sample.path, set()).update((head, label) for label in labels)
    left = Counter(found for each in classes.values() for found in each)
    order = np.random.default_rng(seed).permutation(len(dataset.samples))
    groups: dict[tuple[int, ...], dict[Path, None]] = {}  # the videos of each class, in order
    for number in order.tolist():
        sample = dataset.samples[number]
        groups.setdefault(sample.labels[:1], {})[sample.path] = None
    held: set[Path] = set()
    for videos in groups.values():
        wanted = max(1, round(len(videos) * fraction))
        for path in videos:
            if path not in held and all(left[found] > 1 for found in classes[path]):
                held.add(path)
                left.subtract(classes[path])
            wanted -= path in held
            if not wanted:
                break
    parts = {True: [s for s in dataset.samples if s.path in held]}
    parts[False] = [s for s in dataset.samples if s.path not in held]
    if not parts[True]:
        raise DataError(
            f"no class of {dataset.name} has a second video to validate on; add videos, or name a "
            "validation part with --val-split"
        )
    train = _checked(replace(dataset, samples=tuple(parts[False])))
    note = f"{len(parts[True])} of the {len(dataset.samples)} samples are held out for validation"
    return TrainValSplit(train, replace(train, samples=tuple(parts[True])), (dataset.summary, note))
