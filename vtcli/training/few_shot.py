"""Training on a part of the videos of each class: `--few-shot K`, `--learning-curve`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vtcli.data.samples import Dataset, Sample, labels_by_head
from vtcli.data.splits import TrainValSplit
from vtcli.errors import DataError


def few_shot(split: TrainValSplit, videos: int, seed: int) -> TrainValSplit:
    """The split with `videos` training videos of each class of its first head, and what was done.

    A video with several labels is one of each of its classes, some of which then have more.

    Raises `DataError` naming a class that has fewer.
    """
    train = split.train
    names = next(iter(train.classes.values()))
    by_class: dict[int, list[Sample]] = {number: [] for number in range(len(names))}
    order = np.random.default_rng([seed, videos]).permutation(len(train.samples)).tolist()
    for number in order:
        sample = train.samples[number]
        for label in labels_by_head(sample, len(train.classes))[0]:
            by_class[label].append(sample)
    for number, samples in by_class.items():
        if len(samples) < videos:
            raise DataError(
                f"class '{names[number]}' has {len(samples)} training videos, fewer than "
                f"--few-shot {videos}; lower it, or add videos"
            )
    kept = {sample.id for samples in by_class.values() for sample in samples[:videos]}
    chosen = tuple(sample for sample in train.samples if sample.id in kept)
    note = f"{videos} videos of each class are trained on, {len(chosen)} of {len(train.samples)}"
    return replace(split, train=replace(train, samples=chosen), summary=(*split.summary, note))


def first_part(train: Dataset, numbers: Sequence[int], fraction: float) -> set[int]:
    """Of these videos, in their order, the first `fraction` of each class: at least one.

    A video with several labels is taken where one of its classes has too few yet.
    """
    heads = len(train.classes)
    labels_of = {
        number: [
            (head, label)
            for head, labels in enumerate(labels_by_head(train.samples[number], heads))
            for label in labels
        ]
        for number in numbers
    }
    counts = Counter(label for labels in labels_of.values() for label in labels)
    missing = {label: max(1, round(fraction * count)) for label, count in counts.items()}
    kept = set()
    for number, labels in labels_of.items():
        if any(missing[label] > 0 for label in labels):
            kept.add(number)
            for label in labels:
                missing[label] -= 1
    return kept


def unvalidated_classes(split: TrainValSplit) -> str:
    """A sentence on classes that have no validation video; empty where all have some."""
    heads = len(split.train.classes)
    missing = []
    for position, names in enumerate(split.train.classes.values()):
        seen = {
            label
            for sample in split.validation.samples
            for label in labels_by_head(sample, heads)[position]
        }
        missing += [name for number, name in enumerate(names) if number not in seen]
    if not missing:
        return ""
    listed = ", ".join(f"'{name}'" for name in missing[:3]) + (", ..." if missing[3:] else "")
    return (
        f"warning: {len(missing)} of the classes ({listed}) have no validation video, so accuracy "
        "says nothing about them; add a second video of each"
    )
