"""Training and validation splits: two parts of a dataset that share classes and no video.

Classes are those of the training split; names decide if both splits have them. If a dataset has no
validation split, some videos of every class are held out.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from vtcli.data.annotations.folders import split_in
from vtcli.data.catalog import known_entry
from vtcli.data.grouping import copies_between, group_videos
from vtcli.data.open import DatasetReader
from vtcli.data.samples import Dataset, Sample, labels_by_head, require_files, require_labels
from vtcli.data.sides import direction_sensitive
from vtcli.errors import DataError
from vtcli.runtime.words import first_of, plural

NAMES_SHOWN = 3


@dataclass(frozen=True)
class TrainValSplit:
    """The training and the validation split; `summary` says in sentences where they come from.

    Both have the same class names in every head, and every class has training samples. `groups` is
    the group of each video where the validation split was held out (`group_videos`).
    """

    train: Dataset
    validation: Dataset
    summary: tuple[str, ...]
    groups: Mapping[Path, str] = field(default_factory=dict)

    def group_of(self, sample: Sample) -> str:
        """What must not be divided when videos are held out: its group, or else its video."""
        return self.groups.get(sample.path, str(sample.path))

    @property
    def flip_sensitive(self) -> bool:
        """Whether a horizontal flip may change the class, by the catalog or by class names."""
        entry = known_entry(self.train.name)
        return bool(entry and entry.flip_sensitive) or bool(self.direction_classes)

    @property
    def direction_classes(self) -> tuple[str, ...]:
        """The class names that name a direction."""
        return tuple(n for names in self.train.classes.values() for n in direction_sensitive(names))


def split_train_val(
    dataset: str | Path,
    root: Path | None = None,
    split: str | None = None,
    val_split: str | None = None,
    val_fraction: float = 0.2,
    format: str | None = None,
    seed: int = 0,
    group_by: str | None = None,
) -> TrainValSplit:
    """The training and validation splits of a dataset that `open_dataset` can open.

    split, val_split: by default the splits named train and validation (else test).
    val_fraction: the fraction of each class's videos that is held out if the dataset has no splits,
        or if only `split` is given.
    seed: of the random choice of videos to hold out.
    group_by: what says which videos to hold out together; see `vtcli.data.grouping.group_videos`.
    Each annotation file is read once. Raises what `open_dataset` raises, and `DataError` for a
    single class, classes without training videos, unlabeled samples and labels outside the classes.
    """
    reader = DatasetReader(dataset, root, format)
    names = reader.list_splits()
    first = split or next((name for name in ("train", "train1") if name in names), None)
    second = val_split or (None if split else _validation_of(first, names))
    if first is None and len(names) > 1:
        raise DataError(
            f"{dataset} has the splits {', '.join(names)}, and none is 'train'; name the one to "
            f"train on, such as --split {names[0]} --val-split {names[1]}"
        )
    train = _checked(reader.open(first))
    _refuse_empty_folders(train)
    if second is None:
        held = _hold_out(train, val_fraction, seed, group_by)
        unused = [] if split else [name for name in names if name != first]
        hint = [
            f"warning: split '{n}' is not used; validate on it with --val-split {n}" for n in unused
        ]
        return replace(held, summary=(*held.summary, *hint))
    validation = _with_classes(reader.open(second), train.classes)
    shared = {s.path for s in train.samples} & {s.path for s in validation.samples}
    if first == second:
        raise DataError(f"training and validation are both '{first}'; name another --val-split")
    notes = [train.summary, validation.summary]
    if shared:
        found = plural(len(shared), "video is", "videos are")
        notes.append(f"warning: {found} in both splits, such as {min(shared)}")
    elif copied := copies_between(train, validation):
        found = plural(len(copied), "validation video has", "validation videos have")
        notes.append(f"warning: {found} the content of training videos, such as {copied[0]}")
    return TrainValSplit(train, validation, tuple(notes))


def _validation_of(train: str | None, names: Sequence[str]) -> str | None:
    wanted = ("1",) if train == "train1" else ("validation", "test")
    return next((name for name in wanted if name in names), None) if train else None


def _checked(dataset: Dataset) -> Dataset:
    """The dataset with a name for every class; see `split_train_val` for what is refused."""
    require_labels(dataset, "train on")
    require_files(dataset, "train on")
    classes = {
        head: names or _numbered_names(labels_of(dataset, position))
        for position, (head, names) in enumerate(dataset.classes.items())
    }
    for position, (head, names) in enumerate(classes.items()):
        _check_head(dataset, position, head, names)
    return replace(dataset, classes=classes)


def labels_of(dataset: Dataset, position: int) -> set[int]:
    """The labels that occur in the head at `position`."""
    if len(dataset.heads) == 1:
        return {label for sample in dataset.samples for label in sample.labels}
    return {sample.labels[position] for sample in dataset.samples}


def _numbered_names(used: set[int]) -> tuple[str, ...]:
    """Names for classes that only have numbers."""
    return tuple(f"class {number}" for number in range(max(used) + 1))


def _check_head(dataset: Dataset, position: int, head: str, names: Sequence[str]) -> None:
    if len(names) < 2:
        raise DataError(
            f"{dataset.name} has only one class ({', '.join(names)}); training needs at least two, "
            + (_inner_classes(dataset) or "add another")
        )
    used = labels_of(dataset, position)
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


def _inner_classes(dataset: Dataset) -> str:
    """What to do where the only class folder holds folders, which may be the classes."""
    folders = [Path(sample.id).parent for sample in dataset.samples]
    shared = Path(os.path.commonpath(folders)) if len({*folders}) > 1 else Path()
    if split_in(shared.name):
        shared = shared.parent
    if shared == Path():
        return ""
    return f"and if the folders in it are the classes, give --dataset {dataset.root / shared}"


def _refuse_empty_folders(dataset: Dataset) -> None:
    """An empty class folder is most likely a class whose videos were not copied."""
    empty = next((found for found in dataset.skipped if found.kind == "empty"), None)
    if empty:
        raise DataError(
            f"the class folder {dataset.root / empty.path} holds no videos; add some, or "
            "remove the folder"
        )


def _with_classes(dataset: Dataset, classes: Mapping[str, tuple[str, ...]]) -> Dataset:
    """A validation split with the training split's class indices.

    Raises `DataError` if a label is not one of the classes.
    """
    if tuple(dataset.classes) != tuple(classes):
        raise DataError(
            f"the validation split of {dataset.name} is labeled with "
            f"{' and '.join(dataset.classes)}, the training split with {' and '.join(classes)}; "
            "name another --val-split"
        )
    for head, names in classes.items():
        if not dataset.classes[head] and names != _numbered_names(set(range(len(names)))):
            raise DataError(
                f"the validation split of {dataset.name} is labeled with numbers, the training "
                "split with names; write class names in both"
            )
    heads = list(classes)
    new_index = {
        head: [names.index(n) if n in names else -1 for n in dataset.classes[head]]
        for head, names in classes.items()
    }

    def convert(sample: Sample) -> Sample:
        labels = []
        for position, label in enumerate(sample.labels):
            head = heads[position if len(heads) > 1 else 0]
            names = dataset.classes[head]
            indices = new_index[head] if names else range(len(classes[head]))
            index = indices[label] if 0 <= label < len(indices) else -1
            if index < 0:
                name = f"'{names[label]}'" if 0 <= label < len(names) else str(label)
                raise DataError(
                    f"{sample.id} of the validation split is labeled {name}, but no training video "
                    "is; correct the annotation"
                )
            labels.append(index)
        return replace(sample, labels=tuple(labels))

    labeled = [convert(sample) for sample in dataset.samples if sample.labels]
    if not labeled:
        raise DataError(
            f"{dataset.name} {dataset.split} has no labeled samples to validate on; "
            "name another --val-split"
        )
    return replace(dataset, samples=tuple(labeled), classes=classes)


def _hold_out(
    dataset: Dataset, fraction: float, seed: int, group_by: str | None = None
) -> TrainValSplit:
    """Hold out a random fraction of every class's videos, the same for the same seed.

    All segments of a video stay together, as do copies and cuts of one source, and every class of
    every head keeps a training video.
    """
    groups = group_videos(dataset, group_by)
    held = _choose_videos(dataset, fraction, seed, groups.of)
    warnings = list(groups.summary)
    if not held and (held := _choose_videos(dataset, fraction, seed)):
        warnings.append(
            "warning: no class has videos of two sources, so validation videos have copies or "
            "cuts of the same source among the training videos; their accuracy says little"
        )
    held_out = tuple(s for s in dataset.samples if s.path in held)
    if not held_out:
        raise DataError(
            f"no class of {dataset.name} has a second video to validate on; add videos, or name a "
            "validation split with --val-split"
        )
    kept = tuple(s for s in dataset.samples if s.path not in held)
    train = _checked(replace(dataset, samples=kept))
    note = f"{len(held_out)} of the {len(dataset.samples)} samples are held out for validation"
    if alone := _not_held_out(dataset, held_out):
        warnings.append(f"warning: no video is held out of {first_of(alone)}, which has one source")
    notes = (dataset.summary, note, *warnings)
    return TrainValSplit(train, replace(train, samples=held_out), notes, groups.of)


def _not_held_out(dataset: Dataset, held_out: Sequence[Sample]) -> list[str]:
    """The classes of the first head without a held-out sample."""
    names = next(iter(dataset.classes.values()))
    found = {label for sample in held_out for label in sample.labels[:1]}
    used = {label for sample in dataset.samples for label in sample.labels[:1]}
    return [names[label] for label in sorted(used - found)]


def _choose_videos(
    dataset: Dataset, fraction: float, seed: int, groups: Mapping[Path, str] | None = None
) -> set[Path]:
    """The videos to hold out: whole groups, in random order, up to the fraction of each class.

    groups: the group of each video; None: each is its own.
    """
    group_of = groups or {sample.path: str(sample.path) for sample in dataset.samples}
    heads = len(dataset.classes)
    classes: dict[Path, set[tuple[int, int]]] = {}  # (head, label) pairs of each video
    for sample in dataset.samples:
        for head, labels in enumerate(labels_by_head(sample, heads)):
            classes.setdefault(sample.path, set()).update((head, label) for label in labels)
    members: dict[str, list[Path]] = {}
    for path in classes:
        members.setdefault(group_of[path], []).append(path)
    remaining = Counter(found for each in classes.values() for found in each)
    order = np.random.default_rng(seed).permutation(len(dataset.samples))
    by_class: dict[tuple[int, ...], dict[str, set[Path]]] = {}  # groups in random order
    for number in order.tolist():
        sample = dataset.samples[number]
        by_group = by_class.setdefault(sample.labels[:1], {})
        by_group.setdefault(group_of[sample.path], set()).add(sample.path)
    held: set[str] = set()

    def hold(group: str) -> bool:
        """Hold out a group if every class keeps a training video."""
        lost = Counter(found for path in members[group] for found in classes[path])
        if group not in held and all(remaining[found] > n for found, n in lost.items()):
            held.add(group)
            remaining.subtract(lost)
        return group in held

    for by_group in by_class.values():
        wanted = max(1, round(sum(map(len, by_group.values())) * fraction))
        for group, videos in by_group.items():
            if (len(videos) <= wanted or group in held) and hold(group):
                wanted -= len(videos)
            if wanted <= 0:
                break
        if not held & by_group.keys():
            # Every group is larger than the fraction: the smallest one that can be held out.
            next(filter(hold, sorted(by_group, key=lambda group: len(by_group[group]))), None)
    return {path for group in held for path in members[group]}
